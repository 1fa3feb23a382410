"""torchcam's explain, and what extensions use of its base class, beside torchcam: the same script on both."""

from __future__ import annotations

import importlib
import inspect
import json

import numpy as np
import pytest
import torch
from models import SmallNet
from packages import Packages, each
from torch import nn

pytest.importorskip("torchcam")
OURS, PEER = "camfast.compat.torchcam", "torchcam"


@pytest.fixture(autouse=True)
def as_the_peer(monkeypatch):
    monkeypatch.setattr(importlib.import_module(OURS), "strict", True)


def both(script):
    return each(script, PEER, OURS)


class Net(nn.Sequential):
    def __init__(self, classes=4):
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes),
        )  # fmt: skip


@pytest.fixture
def model():
    return Net().eval()


@pytest.fixture
def x():
    return torch.rand(3, 3, 9, 10)


@pytest.mark.parametrize("layer", [None, "1", ["1", "4"]])
@pytest.mark.parametrize("method", ["GradCAM", "LayerCAM", "ScoreCAM"])
def test_explain(model, x, method, layer):
    def script(torchcam):
        return torchcam.explain.explain(
            model,
            x[:1],
            expected_class_idx=2,
            class_names=list("abcd"),
            method=getattr(torchcam.methods, method),
            target_layer=layer,
        )

    theirs, ours = both(script)
    for name in (
        "predicted_class_idx",
        "expected_class_idx",
        "method",
        "target_layers",
        "model",
        "input_shape",
        "class_names",
    ):
        assert getattr(ours, name) == getattr(theirs, name)
    torch.testing.assert_close(ours.logits, theirs.logits)
    assert ours.cams.keys() == theirs.cams.keys() and ours.versions["torchcam"] == theirs.versions["torchcam"]
    for key, cams in theirs.cams.items():
        for one, other in zip(cams, ours.cams[key], strict=True):
            torch.testing.assert_close(other, one, atol=2e-6, rtol=0)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_is_saved(model, x, tmp_path):
    from PIL import Image

    picture = Image.fromarray((torch.rand(30, 40, 3) * 255).byte().numpy())

    def script(torchcam):
        found = torchcam.explain.explain(model, x[:1], expected_class_idx=0, target_layer=["1", "4"])
        return found.save(tmp_path / torchcam.package / "deep", picture, alpha=0.3)

    theirs, ours = both(script)
    assert sorted(path.name for path in theirs.iterdir()) == sorted(path.name for path in ours.iterdir())
    for path in theirs.iterdir():
        own = ours / path.name
        if path.suffix == ".npy":
            np.testing.assert_allclose(np.load(own), np.load(path), atol=2e-6)
        elif path.suffix == ".png":
            one, other = (np.asarray(Image.open(p)).astype(int) for p in (path, own))
            assert one.shape == other.shape and abs(one - other).max() <= 1
        else:
            one, other = (json.loads(p.read_text()) for p in (path, own))
            assert other["versions"].pop("camfast") and one.keys() == other.keys()
            shares = [manifest.pop("classes") for manifest in (one, other)]
            assert one == other and shares[0].keys() == shares[1].keys()
            for key, entry in shares[0].items():
                assert entry["artifacts"] == shares[1][key]["artifacts"]
                assert entry["probability"] == pytest.approx(shares[1][key]["probability"], rel=1e-5)
    with pytest.raises(FileExistsError):
        Packages(OURS).explain.explain(model, x[:1], target_layer="1").save(ours, picture)
    with pytest.raises(ValueError, match="alpha"):
        Packages(OURS).explain.explain(model, x[:1], target_layer="1").save(tmp_path / "not", picture, alpha=2.0)
    assert not (tmp_path / "not").exists() and len(list(tmp_path.iterdir())) == 2  # nothing half-written stays


