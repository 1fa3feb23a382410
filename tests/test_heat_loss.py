"""A loss on heat in training: in a plain loop, in Lightning's trainer and in Hugging Face's; one pass a step, and logged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from interpreter import run_python
from models import SmallNet, images
from torch.utils.data import DataLoader, TensorDataset

import camfast
from camfast import losses
from camfast.callbacks import HeatLoss, huggingface_heat_loss, lightning_heat_loss

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def read(directory):
    log = accumulator.EventAccumulator(str(directory), {accumulator.IMAGES: 0, accumulator.SCALARS: 0}).Reload()
    curves = {tag: [(event.step, event.value) for event in log.Scalars(tag)] for tag in log.Tags()["scalars"]}
    return curves, {tag: [image.step for image in log.Images(tag)] for tag in log.Tags()["images"]}


def data(n=8):
    masks = torch.zeros(n, 16, 20, dtype=torch.bool)
    masks[:, 4:12, 2:9] = True
    return images(n), torch.arange(n) % 5, masks


def outside(result, masks):
    return losses.energy_outside(result.heatmap, masks)


class Net(SmallNet):
    """Without dropout, so that steps can be compared; counts its passes in training mode."""

    def __init__(self):
        super().__init__()
        self.dropout = torch.nn.Identity()
        self.passes = 0

    def forward(self, x):
        self.passes += self.training
        return super().forward(x)


def by_hand(model, batch, weight):
    """The loss of a step and its gradients, by plain autograd on the layer's output."""
    x, labels, masks = batch
    features = model.body(model.stem(x))
    scores = model.head(features)
    (slope,) = torch.autograd.grad(scores.gather(1, labels[:, None]).sum(), features, create_graph=True)
    raw = (slope.mean((2, 3), keepdim=True) * features).sum(1).relu()

    def scaled(maps):
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        return (maps - low) / (high - low + 1e-7)

    heat = scaled(F.interpolate(scaled(raw)[:, None], x.shape[2:], mode="bilinear")[:, 0])
    share = (heat * masks).sum((1, 2)) / heat.sum((1, 2))
    loss = F.cross_entropy(scores, labels) + weight * (1 - share).mean()
    return loss, torch.autograd.grad(loss, list(model.parameters()))


def twins():
    torch.manual_seed(0)
    one, other = Net().train(), Net().train()
    other.load_state_dict(one.state_dict())
    return one, other


def test_a_step_is_what_plain_autograd_makes_of_it(tmp_path):
    model, twin = twins()
    x, labels, masks = data()
    with HeatLoss(model, outside, "body", weight=0.5, writer=tmp_path, every=2) as heat_loss:
        heat_loss(x, labels, masks)  # what must be known of a shape is found out
        model.load_state_dict(twin.state_dict())
        model.passes = 0
        result, term = heat_loss(x, labels, masks)
        loss = F.cross_entropy(result.scores, labels) + term
        loss.backward()
        assert model.passes == 1
    expected, gradients = by_hand(twin, (x, labels, masks), 0.5)
    torch.testing.assert_close(loss, expected)
    for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6, msg=name)
    for a, b in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_what_is_logged_and_when(tmp_path):
    model = Net().train()
    x, labels, masks = data()
    weights = []
    options = {"every": 3, "writer": tmp_path, "shown": 2}
    with HeatLoss(model, outside, weight=lambda step: weights.append(step) or 0.1 * step, **options) as heat_loss:
        terms = [heat_loss(x, labels, masks)[1].item() for _ in range(5)]
    assert weights == [0, 1, 2, 3, 4] and terms[0] == 0 and terms[3] > 0
    curves, pictures = read(tmp_path)
    assert pictures == {"heat on training images": [0, 3]}
    assert [step for step, _ in curves["heat loss"]] == [0, 3]
    assert curves["heat loss weighted"][1][1] == pytest.approx(terms[3])
    assert curves["heat loss"][1][1] == pytest.approx(terms[3] / 0.3, rel=1e-5)
    with pytest.raises(RuntimeError, match="expected an open HeatLoss"):
        heat_loss(x, labels, masks)
    heat_loss.close()


