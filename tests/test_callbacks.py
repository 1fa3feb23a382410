"""Watching a training run: what is logged, what it leaves alone, and that heatmaps move to the object."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from models import SmallNet, bystander_state, images
from torch.utils.data import DataLoader, TensorDataset

import camfast
from camfast.callbacks import Watch, huggingface_callback, lightning_callback

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def read(directory):
    sizes = {accumulator.IMAGES: 0, accumulator.SCALARS: 0}
    log = accumulator.EventAccumulator(str(directory), sizes).Reload()
    return {tag: [image.step for image in log.Images(tag)] for tag in log.Tags()["images"]}, log


def data(n=24):
    x = images(n)
    return x, torch.arange(n) % 5


def test_logs_every_n_steps_and_returns_the_explanation(tmp_path):
    model = SmallNet()
    x, labels = data(3)
    with Watch(model, x, "body", every=4, writer=tmp_path, targets=labels, features=["stem.0", "body.0"]) as watch:
        returned = [watch() for _ in range(9)]
    assert [i for i, result in enumerate(returned) if result is not None] == [0, 4, 8]
    steps, log = read(tmp_path)
    assert steps == {"heatmaps": [0, 4, 8], "features/stem.0": [0, 4, 8], "features/body.0": [0, 4, 8]}
    first = log.Images("heatmaps")[0]
    assert first.height > 300 and first.width > 3 * 224  # large enough to see
    assert log.Images("features/body.0")[0].width > 4 * 90
    assert [event.step for event in log.Scalars("heatmap milliseconds")] == [0, 4, 8]
    assert watch.logs == 3 and watch.seconds > 0
    expected = camfast.grad_cam(model, x, labels, "body").heatmap
    torch.testing.assert_close(returned[8].heatmap, expected)
    with pytest.raises(RuntimeError, match="closed"):
        watch()


def test_every_target_has_its_heat_and_its_curve(tmp_path, monkeypatch):
    drawn = []
    figure = camfast.Explanation.figure
    monkeypatch.setattr(
        camfast.Explanation, "figure", lambda self, *a, **k: drawn.append(self) or figure(self, *a, **k)
    )
    model, (x, _) = SmallNet(), data(2)
    names = ["zero", "one", "two", "three", "four"]
    targets = [[4, camfast.targets.Contrast(4, "one")], [1, 0]]
    with Watch(model, x, every=5, writer=tmp_path, targets=targets, class_names=names, normalize=(0, 2.0)) as watch:
        first = watch(0)
        torch.nn.init.zeros_(model.fc.weight)
        for step in range(1, 5):
            assert watch(step) is None
    assert [one.heatmap.shape for one in drawn] == [(2, 2, 16, 20)] * 2 and drawn[0].scale == (0, 2.0)
    steps, log = read(tmp_path)
    assert steps["heatmaps"] == [0, 4]  # the last step too
    tags = [tag for tag in log.Tags()["scalars"] if tag.startswith("scores/")]
    assert sorted(tags) == [
        "scores/image 0 Contrast(four, one)",
        "scores/image 0 four",
        "scores/image 1 one",
        "scores/image 1 zero",
    ]
    values = [event.value for event in log.Scalars("scores/image 1 one")]
    last = model.eval()(x).softmax(1)[1, 1].item()
    assert values == pytest.approx([first.scores.softmax(1)[1, 1].item(), last]) and values[0] != values[1]


def test_the_last_step_is_logged_once_and_not_after_an_error(tmp_path):
    x, _ = data(1)
    with Watch(SmallNet(), x, every=2, writer=tmp_path / "due", targets=camfast.TopK(2)) as watch:
        for step in range(3):
            watch(step)
    steps, log = read(tmp_path / "due")
    assert steps["heatmaps"] == [0, 2]
    assert {tag for tag in log.Tags()["scalars"] if "best" in tag} == {"scores/image 0 best 1", "scores/image 0 best 2"}
    with Watch(SmallNet(), x, every=2, writer=tmp_path / "own") as watch:
        watch(0)
        watch(1)
        watch.log(7)
    assert read(tmp_path / "own")[0]["heatmaps"] == [0, 7]
    with (
        pytest.raises(KeyError),
        Watch(SmallNet(), x, every=9, writer=tmp_path / "error") as watch,
    ):
        watch(0)
        watch(1)
        raise KeyError
    assert read(tmp_path / "error")[0]["heatmaps"] == [0]
    with Watch(SmallNet(), x, writer=tmp_path / "none"):
        pass
    assert read(tmp_path / "none")[0] == {}


def test_more_than_a_figure_holds(tmp_path):
    with Watch(SmallNet(), data(1)[0].expand(90, -1, -1, -1), writer=tmp_path, targets="all") as watch:
        watch(0)
    _, log = read(tmp_path)
    assert log.Images("heatmaps")[0].width > 6 * 224
    assert len([tag for tag in log.Tags()["scalars"] if tag.startswith("scores/")]) == 100


def train(model, steps, watch=None):
    torch.manual_seed(0)
    x, labels = data()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for step in range(steps):
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
        if watch is not None:
            before = bystander_state(model)
            watch(step)
            after = bystander_state(model)
            assert all(before[key] == after[key] for key in ("hooks", "training", "requires_grad", "identity"))
            assert all(torch.equal(before["grad"][name], after["grad"][name]) for name in before["grad"])
    return model.state_dict()


def test_training_is_the_same_with_a_watch(tmp_path):
    """Dropout's random numbers and the running means included."""
    torch.manual_seed(1)
    plain, watched = SmallNet(), SmallNet()
    watched.load_state_dict(plain.state_dict())
    with Watch(watched, data(2)[0], every=2, writer=tmp_path) as watch:
        after = train(watched, 5, watch)
    assert not [t for t in threading.enumerate() if t.name == "camfast-watch"]
    for name, value in train(plain, 5).items():
        assert torch.equal(value, after[name])


