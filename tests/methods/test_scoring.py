"""Methods that score changed activations or images, and the replay of a model's head."""

from __future__ import annotations

import contextlib
import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from models import (
    Branches,
    DeepHead,
    InPlaceAfter,
    Packed,
    SmallNet,
    TokenNet,
    Twice,
    TwoInputs,
    bystander_state,
    calibrated,
    images,
)
from torch import nn

import camfast
from camfast.model.inputs import Inputs
from camfast.model.replay import HeadReplay
from camfast.model.tap import Tap

NAMES = ("ablation_cam", "score_cam", "ss_cam", "is_cam", "recipro_cam")
CLASSES = [1, 0]
ABLATION_PARITY = 2e-5
"""Its weights are small differences of scores, so that the last bit of a score counts a hundredfold."""


@pytest.fixture
def net() -> SmallNet:
    return calibrated(DeepHead(), images(4))


def quick(name: str) -> dict[str, int]:
    return {"ss_cam": {"samples": 2}, "is_cam": {"samples": 2}}.get(name, {})


class Peer:
    """A method of pytorch-grad-cam on a copy of a network."""

    def __init__(self, name: str, net: nn.Module, layer: str, **options) -> None:
        peers = pytest.importorskip("pytorch_grad_cam")
        twin = copy.deepcopy(net)
        self.method = getattr(peers, name)(twin, [twin.get_submodule(layer)], **options)

    def __call__(self, batch: torch.Tensor, classes: list[int]) -> torch.Tensor:
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        return torch.from_numpy(self.method(batch, [ClassifierOutputTarget(c) for c in classes]))


def test_score_cam_equals_the_peer(net):
    batch = images(2)
    for layer in ("body", "stem"):
        ours = camfast.ScoreCAM(net, layer, batch_size=7)(batch, CLASSES).heatmap
        torch.testing.assert_close(ours, Peer("ScoreCAM", net, layer)(batch, CLASSES), rtol=0, atol=2e-6)


class Views(SmallNet):
    """A model that takes its features to be contiguous."""

    def forward(self, x):
        features = self.body(self.stem(x))
        return self.fc(features.view(features.shape[0], 16, -1).mean(2))


def test_score_cam_of_a_model_that_needs_contiguous_images():
    net, batch = calibrated(Views(), images(4)), images(2)
    explainer = camfast.ScoreCAM(net, "body", batch_size=7)
    theirs = Peer("ScoreCAM", net, "body")(batch, CLASSES)
    for _ in range(2):
        torch.testing.assert_close(explainer(batch, CLASSES).heatmap, theirs, rtol=0, atol=2e-6)
    with pytest.raises(RuntimeError, match="broken"):
        explainer(batch, lambda scores: (_ for _ in ()).throw(RuntimeError("broken")))


@pytest.mark.parametrize("autocast", [True, torch.bfloat16])
def test_score_cam_in_lower_precision(net, autocast):
    batch, exact = images(2), camfast.ScoreCAM(net, "body")(images(2), CLASSES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # where the processor has no bfloat16
        lower = camfast.ScoreCAM(net, "body", autocast=autocast)(batch, CLASSES)
    assert torch.equal(lower.scores, exact.scores)  # the explained pass itself is exact
    assert lower.heatmap.dtype == torch.float32
    torch.testing.assert_close(lower.heatmap, exact.heatmap, rtol=0, atol=3e-2)
    if autocast is not True:
        assert not torch.equal(lower.heatmap, exact.heatmap)


@pytest.mark.parametrize("layer", ["body", "stem"])
def test_ablation_equals_the_peer_where_the_least_activation_is_zero(net, layer):
    batch = images(2)
    ours = camfast.AblationCAM(net, layer, batch_size=5)(batch, CLASSES).heatmap
    theirs = Peer("AblationCAM", net, layer)(batch, CLASSES)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=ABLATION_PARITY)
    assert theirs.std() > 0.01


class NegativeValues(SmallNet):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(8, 16, 3, padding=1)

    def head(self, features: torch.Tensor) -> torch.Tensor:
        return super().head(F.relu(features))