@pytest.mark.parametrize(
    "change",
    [
        {"model": None},
        {"input_tensor": 3},
        {"input_tensor": torch.rand(2, 3, 9, 10)},
        {"input_tensor": torch.zeros(1, 3, 9, 10, dtype=torch.uint8)},
        {"input_tensor": torch.full((1, 3, 9, 10), torch.nan)},
        {"expected_class_idx": "cat"},
        {"expected_class_idx": True},
        {"expected_class_idx": 4},
        {"method": nn.Module},
        {"method_kwargs": []},
        {"method_kwargs": {"target_layer": "1"}},
        {"class_names": ["a"]},
        {"class_names": "abcd"},
        {"class_names": [1, 2, 3, 4]},
    ],
)
def test_errors_of_explain_are_of_the_peers_types(model, x, change):
    kinds = []
    for package in (Packages(PEER), Packages(OURS)):
        arguments = {"model": model, "input_tensor": x[:1], "target_layer": None, **change}
        with pytest.raises(Exception) as caught:
            package.explain.explain(**arguments)
        kinds.append(caught.type)
    assert kinds[0] is kinds[1]


def test_explain_needs_evaluation_and_gradients(model, x):
    explain = Packages(OURS).explain.explain
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        explain(model, x[:1])
    with torch.no_grad():
        assert explain(model, x[:1]).cams
    with pytest.raises(ValueError, match="evaluation mode"):
        explain(model.train(), x[:1])


def test_a_subclass_with_its_own_weights(model, x):
    def script(torchcam):
        class Positive(torchcam.methods.gradient._GradCAM):
            def _get_weights(self, class_idx, scores, **kwargs):
                self._backprop(scores, class_idx, **kwargs)
                return [g.clamp(min=0).flatten(2).mean(-1) for g in self.hook_g]

        class Energy(torchcam.methods.core._CAM):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                self._relu = True

            def _get_weights(self, class_idx, *args, **kwargs):
                return [a.flatten(2).norm(dim=-1) for a in self.hook_a]

            @staticmethod
            def _scale_cams(cams):
                return [cam.sqrt() for cam in cams]

        found = []
        for kind in (Positive, Energy):
            with kind(model, ["1", "4"]) as extractor:
                cams = extractor(1, model(x))
                found += [*cams, extractor.fuse_cams(cams, (5, 6))]
                assert len(extractor.hook_handles) > 0 and extractor.target_names == ["1", "4"]
        return found

    for one, other in zip(*both(script), strict=True):
        torch.testing.assert_close(other, one, atol=2e-6, rtol=0)


def test_two_passes_two_extractors_and_a_kept_graph(model, x):
    def script(torchcam):
        with (
            torchcam.methods.GradCAM(model, "1") as first,
            torchcam.methods.LayerCAM(model, "4", enable_hooks=False) as second,
        ):
            scores = model(x[:1])
            found = [*first(1, scores, retain_graph=True), *first(2, scores)]
            second.enable_hooks()
            scores = model(x)
            found += [*second([0, 1, 2], scores, retain_graph=True), *first(0, scores, normalized=False)]
        return found

    for one, other in zip(*both(script), strict=True):
        torch.testing.assert_close(other, one, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    "name", ["explain", "metrics", "utils", "methods._utils", "methods.core", "methods.gradient", "methods.activation"]
)
def test_every_name_and_argument(name):
    """Private names too: extensions use them."""
    theirs, ours = (importlib.import_module(f"{package}.{name}") for package in (PEER, OURS))
    for key, one in vars(theirs).items():
        if getattr(one, "__module__", None) != theirs.__name__:
            continue
        other = getattr(ours, key)
        if inspect.isfunction(one):
            assert list(inspect.signature(one).parameters) == list(inspect.signature(other).parameters), key
        if not inspect.isclass(one):
            continue
        assert not {k for k in vars(one) if not hasattr(other, k)}
        for k in vars(one):
            pair = [getattr(one, k), getattr(other, k, None)]
            if all(map(inspect.isfunction, pair)) and k != "_get_weights":
                assert list(inspect.signature(pair[0]).parameters) == list(inspect.signature(pair[1]).parameters), k


def test_the_package_itself():
    theirs, ours = (importlib.import_module(package) for package in (PEER, OURS))
    assert set(theirs.__all__) == set(ours.__all__) and ours.__version__ == theirs.__version__
    with pytest.raises(AttributeError, match="nothing"):
        _ = ours.nothing


def test_small_networks_of_the_engine(x):
    model = SmallNet().eval()

    def script(torchcam):
        with torchcam.methods.RefineCAM(
            model, [m for m in model.modules() if isinstance(m, nn.Conv2d)][:2]
        ) as extractor:
            return extractor(1, model(x))

    for one, other in zip(*both(script), strict=True):
        torch.testing.assert_close(other, one, atol=2e-6, rtol=0)
