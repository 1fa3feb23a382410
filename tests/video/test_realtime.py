"""camfast.Realtime: frames in, explained frames out."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import camfast
from camfast import ops
from camfast.ops import colormaps, reference
from camfast.pictures.preparation import Preparation
from camfast.video.realtime import network as realtime_network
from camfast.video.realtime.temporal import Smoother, Top

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture
def model(device):
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)).to(device)


def engine(model, **options):
    options = {"input_size": 32, "mean": MEAN, "std": STD, **options}
    return camfast.Realtime(model, **options)


def frames(n, height=40, width=60, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def by_hand(model, batch, targets=None):
    device = next(model.parameters()).device
    images = reference.preprocess(torch.from_numpy(batch), (32, 32), MEAN, STD).to(device)
    return camfast.grad_cam(model, images, targets, "3", size="map")


def test_is_the_composition_of_its_parts(model):
    batch = frames(2)
    expected = by_hand(model, batch)
    overlay = reference.overlay(torch.from_numpy(batch), expected.heatmap.cpu(), colormaps.table("inferno"), 0.6)
    run = engine(model, layers="3")
    for given in (batch, torch.from_numpy(batch)):
        result = run(given)
        torch.testing.assert_close(result.heatmap, expected.heatmap, rtol=0, atol=1e-4)
        torch.testing.assert_close(result.scores, expected.scores, rtol=0, atol=1e-4)
        assert torch.equal(result.targets, expected.targets)
        apart = (result.overlay().int() - overlay.int()).abs()
        assert (apart > 1).float().mean() < 0.01 and result.overlay().dtype == torch.uint8
    one = run(batch[1])
    assert one.overlay().shape == (40, 60, 3) and one.heatmap.shape == (8, 8) and one.scores.shape == (10,)
    torch.testing.assert_close(one.heatmap, expected.heatmap[1], rtol=0, atol=1e-4)
    assert one.milliseconds > 0 and one.box == (0, 0, 60, 40) and run.layers_in_use == ["3"]


def test_several_classes(model):
    batch = frames(2)
    run = engine(model, layers="3", targets=[4, 7])
    result = run(batch)
    expected = by_hand(model, batch, torch.tensor([[4, 7]] * 2))
    torch.testing.assert_close(result.heatmap, expected.heatmap, rtol=0, atol=1e-4)
    assert result.overlay().shape == (2, 2, 40, 60, 3) and result.targets.tolist() == [[4, 7], [4, 7]]
    run.targets = camfast.TopK(3)
    result = run(batch[0])
    assert result.overlay().shape == (3, 40, 60, 3) and len(result.labels()) == 3
    assert [name for name, _ in result.labels()] == [name for name, _ in result.ranking(3)]


def test_settings_act_from_the_next_frame_on(model):
    names = [f"thing {i}" for i in range(10)]
    frame = frames(1)[0]
    with engine(model, class_names=names) as run:
        first = run(frame)
        run.targets = "thing 6"
        assert run(frame).targets == 6 and run(frame).labels()[0][0] == "thing 6"
        run.targets, run.alpha = None, 0.0
        assert torch.equal(run(frame).overlay(), torch.from_numpy(frame))
        run.alpha, run.colormap = 1.0, "gray"
        shown = run(frame).overlay()
        assert torch.equal(shown[..., 0], shown[..., 1])
        run.method, run.layers = "hires_cam", "1"
        assert run(frame).heatmap.shape == (16, 16) and run.layers_in_use == ["1"]
        run.paused = True
        assert torch.equal(run(frames(1, seed=9)[0]).overlay(), run(frame).overlay())
        run.paused, run.method, run.layers, run.colormap, run.alpha = False, "grad_cam", None, "inferno", 0.6
        assert torch.equal(run(frame).overlay(), first.overlay())
        for name, wrong in [
            ("targets", "thing"),
            ("targets", 10),
            ("targets", []),
            ("method", "grad"),
            ("layers", "nowhere"),
            ("colormap", "rainbows"),
            ("alpha", 2),
            ("smooth", 1),
            ("every", 0),
        ]:
            before = getattr(run, name)
            with pytest.raises(ValueError):
                setattr(run, name, wrong)
            assert getattr(run, name) == before
        assert torch.equal(run(frame).overlay(), first.overlay())


def test_settings_from_another_thread(model):
    run, batch = engine(model), frames(4)
    wrong: list[Exception] = []

    def turn_knobs():
        try:
            for i in range(60):
                run.targets, run.alpha = (None if i % 2 else i % 10), i / 60
                run.method, run.layers = ("layer_cam", "1") if i % 3 else ("grad_cam", "3")
                run.smooth = 0.5 if i % 2 else 0.0
        except Exception as error:
            wrong.append(error)

    thread = threading.Thread(target=turn_knobs)
    thread.start()
    while thread.is_alive():
        assert run(batch[0]).overlay().shape == (40, 60, 3)
    thread.join()
    assert not wrong


def test_every_nth_frame(model):
    batch = frames(7)
    run = engine(model, layers="3", every=3)
    expected = by_hand(model, batch)
    for n, frame in enumerate(batch):
        result = run(frame)
        assert result.explained == (n % 3 == 0)
        torch.testing.assert_close(result.heatmap, expected.heatmap[n - n % 3], rtol=0, atol=1e-4)
        assert result.targets == expected.targets[n - n % 3]
    run.reset()
    mixed = [run(batch[:2]), run(batch[2:])]
    heat = torch.cat([result.heatmap for result in mixed])
    torch.testing.assert_close(heat, expected.heatmap[[0, 0, 0, 3, 3, 3, 6]], rtol=0, atol=1e-4)


def test_crop_puts_the_heat_in_the_middle(model):
    frame = np.full((40, 100, 3), 90, np.uint8)
    result = engine(model, fit="crop", alpha=0.5, targets=1)(frame)
    assert result.box == (30, 0, 70, 40)
    for outside in (result.overlay()[:, :29], result.overlay()[:, 71:]):
        assert (outside == 45).all()  # dimmed
    assert (result.overlay()[:, [29, 70]] == 235).all() and (result.overlay()[:, 30:70] != 45).any()
    whole = engine(model, fit="crop", alpha=0.0, targets=1)(frame)
    assert (whole.overlay() == 90).all()
    prepared = Preparation(36, (32, 32), MEAN, STD)
    run = engine(model, preparation=prepared, alpha=1.0)
    result = run(frame)
    left, top, right, bottom = (round(edge) for edge in result.box)
    heat = ops.overlay(
        torch.zeros(bottom - top, right - left, 3, dtype=torch.uint8), result.heatmap.cpu(), "inferno", 1.0
    )
    assert torch.equal(result.overlay()[top:bottom, left:right], heat)
    # An input larger than the frame: a margin around it, whose heat is not seen.
    assert engine(model, preparation=Preparation(20, (32, 32), MEAN, STD))(frame).overlay().shape == (40, 100, 3)
    tall = engine(model, fit="crop", alpha=0.5)(np.full((100, 40, 3), 90, np.uint8))
    assert (tall.overlay()[:29] == 45).all() and (tall.overlay()[71:] == 45).all()


def test_smoothing(device):
    smoother = Smoother()
    smoother.set_share(0.75, device)
    maps = torch.rand(5, 4, 4, device=device) * torch.tensor([1.0, 3, 1, 2, 1], device=device).view(-1, 1, 1)
    still = torch.zeros(5, 3, 16, 16, device=device)
    got = torch.cat([smoother(maps[:2], still[:2]), smoother(maps[2:], still[2:])])
    mean, top = maps[0], maps[0].max() - maps[0].min()
    for n, now in enumerate(maps):
        if n:
            mean, top = 0.75 * mean + 0.25 * now, 0.75 * top + 0.25 * (now.max() - now.min())
        expected = ((mean - mean.min()) / (top + 1e-7)).clamp(max=1)
        torch.testing.assert_close(got[n], expected, rtol=0, atol=1e-5)
    # A cut starts anew, and so does a map after one that is not finite.
    cut = smoother(maps[:1], still[:1] + 2)
    torch.testing.assert_close(cut[0], reference.min_max(maps[0]), rtol=0, atol=1e-6)
    assert smoother(maps[:1] * torch.nan, still[:1] + 2).isnan().all()
    torch.testing.assert_close(smoother(maps[1:2], still[:1] + 2)[0], reference.min_max(maps[1]), rtol=0, atol=1e-6)


def test_smooth_engine_changes_slowly(model):
    batch = frames(6)
    jumps = {}
    for smooth in (0.0, 0.8):
        heat = engine(model, smooth=smooth, targets=2)(batch).heatmap
        assert heat.min() >= 0 and heat.max() <= 1
        jumps[smooth] = (heat[1:] - heat[:-1]).abs().mean().item()
    assert jumps[0.8] < 0.5 * jumps[0.0]


def test_sticky_target(device):
    def scores(*rows):
        return torch.tensor(rows, device=device).log()

    plain, sticky = Top(), Top(sticky=0.2)
    flicker = scores([0.5, 0.4, 0.1], [0.44, 0.46, 0.1], [0.5, 0.4, 0.1], [0.2, 0.7, 0.1], [0.41, 0.49, 0.1])
    assert plain.pick(flicker).tolist() == [0, 1, 0, 1, 1]
    assert sticky.pick(flicker).tolist() == [0, 0, 0, 1, 1]
    assert sticky.pick(scores([0.5, 0.4, 0.1])).tolist() == [1]
    sticky.reset()
    assert sticky.pick(scores([0.5, 0.4, 0.1])).tolist() == [0]
    assert sticky.pick(torch.full((1, 3), torch.nan, device=device)).shape == (1,)


def test_bad_frames_and_bad_scores(model):
    run = engine(model)
    for wrong, error in [
        (frames(1)[..., :2], ValueError),
        (frames(1)[0, 0], ValueError),
        (frames(1)[:, :0], ValueError),
        (frames(1).astype(np.float32), TypeError),
        ([1, 2], TypeError),
    ]:
        with pytest.raises(error):
            run(wrong)
    # Mirrored, read-only and oddly sized frames, and a change of size.
    frame = frames(1)[0]
    assert torch.equal(run(frame[:, ::-1]).overlay(), run(np.ascontiguousarray(frame[:, ::-1])).overlay())
    frame.setflags(write=False)
    assert run(frame).overlay().shape == (40, 60, 3) and run(frames(1, 1, 1)[0]).overlay().shape == (1, 1, 3)
    assert run(frames(1, 41, 33)[0]).overlay().shape == (41, 33, 3)
    # A network that gives NaN leaves the frame as it is.
    with torch.no_grad():
        model[0].bias.fill_(torch.nan)
    result = run(frame)
    assert result.scores.isnan().all() and (result.overlay().numpy() == frame).all()
    run.targets = 10
    with pytest.raises(ValueError, match="0 to 9"):
        run(frame)
    with pytest.raises(TypeError, match=r"nn\.Module"):
        camfast.Realtime("resnet50")


def test_leaves_no_trace(model):
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    threads = threading.active_count()
    run = engine(model, targets=[1, 2], smooth=0.5)
    run(frames(2))
    run.close()
    with pytest.raises(RuntimeError, match="closed"):
        run(frames(1))
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert threading.active_count() == threads


def test_another_dtype_is_a_copy(model):
    run = engine(model, dtype=torch.bfloat16, layers=model[3])
    exact = engine(model, layers="3")(frames(1)[0])
    result = run(frames(1)[0])
    assert model[0].weight.dtype == torch.float32 and result.scores.dtype == torch.bfloat16
    torch.testing.assert_close(result.scores.float(), exact.scores, rtol=0, atol=0.05)


def test_the_layout_is_the_faster_one(model, device, monkeypatch):
    """Measured once on the CPU, and where nothing else was asked for; the model's own weights stay as they lie."""
    if device.type != "cpu":
        pytest.skip("on CUDA the layout is the weights'")
    asked = []

    def faster(measured, images):
        asked.append((measured, images.shape))
        return True

    monkeypatch.setattr("camfast.video.realtime.step.faster_in_channels_last", faster)
    expected = engine(model, channels_last=False)(frames(1)[0])
    assert not asked
    run = engine(model)
    assert run.channels_last is None
    for frame in frames(3):
        result = run(frame)
    assert run.channels_last is True and asked == [(model, (1, 3, 32, 32))]
    torch.testing.assert_close(run(frames(1)[0]).scores, expected.scores, rtol=0, atol=1e-4)
    assert result.overlay().shape == (40, 60, 3) and all(p.is_contiguous() for p in model.parameters())
    lying = model.to(memory_format=torch.channels_last)
    assert engine(lying).channels_last is True and len(asked) == 1
    assert engine(lying, channels_last=False).channels_last is False