def test_ablation_of_negative_activations_equals_the_peer_one_at_a_time():
    """The peer's value drifts inside a batch; with batches of one it cannot."""
    net, batch = calibrated(NegativeValues(), images(4)), images(2)
    ours = camfast.AblationCAM(net, "body")(batch, CLASSES).heatmap
    theirs = Peer("AblationCAM", net, "body", batch_size=1)(batch, CLASSES)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=ABLATION_PARITY)


def test_ablation_equals_a_plain_transcription_in_double_precision(net):
    net, batch = copy.deepcopy(net).double(), images(2).double()
    with torch.no_grad():
        features = net.body(net.stem(batch))
        scores = net.head(features)
        expected = torch.zeros(2, 8, 10, dtype=torch.float64)
        for i, target in enumerate(CLASSES):
            for channel in range(features.shape[1]):
                without = features[i : i + 1].clone()
                without[:, channel] = 0
                weight = (scores[i, target] - net.head(without)[0, target]) / scores[i, target]
                expected[i] += weight * features[i, channel]
    ours = camfast.AblationCAM(net, "body")(batch, CLASSES, size="map", normalize=False).heatmap
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name, peer_name", [("score_cam", "ScoreCAM"), ("ss_cam", "SSCAM"), ("is_cam", "ISCAM")])
def test_equals_torchcam(net, name, peer_name):
    """16 x 20 pixels: noise drawn a channel at a time is the noise drawn at once."""
    methods = pytest.importorskip("torchcam.methods")
    batch = images(2)
    options = {"num_samples": 3} if name != "score_cam" else {}
    torch.manual_seed(11)
    with getattr(methods, peer_name)(copy.deepcopy(net), "body", batch_size=3, **options) as method:
        method.model(batch)
        torch.manual_seed(11)
        (theirs,) = method(CLASSES, normalized=False)
    torch.manual_seed(11)
    own = {"samples": 3} if name != "score_cam" else {}
    ours = camfast.METHODS[name](net, "body", batch_size=4, **own)(batch, CLASSES, size="map", normalize=False).heatmap
    ours = ours.clamp(min=0)
    tolerance = 2e-6 if name != "score_cam" else 2e-2  # torchcam masks before resizing, pytorch-grad-cam after
    torch.testing.assert_close(ours / ours.amax(), theirs / theirs.amax(), rtol=0, atol=tolerance)