def test_training_with_it_moves_the_heat():
    torch.manual_seed(0)
    model = Net().train()
    x, labels, masks = data()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    heat_loss = HeatLoss(model, outside, "body")
    first = losses.energy_inside(camfast.grad_cam(model, x, labels, "body").heatmap, masks).mean()
    for _ in range(25):
        result, term = heat_loss(x, labels, masks)
        optimizer.zero_grad()
        (F.cross_entropy(result.scores, labels) + term).backward()
        optimizer.step()
    last = losses.energy_inside(camfast.grad_cam(model, x, labels, "body").heatmap, masks).mean()
    assert last > first + 0.2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss": "energy"}, TypeError, r"loss must be a function loss\(result, batch\), got str"),
        ({"weight": float("nan")}, ValueError, "weight must be a finite number or a function of the step, got nan"),
        ({"every": 0}, ValueError, "every must be 1 step or more"),
        ({"method": "x"}, ValueError, "method must be one of"),
        ({"method": "full_grad"}, ValueError, "method must explain a layer, got 'full_grad'"),
        ({"normalize": (1, 0)}, ValueError, "low below high"),
        ({"layers": "bady"}, ValueError, "'body'"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        HeatLoss(Net(), **{"loss": outside, **options})


def test_losses_that_are_none():
    x, labels, masks = data()
    with pytest.raises(ValueError, match=r"must return a scalar tensor, got shape \[8\]"):
        HeatLoss(Net(), lambda result, batch: result.heatmap.mean((1, 2)))(x, labels)
    with pytest.raises(ValueError, match="must return a scalar tensor, got float"):
        HeatLoss(Net(), lambda result, batch: 0.5)(x, labels)
    with pytest.raises(ValueError, match="the heat loss must be finite, got inf of finite heat at step 0"):
        HeatLoss(Net(), lambda result, batch: result.heatmap.mean() / 0)(x, labels)
    with pytest.raises(ValueError, match="use GradCAM, HiResCAM or LayerCAM"):
        HeatLoss(Net(), outside, method="score_cam")(x, labels, masks)


def test_errors_of_the_writing_thread_are_raised():
    class Full:
        def add_image(self, *args, **kwargs):
            raise OSError("no space left")

        add_scalar = add_image

    x, labels, masks = data()
    heat_loss = HeatLoss(Net(), outside, writer=Full(), every=1)
    heat_loss(x, labels, masks)
    with pytest.raises(OSError, match="no space left"):
        heat_loss.close()


# Lightning


def lightning_module(step):
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, index):
            return step(self, batch)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.05)

    return Module()


def fit(module, *callbacks, **options):
    lightning = pytest.importorskip("lightning.pytorch")
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=list(callbacks), **{"logger": False, **quiet, **options}
    )
    trainer.fit(module, DataLoader(TensorDataset(*data(8)), batch_size=4))
    return trainer


