"""Every class at once: in closed form where the head allows it, by backward passes elsewhere, and never wrongly."""

from __future__ import annotations

import copy

import pytest
import torch
from models import DeepHead, InPlaceAfter, Segmenter, SmallNet, TokenNet, calibrated, images
from torch import Tensor, nn

import camfast
from camfast.methods import gradient
from camfast.methods.explainer import MANY

X = images(3)
CLOSED = ["grad_cam", "hires_cam", "layer_cam"]
GRADIENT = [*CLOSED, "grad_cam_plus_plus", "xgrad_cam", "grad_cam_elementwise", "eigen_grad_cam", "seg_eigen_cam"]
GRADIENT += ["shapley_cam", "smooth_grad_cam_plus_plus", "finer_cam", "refine_cam"]


class After(SmallNet):
    """Something between the layer and the pooling, or after it."""

    def __init__(self, after: nn.Module | None = None, before_linear: nn.Module | None = None) -> None:
        super().__init__()
        self.after, self.before_linear = after or nn.Identity(), before_linear or nn.Identity()

    def head(self, features: Tensor) -> Tensor:
        return self.fc(self.before_linear(self.after(features).mean((2, 3))))


class Pooled(SmallNet):
    """Pooling, dropout and flattening as modules, in a head of their own."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.top = nn.Sequential(pool, nn.Dropout(0.2), nn.Flatten())

    def head(self, features: Tensor) -> Tensor:
        return self.fc(self.top(features))


class Convolutional(SmallNet):
    """A 1 x 1 convolution after the pooling, as in some mobile networks."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Conv2d(16, 5, 1)

    def head(self, features: Tensor) -> Tensor:
        return self.fc(nn.functional.adaptive_avg_pool2d(features, 1)).flatten(1)


class Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.sigmoid().round()


class Detached(SmallNet):
    """Scores that depend on the activations twice, once cut off."""

    def head(self, features: Tensor) -> Tensor:
        return super().head(features) + super().head(features).detach()


LINEAR = {
    "mean": SmallNet,
    "adaptive pooling": lambda: Pooled(nn.AdaptiveAvgPool2d(1)),
    "pooling": lambda: Pooled(nn.AvgPool2d((8, 10))),
    "convolution": Convolutional,
    "identity": lambda: After(nn.Identity(), nn.Dropout(0.5)),
}
OTHERS = {
    "deep head": DeepHead,
    "relu in place": InPlaceAfter,
    "relu": lambda: After(nn.ReLU()),
    "relu6": lambda: After(nn.ReLU6()),
    "hard swish": lambda: After(nn.Hardswish()),
    "gate": lambda: After(Half()),
    "linear layer": lambda: After(None, nn.Linear(16, 16)),
    "activation": lambda: After(None, nn.ReLU()),
    "norm": lambda: After(nn.BatchNorm2d(16, affine=True)),
    "pooling of parts": lambda: Pooled(nn.Sequential(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1))),
    "detached": Detached,
}


@pytest.fixture
def net() -> SmallNet:
    return calibrated(SmallNet(), images(4))


@pytest.fixture
def backward_passes(monkeypatch):
    """Counts calls of autograd."""
    calls = []
    original = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: calls.append(1) or original(*a, **k))
    return calls