def test_the_layout_is_measured(monkeypatch):
    seen, clock = [], [0.0]
    monkeypatch.setattr(realtime_network, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    faster_in_channels_last = realtime_network.faster_in_channels_last

    class Timed(nn.Module):
        def __init__(self, slow):
            super().__init__()
            self.conv, self.slow = nn.Conv2d(3, 4, 3), slow

        def forward(self, x):
            last = x.is_contiguous(memory_format=torch.channels_last)
            seen.append((last, self.training))
            clock[0] += 0.2 if last == self.slow else 0.1
            return self.conv(x)

    images = torch.ones(1, 3, 16, 16)
    for slow in (False, True):
        network = Timed(slow).train()
        assert faster_in_channels_last(network, images) is not slow
        assert network.training and network.conv.weight.grad is None
    assert {last for last, _ in seen} == {False, True} and not any(training for _, training in seen)
    assert not faster_in_channels_last(nn.Linear(4, 4), images)


def test_stream_is_a_call_a_frame(model):
    batch = frames(5)
    one, other = engine(model, layers="3", every=2), engine(model, layers="3", every=2)
    for result, frame in zip(one.stream(iter(batch)), batch, strict=True):
        same = other(frame)
        assert torch.equal(result.overlay().cpu(), same.overlay().cpu()) and result.explained == same.explained
        assert not result.overlay().is_cuda


def test_stream_of_frames_on_the_device(cuda):
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    model = nn.Sequential(*layers).to(cuda)
    batch = [torch.from_numpy(frame) for frame in frames(6)]
    mixed = [frame.to(cuda) if i != 3 else frame for i, frame in enumerate(batch)]  # one from memory among them
    expected = [engine(model, layers="1")(frame).overlay() for frame in batch]
    found = [result.overlay() for result in engine(model, layers="1").stream(iter(mixed))]
    assert [overlay.is_cuda for overlay in found] == [i != 3 for i in range(6)]
    for one, other in zip(found, expected, strict=True):
        assert (one.cpu().int() - other.int()).abs().float().mean() < 0.1


@pytest.mark.parametrize("options", [{}, {"smooth": 0.5}, {"sticky": 0.1}, {"targets": [1, 2]}, {"every": 2}], ids=str)
def test_graph_equals_eager(cuda, options):
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)).to(cuda)
    replayed, eager = engine(model, layers="3", **options), engine(model, layers="3", graph=False, **options)
    for frame in frames(6):
        got, expected = replayed(frame), eager(frame)
        assert replayed.graph_problem is None
        torch.testing.assert_close(got.heatmap, expected.heatmap, rtol=0, atol=1e-4)
        assert (got.overlay().int() - expected.overlay().int()).abs().float().mean() < 0.1
    replayed.alpha = 0.0
    assert torch.equal(replayed(frame).overlay(), torch.from_numpy(frame))


def test_graph_that_cannot_be_captured(cuda):
    class Looks(nn.Sequential):
        def forward(self, x):
            return super().forward(x) * float(x.mean() < 1e9)  # waits for the device

    model = Looks(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).to(cuda)
    run = engine(model, layers="1")
    with pytest.warns(UserWarning, match="without a CUDA graph"):
        assert run(frames(1)[0]).overlay().shape == (40, 60, 3)
    assert run.graph_problem