STEPS = {
    "a loss": (None, lambda module, batch: F.cross_entropy(module(batch[0]), batch[1])),
    "a dict": (None, lambda module, batch: {"loss": F.cross_entropy(module(batch[0]), batch[1]), "more": 1}),
    "of a part": ("net", lambda module, batch: F.cross_entropy(module.net(batch[0]), batch[1])),
}


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_lightning_trains_as_a_plain_loop(kind, accumulate, tmp_path):
    part, step = STEPS[kind]
    module = lightning_module(step)
    _, twin = twins()
    module.net.load_state_dict(twin.state_dict())
    callback = lightning_heat_loss(
        lambda result, batch: outside(result, batch[2]),
        "body" if part else "net.body",
        model=part,
        weight=0.5,
        every=1,
        writer=tmp_path,
    )
    fit(module, callback, accumulate_grad_batches=accumulate)
    optimizer = torch.optim.SGD(twin.parameters(), 0.05)
    for number, batch in enumerate(DataLoader(TensorDataset(*data(8)), batch_size=4)):
        _, gradients = by_hand(twin, batch, 0.5)
        for parameter, gradient in zip(twin.parameters(), gradients, strict=True):
            share = gradient / accumulate
            parameter.grad = share if parameter.grad is None else parameter.grad + share
        if (number + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
    for (name, ours), theirs in zip(module.net.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)
    assert "training_step" not in vars(module) and module.net.passes == 2
    curves, pictures = read(tmp_path)
    assert pictures["heat on training images"] and {"heat loss", "training loss"} <= set(curves)


PARALLEL = """
import sys
sys.path[:0] = {paths!r}
import torch
from test_heat_loss import Net, STEPS, fit, lightning_heat_loss, lightning_module, outside
import lightning.pytorch as lightning

class Last(lightning.Callback):
    def on_train_end(self, trainer, pl_module):
        assert type(trainer.model).__name__ == "DistributedDataParallel"
        torch.save(pl_module.net.state_dict(), sys.argv[1] + "/" + str(trainer.global_rank))

torch.set_num_threads(1)
module = lightning_module(STEPS["of a part"][1])
torch.manual_seed(0)
module.net = Net().eval()
loss = lightning_heat_loss(lambda result, batch: outside(result, batch[2]), "body", model="net", weight=0.5, writer=None)
fit(module, loss, Last(), strategy="ddp_fork", devices=2)
"""


def test_lightning_in_two_processes(tmp_path):
    """Four images in each make the step that eight make in one."""
    pytest.importorskip("lightning.pytorch")
    paths = [str(Path(__file__).parent), str(Path(camfast.__file__).parents[1])]
    done = run_python("-c", PARALLEL.format(paths=paths), tmp_path)
    assert done.returncode == 0, done.stderr
    torch.manual_seed(0)
    alone = Net().eval()
    _, gradients = by_hand(alone, data(8), 0.5)
    with torch.no_grad():
        for parameter, gradient in zip(alone.parameters(), gradients, strict=True):
            parameter -= 0.05 * gradient
    for rank in ("0", "1"):
        for name, value in torch.load(tmp_path / rank).items():
            torch.testing.assert_close(value, alone.state_dict()[name], rtol=1e-4, atol=1e-6, msg=f"{rank} {name}")


def test_lightning_logs_to_its_own_writer_and_for_every_logger(tmp_path):
    pytest.importorskip("lightning.pytorch")
    from lightning.pytorch.loggers import TensorBoardLogger

    callback = lightning_heat_loss(lambda result, batch: outside(result, batch[2]), "net.body", every=1)
    logger = TensorBoardLogger(tmp_path)
    trainer = fit(lightning_module(STEPS["a loss"][1]), callback, logger=logger, log_every_n_steps=1)
    assert float(trainer.callback_metrics["heat_loss"]) > 0
    curves, pictures = read(logger.log_dir)
    assert [step for step, _ in curves["heat loss"]] == [0, 1] == pictures["heat on training images"]
    assert len(curves["heat_loss"]) == 2


def test_lightning_compiled_runs_eagerly_and_trains_the_same():
    module = lightning_module(STEPS["of a part"][1])
    _, twin = twins()
    module.net.load_state_dict(twin.state_dict())
    loss = lightning_heat_loss(lambda result, batch: outside(result, batch[2]), "body", model="net", weight=0.5)
    fit(torch.compile(module, backend="eager"), loss)
    optimizer = torch.optim.SGD(twin.parameters(), 0.05)
    for batch in DataLoader(TensorDataset(*data(8)), batch_size=4):
        for parameter, gradient in zip(twin.parameters(), by_hand(twin, batch, 0.5)[1], strict=True):
            parameter.grad = gradient
        optimizer.step()
    for ours, theirs in zip(module.net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_lightning_steps_that_do_not_fit():
    def callback(**options):
        return lightning_heat_loss(lambda result, batch: outside(result, batch[2]), **options)

    skips = lightning_module(lambda module, batch: None)
    before = {name: value.clone() for name, value in skips.state_dict().items()}
    fit(skips, callback())
    assert all(torch.equal(value, before[name]) for name, value in skips.state_dict().items() if "running" not in name)
    elsewhere = lightning_module(lambda module, batch: F.cross_entropy(module.net(batch[0]), batch[1]))
    with pytest.raises(ValueError, match="must call the explained Module itself, got no call of it; name the module"):
        fit(elsewhere, callback())
    assert "training_step" not in vars(elsewhere)
    by_itself = lightning_module(STEPS["a loss"][1])
    by_itself.automatic_optimization = False
    with pytest.raises(ValueError, match="expected a module that Lightning optimises"):
        fit(by_itself, callback())
    with pytest.raises(ValueError, match="images='image' must be a part of the batch, got a batch of list"):
        fit(lightning_module(STEPS["a loss"][1]), callback(images="image"))


# Hugging Face


def hugging_face(tmp_path, subclass=None, loss=None, **options):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=5
    )
    model = transformers.ResNetForImageClassification(config)
    rows = [
        {"pixel_values": image, "labels": int(label), "mask": mask} for image, label, mask in zip(*data(8), strict=True)
    ]
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        **{"max_steps": 2, "per_device_train_batch_size": 2, **options},
    )
    return (subclass or transformers.Trainer)(
        model, arguments, train_dataset=rows, eval_dataset=rows, compute_loss_func=loss
    )