def test_errors_of_the_writing_thread_are_raised(tmp_path):
    class Full:
        def add_image(self, *args, **kwargs):
            raise OSError("no space left")

    watch = Watch(SmallNet(), data(1)[0], every=1, writer=Full())
    watch()
    with pytest.raises(OSError, match="no space left"):
        watch.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "1 step or more"),
        ({"normalize": (1, 0)}, "low below high"),
        ({"method": "x"}, "method must be one of"),
        ({"layers": "bady"}, "'body'"),
    ],
)
def test_bad_arguments(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Watch(SmallNet(), data(1)[0], writer=tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_heat_moves_to_the_object_as_a_network_learns(tmp_path):
    pytest.importorskip("sklearn")
    path = Path(__file__).resolve().parent.parent / "examples" / "watch_training.py"
    spec = importlib.util.spec_from_file_location("watch_training", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    shares, _, watch = example.train(tmp_path, steps=120, every=60)
    assert len(shares) == watch.logs == 3
    chance = (example.DIGIT / example.SIDE) ** 2
    assert shares[0] < 2 * chance
    assert shares[-1] > 3 * chance
    assert read(tmp_path)[0]["heatmaps"] == [0, 60, 120]


def test_lightning(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = SmallNet()

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, index):
            return F.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    callback = lightning_callback(data(2)[0], "net.body", every=3, writer=tmp_path / "log")
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", callbacks=[callback], **quiet)
    trainer.fit(Module(), DataLoader(TensorDataset(*data()), batch_size=6))
    steps, _ = read(tmp_path / "log")
    assert steps["heatmaps"] == steps["features/net.body"] == [0, 3, 6, 7]
    with pytest.raises(ValueError, match="expected writer="):
        lightning.Trainer(max_epochs=1, accelerator="cpu", callbacks=[lightning_callback(data(2)[0])], **quiet).fit(
            Module(), DataLoader(TensorDataset(*data()), batch_size=6)
        )


def test_huggingface(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=5
    )
    model = transformers.ResNetForImageClassification(config)
    x, labels = data()
    dataset = [{"pixel_values": image, "labels": int(label)} for image, label in zip(x, labels, strict=True)]
    callback = huggingface_callback({"pixel_values": x[:2]}, every=2, writer=tmp_path / "log", targets=labels[:2])
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        max_steps=4,
        per_device_train_batch_size=4,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    transformers.Trainer(model, arguments, train_dataset=dataset, callbacks=[callback]).train()
    steps, _ = read(tmp_path / "log")
    assert steps["heatmaps"] == [0, 2, 3]
    assert len(steps) == 2