def one_by_one(name, net, x, classes=5, **options):
    explainer = camfast.METHODS[name](net, **options)
    return torch.stack([explainer(x, c, normalize=False).heatmap for c in range(classes)], 1)


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("network", LINEAR)
def test_a_linear_head_needs_no_backward_pass(name, network, device, backward_passes):
    net = calibrated(LINEAR[network](), images(4)).to(device)
    x = X.to(device)
    expected = one_by_one(name, net, x, layers="body")
    explainer = camfast.METHODS[name](net, "body")
    backward_passes.clear()
    for _ in range(2):
        result = explainer(x, "all", normalize=False)
        torch.testing.assert_close(result.heatmap, expected, rtol=1e-4, atol=2e-6 * float(expected.abs().max()))
        torch.testing.assert_close(result.scores, net(x).detach())
    assert result.targets.tolist() == [[0, 1, 2, 3, 4]] * 3
    # Any several classes, in any order, of any number of images.
    for ids in (torch.tensor([[4, 1], [0, 0], [3, 2]]), torch.tensor([4, 3, 2, 1, 0]).expand(3, -1)):
        some = explainer(x, ids, normalize=False).heatmap
        index = ids[:, :, None, None].expand(-1, -1, 16, 20).to(device)
        torch.testing.assert_close(some, expected.gather(1, index), rtol=1e-4, atol=2e-6 * float(expected.abs().max()))
    assert not backward_passes
    best = explainer(x, camfast.TopK(3)).heatmap[:, 0]
    torch.testing.assert_close(best, explainer(x).heatmap, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("network", OTHERS)
def test_any_other_head_goes_by_autograd(name, network, backward_passes):
    net = calibrated(OTHERS[network](), images(4))
    expected = one_by_one(name, net, X, layers="body")
    explainer = camfast.METHODS[name](net, "body")
    for _ in range(2):
        backward_passes.clear()
        result = explainer(X, "all", normalize=False)
        assert backward_passes
        torch.testing.assert_close(result.heatmap, expected, rtol=1e-4, atol=2e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("name", GRADIENT)
@pytest.mark.parametrize("make", [SmallNet, DeepHead])
def test_every_gradient_method_in_several_passes(name, make, monkeypatch):
    """With room for the gradients of two classes only."""
    net = calibrated(make(), images(4))
    options = {"seed": 3, "std": 0.0} if name.startswith("smooth") else {}
    expected = one_by_one(name, net, X[:2], **options)
    monkeypatch.setattr(gradient, "_ELEMENTS", 2 * 2 * 16 * 80)
    monkeypatch.setattr("camfast.methods.smooth._ELEMENTS", 2 * 2 * 16 * 80)
    result = camfast.METHODS[name](net, **options)(X[:2], "all", normalize=False)
    torch.testing.assert_close(result.heatmap, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("eigen_smooth", [False, True])
def test_several_layers_and_smoothing_in_several_passes(net, eigen_smooth, monkeypatch):
    options = {"layers": ["stem", "body"], "eigen_smooth": eigen_smooth}
    expected = camfast.LayerCAM(net, **options)(X, "all").heatmap
    monkeypatch.setattr(gradient, "_ELEMENTS", 1)
    found = camfast.LayerCAM(net, **options)(X, "all").heatmap
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    for c in (0, 4):
        one = camfast.LayerCAM(net, **options)(X, c).heatmap
        torch.testing.assert_close(expected[:, c], one, rtol=0, atol=1e-5)


def test_methods_without_gradients(net):
    for name in ("cam", "eigen_cam", "ablation_cam", "recipro_cam", "score_cam", "random_cam"):
        options = {"seed": 1} if name == "random_cam" else {}
        result = camfast.METHODS[name](net, **options)(X[:1], "all")
        assert result.heatmap.shape == (1, 5, 16, 20)
        if name != "random_cam":
            one = camfast.METHODS[name](net)(X[:1], 3).heatmap
            torch.testing.assert_close(result.heatmap[:, 3], one, rtol=0, atol=1e-5)


def test_many_classes_come_at_the_layers_resolution():
    net = calibrated(SmallNet(classes=MANY + 1), images(4))
    for name in ("grad_cam", "cam", "xgrad_cam"):
        explainer = camfast.METHODS[name](net)
        assert explainer(X, "all").heatmap.shape == (3, 101, 8, 10)
        assert explainer(X, "all", size=(16, 20)).heatmap.shape == (3, 101, 16, 20)
        assert explainer(X, camfast.TopK(100)).heatmap.shape == (3, 100, 16, 20)
    large = camfast.GradCAM(net)(X, "all", size=(16, 20)).heatmap[:, 7]
    torch.testing.assert_close(large, camfast.grad_cam(net, X, 7).heatmap, rtol=0, atol=2e-5)


def test_a_model_that_changes_is_noticed(net, backward_passes):
    explainer = camfast.GradCAM(net)
    explainer(X, "all")

    def check(free: bool) -> None:
        backward_passes.clear()
        found = explainer(X, "all", normalize=False).heatmap
        assert (not backward_passes) == free
        expected = one_by_one("grad_cam", net, X, len(net(X)[0]))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-6 * float(expected.abs().max()))

    check(free=True)
    with torch.no_grad():  # a training step
        net.fc.weight.add_(torch.randn_like(net.fc.weight))
    check(free=True)
    net.fc = nn.Linear(16, 7)  # a new head
    check(free=True)
    net.dropout = nn.ReLU6()
    net.fc.weight.data.mul_(30)
    net.fc, net.dropout = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)), nn.Identity()
    check(free=False)
    check(free=False)