def test_hugging_face_adds_the_term(tmp_path):
    trainer = hugging_face(tmp_path)
    seen = []

    def loss(result, batch):
        assert result.scores.shape == (2, 5) and result.scores.requires_grad
        value = outside(result, batch["mask"])
        seen.append(value.item())
        return value

    heat_loss = huggingface_heat_loss(trainer, loss, extra=["mask"], weight=0.5, every=1, writer=tmp_path / "log")
    metrics = trainer.train()
    assert len(seen) == 2
    curves, pictures = read(tmp_path / "log")
    assert pictures["heat on training images"] == [0, 1]
    plain = [value for _, value in curves["training loss"]]
    assert metrics.training_loss == pytest.approx(sum(plain) / 2 + 0.5 * sum(seen) / 2, rel=1e-4)
    assert heat_loss.steps == 2
    evaluated = trainer.evaluate()
    assert evaluated["eval_loss"] > 0 and len(seen) == 2


def test_hugging_face_divides_the_term_as_the_loss(tmp_path):
    """Two batches of two make the gradient that one of four makes."""

    def mean_over_all(outputs, labels, num_items_in_batch=None):
        return F.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch

    found = []
    for size, accumulate in ((4, 1), (2, 2)):
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulate, "max_steps": 1}
        options |= {"learning_rate": 1.0, "max_grad_norm": 0, "optim": "sgd", "lr_scheduler_type": "constant"}
        trainer = hugging_face(tmp_path, loss=mean_over_all, **options)
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # of each batch by itself
                module.forward = lambda x: x
        trainer._get_train_sampler = lambda data: torch.utils.data.SequentialSampler(data)
        huggingface_heat_loss(
            trainer, lambda result, batch: outside(result, batch["mask"]), extra=["mask"], weight=3.0, writer=None
        )
        trainer.train()
        found.append([parameter.detach().clone() for parameter in trainer.model.parameters()])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_hugging_face_wraps_a_trainers_own_loss_and_says_what_is_missing(tmp_path):
    transformers = pytest.importorskip("transformers")

    class Doubled(transformers.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **others):
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **others)
            return (2 * loss, outputs) if return_outputs else 2 * loss

    trainer = hugging_face(tmp_path, Doubled)
    huggingface_heat_loss(
        trainer, lambda result, batch: outside(result, batch["mask"]), extra=["mask"], every=1, writer=tmp_path / "log"
    )
    trainer.train()
    assert read(tmp_path / "log")[0]["training loss"][0][1] > 2
    trainer = hugging_face(tmp_path)
    huggingface_heat_loss(trainer, lambda result, batch: outside(result, batch["area"]), extra=["area"], writer=None)
    with pytest.raises(
        ValueError, match=r"a batch must hold 'pixel_values', 'area', got .*remove_unused_columns=False"
    ):
        trainer.train()


def test_hugging_face_compiled(tmp_path):
    terms = []
    for compiled in (False, True):
        options = {"torch_compile": True, "torch_compile_backend": "eager"} if compiled else {}
        trainer = hugging_face(tmp_path, max_steps=1, **options)
        trainer._get_train_sampler = lambda data: torch.utils.data.SequentialSampler(data)
        loss = lambda result, batch: terms.append(outside(result, batch["mask"])) or terms[-1]  # noqa: E731
        huggingface_heat_loss(trainer, loss, extra=["mask"], writer=None)
        trainer.train()
    assert terms[0].requires_grad
    torch.testing.assert_close(terms[0], terms[1])