def test_recipro_equals_a_plain_transcription(net):
    batch = images(2)
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    with torch.no_grad():
        features = net.body(net.stem(batch))
        n, _, h, w = features.shape
        expected = torch.zeros(n, h, w)
        for i in range(n):
            for y in range(h):
                for x in range(w):
                    mask = torch.zeros(h + 2, w + 2)
                    mask[y : y + 3, x : x + 3] = kernel
                    scores = net.head(features[i : i + 1] * mask[1:-1, 1:-1])
                    expected[i, y, x] = scores.softmax(1)[0, CLASSES[i]]
    ours = camfast.ReciproCAM(net, "body", batch_size=9)(batch, CLASSES, size="map", normalize=False).heatmap
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-6)
    many = camfast.ReciproCAM(net, "body")(batch, torch.tensor([[3, 1], [3, 0]])).heatmap
    torch.testing.assert_close(many[:, 1], camfast.ReciproCAM(net, "body")(batch, CLASSES).heatmap, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_targets_of_an_image(net, name):
    batch = images(2)
    explain, options = getattr(camfast, name), quick(name)
    torch.manual_seed(0)
    many = explain(net, batch, torch.tensor([[1, 4, 0], [0, 2, 3]]), "body", **options).heatmap
    assert many.shape == (2, 3, 16, 20)
    torch.manual_seed(0)
    single = explain(net, batch, [0, 3], "body", **options).heatmap
    torch.testing.assert_close(many[:, 2], single, rtol=0, atol=2e-6)
    if name != "recipro_cam":  # for a callable there is no softmax
        torch.manual_seed(0)
        called = explain(net, batch, [lambda s: s[0], lambda s: s[3]], "body", **options).heatmap
        torch.testing.assert_close(called, single, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["ablation_cam", "score_cam"])
def test_channel_budget(net, name):
    batch = images(2)
    full = camfast.METHODS[name](net, "body", channels=16)(batch, CLASSES).heatmap
    torch.testing.assert_close(full, camfast.METHODS[name](net, "body")(batch, CLASSES).heatmap, rtol=0, atol=2e-6)
    raw = camfast.METHODS[name](net, "body", channels=1)(batch, CLASSES, size="map", normalize=False).heatmap
    with torch.no_grad():
        features = net.body(net.stem(batch))
    for row, image in zip(raw, features, strict=True):
        strongest = image[image.flatten(1).var(1).argmax()].flatten()
        assert abs(torch.corrcoef(torch.stack([row.flatten(), strongest]))[0, 1]) > 0.999


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_dtypes(net, name, dtype):
    batch = images(1)
    heat = getattr(camfast, name)(copy.deepcopy(net).to(dtype), batch.to(dtype), 1, "body", **quick(name)).heatmap
    assert heat.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert heat.isfinite().all() and heat.amax() > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_leaves_no_trace(net, name):
    net.train()
    before = bystander_state(net)

    def broken(scores: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("broken target")

    getattr(camfast, name)(net, images(1), layers="body", **quick(name))
    with pytest.raises(RuntimeError, match="broken target"):
        getattr(camfast, name)(net, images(1), broken, "body", **quick(name))
    after = bystander_state(net)
    assert all(torch.equal(before["tensors"][key], after["tensors"][key]) for key in before["tensors"])
    for part in ("hooks", "training", "requires_grad", "grad", "identity", "attributes"):
        assert before[part] == after[part]


@contextlib.contextmanager
def counting(module: nn.Module):
    calls = []
    handle = module.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    yield calls
    handle.remove()


class Residual(SmallNet):
    """The layer's output is added to what came before it, in place and by torch.cat."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.late = nn.Conv2d(16, 16, 1)

    def forward(self, x):
        stem = self.relu(self.stem(x))
        out = self.relu(self.body(stem))
        out += stem
        return self.head(self.late(torch.cat([out, stem.expand(len(out), -1, -1, -1)], 1)))


class ByInput(SmallNet):
    """Takes the number of images from its input."""

    def forward(self, x):
        features = self.body(self.stem(x))
        return self.fc(features.view(x.shape[0], 16, -1).mean(2))


MODELS = {
    "plain": (lambda: DeepHead(), "body", "single"),
    "inner": (lambda: DeepHead(), "body.1", "single"),
    "residual": (lambda: Residual(), "body", "single"),
    "by_input": (lambda: ByInput(), "body", "repeated"),
    "in_place": (lambda: InPlaceAfter(), "body", "single"),
    "twice": (lambda: Twice(), "body", "single"),
    "packed": (lambda: Packed("nested"), "body", "single"),
    "branches": (lambda: Branches(), "left", "single"),
    "tokens": (lambda: TokenNet(), "blocks.0", "single"),
}


@pytest.mark.parametrize("case", MODELS)
def test_replay_equals_whole_passes(case):
    make, layer, mode = MODELS[case]
    net = calibrated(make(), images(4))
    inputs = Inputs.of(images(1))
    module = net.get_submodule(layer)
    with Tap(net, [module], graph=False) as tap:
        tap.run(inputs)
        replay = HeadReplay(net, module, inputs)
        assert replay.mode == mode
        whole = HeadReplay(net, module, inputs, mode="whole")
        changed = replay.repeated(3)
        changed *= torch.rand_like(changed)
        expected = whole(changed.clone())
        with counting(net.stem if hasattr(net, "stem") else net.patch) as calls:
            found = replay(changed.clone())
            again = replay(changed.clone())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert torch.equal(found, again)
    assert expected.std(0).max() > 1e-6
    assert len(calls) == 2  # hooks still see the calls, which answer from the record


def test_replay_skips_the_trunk(net):
    """What the trunk computes is not computed again."""
    runs = []
    conv = net.stem[0]
    original = conv._conv_forward
    explain = camfast.AblationCAM(net, "body", batch_size=2)
    explain(images(1), 0)  # the first call looks, once, where the layer's positions are
    conv._conv_forward = lambda *args: runs.append(1) or original(*args)
    try:
        explain(images(1), 0)
    finally:
        del conv.__dict__["_conv_forward"]
    assert len(runs) == 2  # the pass of the scores, and the one that is recorded


class Skip(SmallNet):
    """The scores also depend on an early layer."""

    def forward(self, x):
        stem = self.stem(x)
        return self.head(self.body(stem)) + stem.mean((1, 2, 3)).unsqueeze(1)


def test_whole_passes_with_one_warning_where_the_head_cannot_run_alone():
    net = calibrated(Skip(), images(4))
    net.stem.register_forward_hook(lambda module, args, output: output + 0.5)  # would be added to the record again
    explainer = camfast.AblationCAM(net, "body")
    with pytest.warns(UserWarning, match="whole passes are made instead") as caught:
        heat = explainer(images(2), CLASSES).heatmap
        explainer(images(2), CLASSES)
    assert len(caught) == 1
    theirs = Peer("AblationCAM", net, "body")(images(2), CLASSES)
    torch.testing.assert_close(heat, theirs, rtol=0, atol=ABLATION_PARITY)


def test_several_inputs():
    torch.manual_seed(0)
    net = TwoInputs().eval()
    batch = (images(2), torch.randn(2, 4))
    for name in NAMES:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            heat = getattr(camfast, name)(net, batch, CLASSES, "body", **quick(name)).heatmap
        alone = getattr(camfast, name)(net, tuple(t[1:] for t in batch), CLASSES[1:], "body", **quick(name)).heatmap
        if name != "ss_cam":
            torch.testing.assert_close(heat[1:], alone, rtol=0, atol=2e-6)


def test_tokens_keep_their_class_token():
    net = TokenNet().eval()
    for name in ("ablation_cam", "recipro_cam", "score_cam"):
        heat = getattr(camfast, name)(net, images(2), 1, "blocks.0").heatmap
        assert heat.shape == (2, 16, 20) and heat.isfinite().all() and heat.amax() > 0.5


@pytest.mark.parametrize("rank", [1, 3])
def test_sequences_and_volumes(rank):
    size = {1: (16,), 3: (4, 6, 8)}[rank]
    net = calibrated(SmallNet(rank=rank), images(4, size=size))
    for name in NAMES:
        heat = getattr(camfast, name)(net, images(1, size=size), 0, "body", **quick(name)).heatmap
        assert heat.shape == (1, *size) and heat.isfinite().all()


def test_progress_bar_when_it_is_wanted(net, capsys):
    pytest.importorskip("tqdm")
    camfast.AblationCAM(net, "body")(images(1), 0)
    assert "ablation_cam" not in capsys.readouterr().err
    camfast.AblationCAM(net, "body", progress=True)(images(1), 0)
    assert "16/16" in capsys.readouterr().err


def test_bad_arguments(net):
    for options in ({"batch_size": 0}, {"channels": -1}, {"channels": 2.5}):
        with pytest.raises(ValueError, match="must be a positive int"):
            camfast.ScoreCAM(net, **options)
    with pytest.raises(ValueError, match="autocast must be a bool"):
        camfast.ScoreCAM(net, autocast="bf16")
    with pytest.raises(ValueError, match="std must not"):
        camfast.SSCAM(net, std=-1)
    with pytest.raises(ValueError, match="view of its input"):
        camfast.AblationCAM(net, "body", reshape=lambda t: t * 1)(images(1))
    with pytest.raises(TypeError, match="must return a tensor"):
        camfast.ScoreCAM(net, "body")(images(1), lambda scores: 3.0)


class Fields(nn.Module):
    """Scores in a field of what a network returns."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"features": x.mean((2, 3)), "logits": self.net(x)}


@pytest.mark.parametrize("target", [1, camfast.targets.Class(1)])
def test_a_class_in_a_field_counts_by_its_probability(net: SmallNet, target: object) -> None:
    batch = images(2)
    plain = camfast.recipro_cam(net, batch, targets=1, layers="body", normalize=False)
    inside = camfast.recipro_cam(
        Fields(net), batch, targets=camfast.targets.Field("logits", target), layers="net.body", normalize=False
    )
    torch.testing.assert_close(inside.heatmap, plain.heatmap)
    assert float(inside.heatmap.min()) >= 0


def test_of_a_score_of_zero_no_channel_has_a_share() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2), nn.ReLU()
    )
    nn.init.zeros_(net[4].weight)
    nn.init.constant_(net[4].bias, -1.0)
    with pytest.warns(camfast.errors.DoubtWarning, match="blank"):
        result = camfast.ablation_cam(net, images(2), targets=0, layers="1")
    assert not result.heatmap.any()
