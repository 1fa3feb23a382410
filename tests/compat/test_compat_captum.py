"""camfast.compat.captum beside captum: the same script on both, by the name of the package only."""

from __future__ import annotations

import importlib
import inspect
import warnings

import pytest
import torch
import torchvision
from models import TokenNet
from tolerances import PARITY
from torch import nn

pytest.importorskip("captum")
OURS, PEER = "camfast.compat.captum", "captum"


class Two(nn.Module):
    """Two maps of one."""

    def forward(self, x):
        return 2 * x, x.sin()


class Net(nn.Module):
    """A skip connection, a layer of two outputs, further arguments, class maps on demand."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.relu = nn.ReLU()
        self.two = Two()
        self.second = nn.Conv2d(6, 8, 3, padding=1)
        self.inplace = nn.ReLU(inplace=True)
        self.fc = nn.Linear(8, 5)

    def forward(self, x, scale=1.0, shift=None, dense=False):
        h = self.relu(self.first(x))
        a, b = self.two(h)
        h = self.second(h * scale + a * b)
        if shift is not None:
            h = h + shift[:, None, None, None]
        h = self.inplace(h)
        return h if dense else self.fc(h.mean((2, 3)))


@pytest.fixture
def net():
    return Net().eval()


@pytest.fixture
def x():
    return torch.randn(3, 3, 8, 9)


def both(script):
    """What ``script(captum.attr)`` gives with each package, tensors or tuples of them; they differ by rounding only."""
    found = []
    for package in (PEER, OURS):
        torch.manual_seed(5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(script(importlib.import_module(package + ".attr")))
    theirs, ours = found
    assert type(theirs) is type(ours)
    for one, other in zip(*(value if isinstance(value, tuple) else (value,) for value in found), strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        torch.testing.assert_close(other.detach(), one.detach(), atol=PARITY, rtol=PARITY)
    return ours


@pytest.mark.parametrize(
    "target", [2, -1, (3,), [0, 4, 2], [(0,), (4,), (2,)], torch.tensor(1), torch.tensor([1]), torch.tensor([1, 2, 0])]
)
def test_targets(net, x, target):
    both(lambda attr: attr.LayerGradCam(net, net.second).attribute(x, target))


@pytest.mark.parametrize("target", [(1, 2, 3), [(1, 2, 3), (0, 1, 1), (2, 0, 7)]])
def test_targets_of_dense_outputs(net, x, target):
    both(lambda attr: attr.LayerGradCam(lambda x: net(x, dense=True), net.second).attribute(x, target))


@pytest.mark.parametrize("scores", [lambda s: s[:, 1], lambda s: s[:, 1:2]])
def test_no_target_where_there_is_one_score(net, x, scores):
    both(lambda attr: attr.LayerGradCam(lambda x: scores(net(x)), net.second).attribute(x))


@pytest.mark.parametrize("layer", ["first", "relu", "two", "second", "inplace", "fc"])
@pytest.mark.parametrize("of_input", [False, True])
@pytest.mark.parametrize("options", [{}, {"relu_attributions": True}, {"attr_dim_summation": False}])
def test_layers_and_options(net, x, layer, of_input, options):
    module = net.get_submodule(layer)
    result = both(
        lambda attr: attr.LayerGradCam(net, module).attribute(x, 1, attribute_to_layer_input=of_input, **options)
    )
    assert isinstance(result, tuple) == (layer == "two" and not of_input)


@pytest.mark.parametrize("further", [2.0, (0.5, torch.tensor([1.0, -2.0, 3.0]))])
def test_further_arguments(net, x, further):
    both(lambda attr: attr.LayerGradCam(net, net.second).attribute(x, 1, additional_forward_args=further))
    both(lambda attr: attr.GuidedGradCam(net, net.second).attribute(x, 1, additional_forward_args=further))


def test_several_inputs(net, x):
    both(lambda attr: attr.LayerGradCam(lambda a, b: net(a * b), net.second).attribute((x, x + 1), 1))
    assert isinstance(both(lambda attr: attr.GuidedGradCam(net, net.second).attribute((x,), 1)), tuple)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(
    "arch, layer",
    [("resnet18", "layer4"), ("mobilenet_v2", "features.17"), ("densenet121", "features"), ("vgg11", "features")],
)
def test_architectures(arch, layer, batch):
    model = torchvision.models.get_model(arch, num_classes=10).eval()
    x, module = torch.randn(batch, 3, 64, 64), model.get_submodule(layer)
    both(lambda attr: attr.LayerGradCam(model, module).attribute(x, target=3))
    both(lambda attr: attr.GuidedGradCam(model, module).attribute(x, target=3, interpolate_mode="bilinear"))


def test_tokens_and_volumes():
    model, x = TokenNet().eval(), torch.randn(2, 3, 16, 20)
    both(lambda attr: attr.LayerGradCam(model, model.blocks[1].norm1).attribute(x, 3, attr_dim_summation=False))
    volume = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    x = torch.randn(2, 1, 5, 6, 7)

    def script(attr):
        cam = attr.LayerGradCam(volume, volume[1])
        return cam.interpolate(cam.attribute(x, 1), (5, 6, 7), "trilinear")

    both(script)


@pytest.mark.parametrize("size, mode", [((8, 8), "nearest"), (8, "bilinear"), ((6, 9), "bicubic")])
def test_interpolate(size, mode):
    maps = torch.rand(2, 1, 4, 4)
    both(lambda attr: attr.LayerAttribution.interpolate(maps, size, mode))
    both(lambda attr: attr.LayerGradCam.interpolate(maps, size, interpolate_mode=mode))


def test_convergence_delta(net, x):
    def script(attr):
        cam = attr.GuidedGradCam(net, net.second)
        found = cam.attribute(x, 1)
        return (
            cam.compute_convergence_delta(found, x * 0, x, target=1),
            cam.compute_convergence_delta(found, 0.5, x, target=[1, 2, 3]),
            cam.compute_convergence_delta((found,), None, (x,)),
        )

    both(script)


def test_captums_noise_tunnel_takes_them(net, x):
    from captum.attr import NoiseTunnel

    def script(attr):
        return NoiseTunnel(attr.GuidedGradCam(net, net.second)).attribute(x, nt_samples=3, stdevs=0.1, target=1)

    both(script)


def test_training_mode_is_kept(x):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    both(lambda attr: attr.LayerGradCam(model, model[1]).attribute(x, 1))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    importlib.import_module(OURS + ".attr").LayerGradCam(model, model[1]).attribute(x, 1)
    assert model.training and all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["create_graph", "strict"])
def test_attributions_with_a_graph(net, x, kind, monkeypatch):
    ours = importlib.import_module(OURS)
    monkeypatch.setattr(ours, "strict", kind == "strict")
    options = {"create_graph": True} if kind == "create_graph" else None

    def script(attr):
        found = attr.LayerGradCam(net, net.second).attribute(x, 1, grad_kwargs=options)
        return torch.autograd.grad(found.square().sum(), [net.first.weight, net.second.weight])

    both(script)


def test_nothing_is_left_behind(net, x):
    attr = importlib.import_module(OURS + ".attr")
    net.first.weight.requires_grad_(False)
    for call in (
        lambda: attr.LayerGradCam(net, net.two).attribute(x, 1, attribute_to_layer_input=True),
        lambda: attr.GuidedGradCam(net, net.second).attribute(x, 1),
        lambda: attr.LayerGradCam(net, net.second).attribute(x, "a"),
        lambda: attr.GuidedGradCam(net, net.second).attribute(x, 1, additional_forward_args=(1, 2, 3)),
    ):
        try:
            found = call()
        except (AssertionError, TypeError):
            found = None
        assert found is None or not found.requires_grad
        assert torch.is_grad_enabled() and not x.requires_grad and not net.first.weight.requires_grad
        assert all(parameter.grad is None for parameter in net.parameters())
        assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in net.modules())


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_without_grad_mode(net, guard):
    attr = importlib.import_module(OURS + ".attr")
    x = torch.randn(2, 3, 8, 9)
    for of_input in (False, True):
        expected = attr.LayerGradCam(net, net.second).attribute(x, 1, attribute_to_layer_input=of_input)
        guided = attr.GuidedGradCam(net, net.second).attribute(x, 1)
        with guard():
            own = x + 0
            found = attr.LayerGradCam(net, net.second).attribute(own, 1, attribute_to_layer_input=of_input)
            torch.testing.assert_close(found, expected)
            torch.testing.assert_close(attr.GuidedGradCam(net, net.second).attribute(own, 1), guided)


@pytest.mark.parametrize(
    "call",
    [
        lambda attr, net, x: attr.LayerGradCam(net, net.second).attribute(x),
        lambda attr, net, x: attr.LayerGradCam(net, net.second).attribute(x, [1, 2]),
        lambda attr, net, x: attr.LayerGradCam(net, net.second).attribute(x, torch.tensor([1, 2])),
        lambda attr, net, x: attr.LayerGradCam(net, net.second).attribute(x, (1, 2)),
        lambda attr, net, x: attr.LayerGradCam(net, net.second).attribute(x, "cat"),
        lambda attr, net, x: attr.LayerGradCam(net, net.second).attribute(x, [1.5, 2, 3]),
        lambda attr, net, x: attr.LayerGradCam(net, net.second).attribute(x, 99),
        lambda attr, net, x: attr.LayerGradCam(net, net.second).attribute([x], 1),
        lambda attr, net, x: attr.LayerGradCam(net, nn.ReLU()).attribute(x, 1),
        lambda attr, net, x: attr.GuidedGradCam(lambda x: net(x), net.second),
        lambda attr, net, x: attr.GuidedGradCam(net, net.two).attribute(x, 1),
        lambda attr, net, x: attr.GuidedGradCam(net, net.second).attribute(x),
        lambda attr, net, x: attr.GuidedBackprop(lambda x: net(x)),
        lambda attr, net, x: attr.GuidedBackprop(net).attribute(x),
        lambda attr, net, x: attr.GuidedBackprop(net).attribute(x, 99),
        lambda attr, net, x: attr.LayerAttribution.interpolate(x, (4,)),
        lambda attr, net, x: attr.LayerAttribution.interpolate(x, (4, 4), "nope"),
        lambda attr, net, x: attr.LayerGradCam(net, net.second).attribute(x, 1, nothing=True),
        lambda attr, net, x: attr.LayerGradCam(net, net.second).attribute(x, 1, additional_forward_args=(1, 2, 3)),
        lambda attr, net, x: attr.Attribution(net).attribute(x),
        lambda attr, net, x: attr.Attribution(net).compute_convergence_delta(x),
    ],
)
def test_errors_are_of_the_peers_types(net, x, call):
    kinds = []
    for package in (PEER, OURS):
        with warnings.catch_warnings(), pytest.raises(Exception) as caught:
            warnings.simplefilter("ignore")
            call(importlib.import_module(package + ".attr"), net, x)
        kinds.append(caught.type)
    assert kinds[0] is kinds[1]


def test_an_error_leaves_hooks_modes_and_gradients_as_they_were(net, x):
    """In a forward of the model's own, after the layer; captum's hooks are gone as well."""

    def fail(*_):
        raise ZeroDivisionError

    handle = net.fc.register_forward_hook(fail)
    counts = []
    for package in (PEER, OURS):
        attr, own = (
            importlib.import_module(package + ".attr"),
            x.clone(),
        )  # captum asks for its gradient, and leaves it so
        net.train()
        for explain in (
            attr.LayerGradCam(net, net.second),
            attr.GuidedGradCam(net, net.second),
            attr.GuidedBackprop(net),
        ):
            with warnings.catch_warnings(), pytest.raises(ZeroDivisionError):
                warnings.simplefilter("ignore")
                explain.attribute(own, 1)
        if package == PEER:
            continue
        counts = [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in net.modules()]
        assert sum(counts) == 1 and all(m.training for m in net.modules())  # the test's own
        assert all(parameter.grad is None for parameter in net.parameters()) and not own.requires_grad
    handle.remove()
    assert counts


def test_a_map_that_cannot_be_resized_gives_a_warning(net, x):
    with pytest.warns(UserWarning, match="interpolate"):
        found = importlib.import_module(OURS + ".attr").GuidedGradCam(net, net.fc).attribute(x, 1)
    assert found.numel() == 0


@pytest.mark.parametrize(
    "name", ["LayerGradCam", "GuidedGradCam", "GuidedBackprop", "LayerAttribution", "GradientAttribution"]
)
def test_every_public_method_and_argument(name):
    theirs, ours = (getattr(importlib.import_module(package + ".attr"), name) for package in (PEER, OURS))
    for key in (key for key in dir(theirs) if not key.startswith("_") or key == "__init__"):
        if key == "attribute_future":
            continue  # raises NotImplementedError there
        one, other = getattr(theirs, key), getattr(ours, key)
        if inspect.isfunction(one):
            expected, found = (list(inspect.signature(f).parameters.values()) for f in (one, other))
            assert [(p.name, p.default) for p in expected] == [(p.name, p.default) for p in found], key


def test_what_is_absent_says_so():
    with pytest.raises(ImportError, match="IntegratedGradients"):
        from camfast.compat.captum.attr import IntegratedGradients  # noqa: F401
    assert not hasattr(importlib.import_module(OURS + ".attr"), "anything")
    known = set(importlib.import_module(PEER + ".attr").__all__)
    ours = importlib.import_module(OURS + ".attr")
    assert known == set(ours.__all__) | ours._ABSENT
