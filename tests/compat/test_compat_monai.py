"""camfast.compat.monai beside MONAI: the same script on both, by the name of the package only."""

from __future__ import annotations

import copy
import importlib
import inspect

import numpy as np
import pytest
import torch
from tolerances import PARITY
from torch import nn

nets = pytest.importorskip("monai.networks.nets")
OURS, PEER = "camfast.compat.monai", "monai"
RELU = "class_layers.relu"


@pytest.fixture
def strict(monkeypatch):
    monkeypatch.setattr(importlib.import_module(OURS), "strict", True)


def visualize(package):
    return importlib.import_module(package + ".visualize")


def both(script, atol=PARITY):
    """What ``script(monai.visualize)`` gives with each package; they differ by rounding only."""
    theirs, ours = (script(visualize(package)) for package in (PEER, OURS))
    assert type(theirs) is type(ours) and theirs.shape == ours.shape and theirs.dtype == ours.dtype
    torch.testing.assert_close(ours, theirs.detach(), atol=atol, rtol=PARITY)


def densenet2d():
    return nets.DenseNet121(spatial_dims=2, in_channels=1, out_channels=3).eval(), (1, 64, 80)


def densenet3d():
    model = nets.DenseNet(
        spatial_dims=3, in_channels=1, out_channels=3, init_features=4, growth_rate=4, block_config=(3, 2)
    )
    return model.eval(), (1, 12, 14, 16)


def densenet121_3d():
    return nets.DenseNet121(spatial_dims=3, in_channels=1, out_channels=2).eval(), (1, 64, 64, 32)


class TokenHead(nn.Module):
    """A convolutional encoder that takes a further argument."""

    def __init__(self, dims=2):
        super().__init__()
        convolution = nn.Conv3d if dims == 3 else nn.Conv2d
        self.first = nn.Sequential(convolution(1, 6, 3, padding=1), nn.ReLU())
        self.second = nn.Sequential(convolution(6, 8, 3, stride=2), nn.ReLU())
        self.fc = nn.Linear(8, 4)

    def forward(self, x, scale=1.0):
        return self.fc(self.second(self.first(x)).flatten(2).mean(-1) * scale)


@pytest.mark.parametrize("network", [densenet2d, densenet3d, densenet121_3d])
@pytest.mark.parametrize("name", ["GradCAM", "GradCAMpp", "CAM"])
def test_networks(network, name):
    torch.manual_seed(1)  # whose maps are not all zero
    model, shape = network()
    exact_model, x = copy.deepcopy(model).double(), torch.rand(1, *shape)
    options = {"fc_layers": "class_layers.out"} if name == "CAM" else {}

    def script(visualize, model=model, x=x):
        return getattr(visualize, name)(nn_module=model, target_layers=RELU, **options)(x=x, layer_idx=-1)

    # Where a map's range is a small part of its values (6 % for Grad-CAM++ of DenseNet121 in 3-D), scaling it to [0, 1]
    # enlarges the rounding of both: then what MONAI itself is off by is the measure, in either direction.
    exact = script(visualize(OURS), exact_model, x.double())
    assert exact.min() == 0 and exact.max() == 1
    cam = getattr(visualize(OURS), name)(model, RELU, **options)
    assert cam.feature_map_size(x.shape) == cam.compute_map(x).shape
    both(script, atol=max(PARITY, 2 * float((script(visualize(PEER)) - exact).abs().max())))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("class_idx", [2, [2], torch.tensor(1)])
@pytest.mark.parametrize("name", ["GradCAM", "GradCAMpp"])
def test_classes_layers_and_options(dims, class_idx, name):
    model, x = TokenHead(dims).eval(), torch.rand(1, 1, *(9, 8, 7)[:dims])
    for k in (0, 1, -1):
        both(lambda v: getattr(v, name)(model, ["first", "second"])(x, class_idx, layer_idx=k))  # noqa: B023
    both(lambda v: getattr(v, name)(model, "second").compute_map(x, class_idx, scale=1.5))
    own = lambda size: lambda maps: nn.functional.interpolate(maps, size)  # noqa: E731
    both(
        lambda v: getattr(v, name)(model, "first", upsampler=own, postprocessing=lambda m: m.detach() * 2)(x, class_idx)
    )