def test_a_hook_on_the_head_is_noticed(net, backward_passes):
    explainer = camfast.GradCAM(net)
    explainer(X, "all")
    net.fc.register_forward_hook(lambda module, args, output: output * args[0].amax(1, keepdim=True))
    backward_passes.clear()
    found = explainer(X, "all", normalize=False).heatmap
    assert backward_passes
    expected = one_by_one("grad_cam", net, X)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-6 * float(expected.abs().max()))


def test_training_mode_is_explained_as_it_is(net, backward_passes):
    net = calibrated(LINEAR["identity"](), images(4))
    expected = camfast.GradCAM(net)(X, "all", normalize=False).heatmap
    net.train()
    net.stem.eval(), net.body.eval()
    explainer = camfast.GradCAM(net, "body", eval_mode=False)
    torch.manual_seed(0)
    backward_passes.clear()
    found = explainer(X, "all", normalize=False).heatmap
    assert (found - expected).abs().max() > 0.01 * expected.abs().max()  # dropout took part
    assert backward_passes


@pytest.mark.parametrize("name", CLOSED)
def test_sizes_layouts_and_modes(net, name):
    explainer = camfast.METHODS[name](net)
    for size in ((16, 20), (20, 12), (9, 9)):
        x = images(2, size=size)
        expected = one_by_one(name, net, x)
        for call in (x, x.contiguous(memory_format=torch.channels_last)):
            for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
                with mode():
                    found = explainer(call, "all", normalize=False).heatmap
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(net, dtype, device, backward_passes):
    expected = camfast.grad_cam(net, X, "all").heatmap
    explainer = camfast.GradCAM(net.to(dtype).to(device), "body")
    backward_passes.clear()
    for _ in range(2):
        found = explainer(X.to(dtype).to(device), "all").heatmap
        assert (found.cpu() - expected).abs().max() < (1e-5 if dtype == torch.float64 else 0.1)
    assert not backward_passes


def test_under_autocast(net, device, backward_passes):
    net, x = net.to(device), X.to(device)
    expected = camfast.grad_cam(net, x, "all").heatmap
    explainer = camfast.GradCAM(net, "body")
    backward_passes.clear()
    for _ in range(2):
        with torch.autocast(device.type, torch.bfloat16):
            found = explainer(x, "all").heatmap
        assert found.dtype == torch.float32 and (found - expected).abs().max() < 0.1
    assert not backward_passes


def test_targets_made_in_inference_mode(net):
    with torch.inference_mode():
        ids = torch.tensor([[0, 1], [2, 3], [4, 0]])
    expected = camfast.grad_cam(net, X, ids.tolist()).heatmap
    torch.testing.assert_close(camfast.grad_cam(net, X, ids).heatmap, expected)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_image_reaches_no_other(net, bad):
    x = X.clone()
    x[1, 0, 3, 3] = bad
    explainer, clean = camfast.GradCAM(net), camfast.GradCAM(net)(X, "all").heatmap
    for _ in range(2):
        found = explainer(x, "all").heatmap
        assert found[1].isnan().all()
        torch.testing.assert_close(found[[0, 2]], clean[[0, 2]], rtol=0, atol=2e-5)
    only = camfast.GradCAM(net)
    only(torch.full_like(X, torch.nan), "all")
    torch.testing.assert_close(only(X, "all").heatmap, clean, rtol=0, atol=2e-5)


def test_other_outputs():
    tokens = TokenNet().eval()
    expected = one_by_one("grad_cam", tokens, X)
    torch.testing.assert_close(camfast.grad_cam(tokens, X, "all", normalize=False).heatmap, expected)
    segmenter = calibrated(Segmenter(), images(4))
    result = camfast.grad_cam(segmenter, X, "all", normalize=False).heatmap
    for c in range(result.shape[1]):
        one = camfast.grad_cam(segmenter, X, c, normalize=False).heatmap
        torch.testing.assert_close(result[:, c], one, rtol=1e-4, atol=1e-6)
    for name in ("full_grad", "guided_backprop", "guided_grad_cam"):
        assert camfast.METHODS[name](calibrated(SmallNet(), images(4)))(X, "all").heatmap.shape == (3, 5, 16, 20)


def test_copies_and_threads_share_nothing_wrong(net):
    explainer = camfast.GradCAM(net)
    explainer(X, "all")
    other = copy.deepcopy(net)
    other.fc.weight.data.neg_()
    found = camfast.GradCAM(other)(X, "all", normalize=False).heatmap
    torch.testing.assert_close(found, -explainer(X, "all", normalize=False).heatmap, rtol=1e-4, atol=1e-6)