@pytest.mark.parametrize("class_idx", [None, [0, 1, 3], torch.tensor([3, 3, 0])])
def test_batches(class_idx):
    """Each image by itself; MONAI, given one image at a time, gives the same."""
    model, x = TokenHead().eval(), torch.rand(3, 1, 9, 8)
    for name in ("GradCAM", "GradCAMpp", "CAM"):
        found = getattr(visualize(OURS), name)(model, "second")(x, class_idx)
        for i in range(3):
            own = None if class_idx is None else [int(class_idx[i])]
            expected = getattr(visualize(PEER), name)(model, "second")(x[i : i + 1], own)
            torch.testing.assert_close(found[i : i + 1], expected, atol=PARITY, rtol=0)
    both(lambda v: v.GradCAM(model, "second")(x, 1))
    both(lambda v: v.CAM(model, "second")(x, class_idx))


def test_strict_sums_the_classes_of_the_batch(strict):
    model, x = TokenHead().eval(), torch.rand(3, 1, 9, 8)
    both(lambda v: v.GradCAM(model, "second")(x))
    both(lambda v: v.GradCAM(model, "second")(x, [0, 1, 3]))
    strict = visualize(OURS).GradCAM(model, "second").compute_map(x, [0, 1, 3])
    importlib.import_module(OURS).strict = False
    assert not torch.allclose(visualize(OURS).GradCAM(model, "second").compute_map(x, [0, 1, 3]), strict)


def test_a_class_score_of_ones_own(monkeypatch):
    model, x = TokenHead().eval(), torch.rand(1, 1, 9, 8)

    def script(visualize):
        cam = visualize.GradCAM(model, "second")
        monkeypatch.setattr(cam.nn_module, "class_score", lambda logits, class_idx: logits[:, 1] - logits[:, class_idx])
        return cam(x, 2)

    both(script)


@pytest.mark.parametrize("values", [torch.rand(3, 1, 4, 5), torch.rand(2, 1, 3, 4, 5).double(), torch.ones(2, 1, 3)])
def test_normalizer(values):
    both(lambda v: v.default_normalizer(values))
    theirs, ours = (visualize(package).default_normalizer(values.float().numpy()) for package in (PEER, OURS))
    assert isinstance(ours, np.ndarray) and ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, atol=PARITY)


@pytest.mark.parametrize("size", [(7,), (7, 9), (5, 6, 7)])
@pytest.mark.parametrize("corners", [False, True])
def test_upsampler(size, corners):
    maps = torch.rand(2, 1, *(3 for _ in size))
    both(lambda v: v.default_upsampler(size, align_corners=corners)(maps))


def test_tensors_with_metadata():
    from monai.data import MetaTensor

    model, x = TokenHead().eval(), MetaTensor(torch.rand(1, 1, 9, 8))
    for name in ("GradCAM", "GradCAMpp", "CAM"):
        both(lambda v: getattr(v, name)(model, "second")(x))  # noqa: B023


def test_nothing_is_left_behind():
    model, x = densenet3d()[0].train(), torch.rand(2, 1, 12, 14, 16)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for parameter in model.features.parameters():
        parameter.requires_grad_(False)
    v = visualize(OURS)
    with torch.no_grad():
        for cam in (v.GradCAM(model, RELU), v.GradCAMpp(model, RELU), v.CAM(model, RELU, "class_layers.out")):
            result = cam(x)
            assert not result.requires_grad and result.isfinite().all()
            assert torch.equal(torch.as_tensor(cam.nn_module.class_idx), model.eval()(x).argmax(1))
            model.train()
            cam(x)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


def test_errors():
    v, model, x = visualize(OURS), TokenHead().eval(), torch.rand(2, 1, 9, 8)
    with pytest.raises(ValueError, match="nope"):
        v.GradCAM(model, "nope")
    with pytest.raises(ValueError, match="one a sample, 2"):
        v.GradCAM(model, "second")(x, [1, 2, 3])
    for package in (PEER, OURS):
        with pytest.raises(IndexError):
            visualize(package).GradCAM(model, "second")(x, 9)
        with pytest.raises(NotImplementedError, match="Could not find"):
            visualize(package).CAM(model, "second", "nope")(x)
    with pytest.raises(ImportError, match="OcclusionSensitivity"):
        from camfast.compat.monai.visualize import OcclusionSensitivity  # noqa: F401
    assert not hasattr(v, "anything")


@pytest.mark.parametrize(
    "raised, call",
    [
        (NotImplementedError, lambda v, m, x: v.class_activation_maps.ModelWithHooks(m, "second").get_layer(3)),
        (NotImplementedError, lambda v, m, x: v.class_activation_maps.CAMBase(m, "second").compute_map(x)),
        (NotImplementedError, lambda v, m, x: v.class_activation_maps.CAMBase(m, "second")()),
        (IndexError, lambda v, m, x: v.GradCAM(m, "second")(x, 1, layer_idx=3)),
        (TypeError, lambda v, m, x: v.GradCAM(m, "second")(x, 1, nothing=True)),
        (TypeError, lambda v, m, x: v.GradCAM(m, "second", upsampler=3)(x, 1)),
    ],
)
def test_errors_are_of_the_peers_types(raised, call):
    for package in (PEER, OURS):
        with pytest.raises(raised):
            call(visualize(package), TokenHead().eval(), torch.rand(2, 1, 9, 8))


def test_every_overridable_step_is_taken():
    """``compute_map``, the upsampler and the post-processing of a subclass, in the peer's order."""
    model, x = TokenHead().eval(), torch.rand(1, 1, 9, 8)
    found = []
    for package in (PEER, OURS):
        steps = []

        class Own(visualize(package).GradCAM):
            def compute_map(self, *args, steps=steps, **kwargs):
                steps.append("map")
                return super().compute_map(*args, **kwargs) * 2

            def _upsample_and_post_process(self, *args, steps=steps):
                steps.append("size")
                return super()._upsample_and_post_process(*args)

        cam = Own(
            model,
            "second",
            upsampler=lambda size, steps=steps: steps.append("up") or visualize(PEER).default_upsampler(size),
            postprocessing=lambda maps, steps=steps: steps.append("post") or maps + 1,
        )
        found.append((cam(x, 1), steps, tuple(cam.feature_map_size((1, 1, 9, 8)))))
    torch.testing.assert_close(found[1][0], found[0][0], atol=2e-6, rtol=0)
    assert found[1][1:] == found[0][1:]


@pytest.mark.parametrize(
    "name", ["ModelWithHooks", "CAM", "GradCAM", "GradCAMpp", "default_normalizer", "default_upsampler"]
)
def test_every_public_method_and_argument(name):
    theirs, ours = (getattr(visualize(package), name) for package in (PEER, OURS))
    pairs = [(theirs, ours)]
    if inspect.isclass(theirs):
        shown = ("__init__", "__call__", "_upsample_and_post_process")
        names = [key for key in dir(theirs) if not key.startswith("_") or key in shown]
        pairs = [(getattr(theirs, key), getattr(ours, key)) for key in names if callable(getattr(theirs, key))]
    for one, other in pairs:
        expected, found = (list(inspect.signature(f).parameters.values()) for f in (one, other))
        assert [p.name for p in expected] == [p.name for p in found], one
        for mine, yours in zip(expected, found, strict=True):
            assert mine.default == yours.default or (callable(mine.default) and callable(yours.default))


def test_all_of_the_module_is_here_or_known_to_be_absent():
    public = {key for key, value in vars(visualize(PEER)).items() if not key.startswith("_") and key != "annotations"}
    ours = visualize(OURS)
    assert public == set(ours.__all__) | ours._ABSENT


def test_compiled_models():
    model, x = TokenHead().eval(), torch.rand(1, 1, 9, 8)
    compiled = torch.compile(model, backend="eager")
    for name in ("GradCAM", "CAM"):
        found = getattr(visualize(OURS), name)(compiled, "second")(x, [1])
        torch.testing.assert_close(found, getattr(visualize(OURS), name)(model, "second")(x, [1]))
