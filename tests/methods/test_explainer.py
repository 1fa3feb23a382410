"""The methods and what they share: sizes, layers, targets, inputs, errors."""

from __future__ import annotations

import copy

import models
import pytest
import torch
from interpreter import run_python
from models import SmallNet, calibrated, images
from tolerances import TOLERANCES
from torch import nn

import camfast
from camfast import TopK, ops
from camfast.methods import linear_head
from camfast.ops import reference

GRADIENT = ["grad_cam", "grad_cam_plus_plus", "xgrad_cam", "hires_cam", "layer_cam", "grad_cam_elementwise"]
ALL = ["cam", *GRADIENT]
IMAGES = images(3)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return calibrated(SmallNet(), images(6, seed=1))


def by_hand(model, layer, x, index):
    """Activations and gradients by plain autograd over the whole network."""
    kept = []
    handle = layer.register_forward_hook(lambda module, args, output: kept.append(output) or output.clone())
    scores = model(x)
    handle.remove()
    (gradient,) = torch.autograd.grad(scores[:, index].sum(), kept)
    return kept[0].detach(), gradient


# Results


@pytest.mark.parametrize("name", GRADIENT)
@pytest.mark.parametrize("normalize", [True, False])
def test_equals_the_reference_on_plain_autograd(name, normalize, model, device):
    net, x = copy.deepcopy(model).to(device), IMAGES.to(device)
    A, G = by_hand(net, net.body, x, 2)
    expected = getattr(reference, name)(A, G, (16, 20), normalize)
    result = camfast.METHODS[name](net)(x, 2, normalize=normalize)
    scale = 1 if normalize else float(expected.abs().max())
    torch.testing.assert_close(result.heatmap, expected, rtol=0, atol=3e-6 * scale)
    assert expected.std() > 0.05 * scale
    torch.testing.assert_close(result.scores, net(x).detach())
    assert result.heatmap.dtype == torch.float32 and result.heatmap.device == x.device
    assert result.method == name and result.layers == ["body"] and result.targets.tolist() == [2, 2, 2]


def test_cam_is_the_class_row_of_the_linear_layer(model):
    with torch.no_grad():
        A = model.body(model.stem(IMAGES))
        planes = torch.einsum("kc,nchw->nkhw", model.fc.weight, A)
    result = camfast.cam(model, IMAGES, torch.tensor([[0, 4], [1, 1], [2, 3]]), size="map", normalize=False)
    expected = torch.stack([planes[i, row] for i, row in enumerate([[0, 4], [1, 1], [2, 3]])])
    torch.testing.assert_close(result.heatmap, expected, rtol=1e-5, atol=1e-6)


def test_cam_is_grad_cam_after_global_pooling(model):
    positions = 8 * 10
    for targets in (None, 3, TopK(4)):
        cam = camfast.cam(model, IMAGES, targets, normalize=False)
        grad_cam = camfast.grad_cam(model, IMAGES, targets, normalize=False)
        torch.testing.assert_close(cam.heatmap, grad_cam.heatmap * positions, rtol=1e-4, atol=1e-5)
        ours, theirs = camfast.cam(model, IMAGES, targets), camfast.grad_cam(model, IMAGES, targets)
        torch.testing.assert_close(ours.heatmap, theirs.heatmap, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ALL)
def test_several_targets_are_the_targets_one_by_one(name, model, device):
    net, x = copy.deepcopy(model).to(device), IMAGES.to(device)
    targets = torch.tensor([[0, 4, 2], [1, 1, 3], [2, 3, 0]])
    explainer = camfast.METHODS[name](net)
    together = explainer(x, targets, normalize=False)
    assert together.heatmap.shape == (3, 3, 16, 20)
    for k in range(3):
        alone = explainer(x, targets[:, k], normalize=False).heatmap
        torch.testing.assert_close(together.heatmap[:, k], alone, rtol=1e-4, atol=1e-6 * float(alone.abs().max()))
    assert torch.equal(together.targets.cpu(), targets)
    assert explainer(x, targets[:, :1]).heatmap.shape == (3, 1, 16, 20)


@pytest.mark.parametrize("name", ALL)
def test_images_do_not_depend_on_their_batch(name, model):
    explainer = camfast.METHODS[name](model)
    together = explainer(IMAGES, [0, 1, 2], normalize=False).heatmap
    for i in range(3):
        alone = explainer(IMAGES[i : i + 1], i, normalize=False).heatmap[0]
        torch.testing.assert_close(together[i], alone, rtol=1e-4, atol=1e-6 * float(alone.abs().max()))


@pytest.mark.parametrize("name", ALL)
def test_values_lie_between_0_and_1(name, model):
    heatmap = camfast.METHODS[name](model)(IMAGES, TopK(5)).heatmap
    assert heatmap.min() >= 0 and heatmap.max() <= 1
    tops = heatmap.amax((-1, -2))
    assert ((tops > 0.999) | (tops == 0)).all() and (tops > 0).any()


@pytest.mark.parametrize("name", GRADIENT)
@pytest.mark.parametrize("fuse", ["mean", "max"])
def test_several_layers(name, fuse, model):
    explainer = camfast.METHODS[name](model, ["body", "stem"], fuse=fuse)
    maps = []
    for layer in (model.stem, model.body):
        raw = getattr(ops, name)(*by_hand(model, layer, IMAGES, 1), None, False).clamp(min=0)
        low = raw - raw.amin((1, 2), keepdim=True)
        low = low / (low.amax((1, 2), keepdim=True) + 1e-7)
        maps.append(nn.functional.interpolate(low[:, None], (16, 20), mode="bilinear")[:, 0])
    expected = torch.stack(maps).mean(0) if fuse == "mean" else torch.stack(maps).amax(0)
    expected = expected - expected.amin((1, 2), keepdim=True)
    expected = expected / (expected.amax((1, 2), keepdim=True) + 1e-7)
    torch.testing.assert_close(explainer(IMAGES, 1).heatmap, expected, rtol=0, atol=3e-6)
    assert explainer.layers == ["body", "stem"]
    many = explainer(IMAGES, TopK(2))
    again = explainer(IMAGES, many.targets[:, 1]).heatmap
    torch.testing.assert_close(many.heatmap[:, 1], again, rtol=0, atol=1e-5)


def test_several_layers_raw(model):
    both = camfast.grad_cam(model, IMAGES, 1, ["stem", "body"], normalize=False).heatmap
    each = [camfast.grad_cam(model, IMAGES, 1, name, normalize=False).heatmap for name in ("stem", "body")]
    torch.testing.assert_close(both, (each[0] + each[1]) / 2)


# Sizes


@pytest.mark.parametrize(
    ("size", "expected"),
    [(None, (16, 20)), ("map", (8, 10)), (7, (7, 7)), ((5, 33), (5, 33)), ([40, 40], (40, 40)), (1, (1, 1))],
)
def test_sizes(size, expected, model):
    for targets, lead in ((None, (3,)), (TopK(2), (3, 2))):
        assert camfast.layer_cam(model, IMAGES, targets, size=size).heatmap.shape == (*lead, *expected)


def test_size_of_several_layers(model):
    result = camfast.grad_cam(model, IMAGES, 1, ["body", "stem"], size="map")
    assert result.heatmap.shape == (3, 16, 20)  # the larger of 8 x 10 and 16 x 20


@pytest.mark.parametrize("size", ["image", (3,), (3, 4, 5), 2.5, {"height": 3}])
def test_what_is_no_size(size, model):
    with pytest.raises(ValueError, match="size must be None, 'map', an int or 2 ints, got"):
        camfast.grad_cam(model, IMAGES, 1, size=size)


def test_sizes_that_are_not_positive(model):
    with pytest.raises(ValueError, match="size"):
        camfast.grad_cam(model, IMAGES, 1, size=0)
    with pytest.raises((TypeError, ValueError), match="size"):
        camfast.grad_cam(model, IMAGES, 1, size=(3, 2.5))


# Models and inputs


@pytest.mark.parametrize(("rank", "size"), [(1, (40,)), (3, (6, 8, 10))])
@pytest.mark.parametrize("name", ALL)
def test_sequences_and_volumes(name, rank, size):
    net = SmallNet(rank=rank).eval()
    x = images(2, size=size)
    for targets, lead in ((1, (2,)), (TopK(3), (2, 3))):
        result = camfast.METHODS[name](net)(x, targets)
        assert result.heatmap.shape == (*lead, *size) and result.layers == ["body"]
    if name != "cam":
        A, G = by_hand(net, net.body, x, 1)
        expected = getattr(reference, name)(A, G, size, True)
        torch.testing.assert_close(camfast.METHODS[name](net)(x, 1).heatmap, expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("name", GRADIENT)
@pytest.mark.parametrize("make", [models.TokenNet, models.ChannelsLastNet, models.DeepHead, models.InPlaceAfter])
def test_networks_of_other_kinds(name, make):
    net = calibrated(make(), IMAGES)
    explainer = camfast.METHODS[name](net)
    result = explainer(IMAGES, 1)
    (layer,) = [net.get_submodule(layer) for layer in explainer.layers]
    A, G = by_hand(net, layer, IMAGES, 1)
    if make is models.TokenNet:
        A, G = (t[:, 1:].unflatten(1, (4, 5)).permute(0, 3, 1, 2) for t in (A, G))
    elif make is models.ChannelsLastNet:
        A, G = (t.permute(0, 3, 1, 2) for t in (A, G))
    expected = getattr(reference, name)(A.contiguous(), G.contiguous(), (16, 20), True)
    torch.testing.assert_close(result.heatmap, expected, rtol=0, atol=1e-5)


def test_several_inputs():
    net = models.TwoInputs().eval()
    x, meta = images(2), torch.randn(2, 4)
    expected = camfast.grad_cam(net, (x, meta), 1)
    for form in ([x, meta], {"image": x, "meta": meta}, {"meta": meta, "image": x}):
        torch.testing.assert_close(camfast.grad_cam(net, form, 1).heatmap, expected.heatmap)
    torch.testing.assert_close(expected.scores, net(x, meta).detach())
    assert expected.heatmap.shape == (2, 16, 20) and expected.images is x


def test_pixel_values_are_the_image():
    class Net(SmallNet):
        def forward(self, hints, pixel_values):
            return super().forward(pixel_values) + hints.mean((1, 2))[:, None]

    x = images(2)
    result = camfast.grad_cam(Net().eval(), {"hints": torch.randn(2, 9, 9), "pixel_values": x}, 1)
    assert result.images is x and result.heatmap.shape == (2, 16, 20)


def test_segmentation():
    net = models.Segmenter().eval()
    result = camfast.grad_cam(net, IMAGES, 3, normalize=False)
    with torch.no_grad():
        features = net.body(net.stem(IMAGES))
    features.requires_grad_()
    out = nn.functional.interpolate(net.classifier(features), (16, 20), mode="bilinear")
    (G,) = torch.autograd.grad(out[:, 3].mean((1, 2)).sum(), features)
    expected = reference.grad_cam(features.detach(), G, (16, 20), False)
    torch.testing.assert_close(result.heatmap, expected, rtol=1e-4, atol=1e-8)
    assert result.scores.shape == (3, 5, 16, 20)

    def pixel(scores):  # one pixel of one class
        return scores[3, 4, 7]

    assert camfast.grad_cam(net, IMAGES, pixel).heatmap.shape == (3, 16, 20)


@pytest.mark.parametrize("name", ["grad_cam", "cam"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(name, dtype, model, device):
    net = copy.deepcopy(model).to(device, dtype)
    result = camfast.METHODS[name](net)(IMAGES.to(device, dtype), TopK(2))
    assert result.heatmap.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert result.scores.dtype == dtype
    exact = copy.deepcopy(model).double()
    expected = camfast.METHODS[name](exact)(IMAGES.double(), result.targets.cpu())
    torch.testing.assert_close(result.heatmap.double().cpu(), expected.heatmap, **_loosened(dtype))


def _loosened(dtype):
    """The model's own rounding comes on top of the op's."""
    return {"rtol": 0, "atol": 4 * TOLERANCES[dtype]["atol"]}


@pytest.mark.parametrize("name", ["grad_cam", "cam"])
def test_under_autocast(name, model, device):
    net, x = copy.deepcopy(model).to(device), IMAGES.to(device)
    expected = camfast.METHODS[name](net)(x, 1).heatmap
    with torch.autocast(device.type, torch.bfloat16):
        result = camfast.METHODS[name](net)(x, 1)
    assert result.scores.dtype == torch.bfloat16 and result.heatmap.dtype == torch.float32
    torch.testing.assert_close(result.heatmap, expected, **_loosened(torch.bfloat16))


def test_compiled_models(model):
    x = images(2)
    expected = camfast.grad_cam(model, x, 1).heatmap
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    in_place = copy.deepcopy(model)
    in_place.compile(backend="eager")
    in_place(x)
    for net in (compiled, in_place):
        torch.testing.assert_close(camfast.grad_cam(net, x, 1).heatmap, expected)
        torch.testing.assert_close(camfast.GradCAM(net, "body.2")(x, 1).heatmap, expected)


def test_traced_graphs(model):
    graph = torch.fx.symbolic_trace(model)
    result = camfast.grad_cam(graph, IMAGES, 1)
    torch.testing.assert_close(result.heatmap, camfast.grad_cam(model, IMAGES, 1).heatmap)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_script_modules_are_refused(model):
    with pytest.raises(TypeError, match="must run in Python, got a ScriptModule"):
        camfast.GradCAM(torch.jit.trace(model, IMAGES))


# Non-finite values


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_image_reaches_no_other(name, bad, model):
    x = IMAGES.clone()
    expected = camfast.METHODS[name](model)(x, [0, 1, 2]).heatmap
    x[1, 0, 3, 3] = bad
    heatmap = camfast.METHODS[name](model)(x, [0, 1, 2]).heatmap
    assert heatmap[1].isnan().all()
    torch.testing.assert_close(heatmap[[0, 2]], expected[[0, 2]])


# Errors


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(16, 20, dtype=torch.int64), ValueError, r"images must have shape \[N, C, H, W\].*got \[16, 20\]"),
        (torch.zeros(0, 3, 16, 20), ValueError, r"at least one image, got an empty batch \[0, 3, 16, 20\]"),
        (3, TypeError, "images must be a tensor, a sequence or a mapping of tensors, got int"),
        ("photo.png", TypeError, "got str"),
        ([], TypeError, "at least one tensor"),
        ({"name": "photo"}, TypeError, "at least one tensor"),
    ],
)
def test_what_are_no_images(x, error, message, model):
    with pytest.raises(error, match=message):
        camfast.grad_cam(model, x)


def test_an_image_without_its_batch(model):
    with pytest.raises(ValueError, match=r"expected a batch \[N, C, H, W\], got \[3, 16, 20\]; add a dimension"):
        camfast.grad_cam(model, IMAGES[0])


def test_errors_of_the_model_pass_through(model):
    with pytest.raises(RuntimeError, match="channels"):
        camfast.grad_cam(model, images(2, channels=4))


def test_what_is_no_model():
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got function"):
        camfast.GradCAM(lambda x: x)
    with pytest.raises(ValueError, match="fuse must be 'mean' or 'max', got 'sum'"):
        camfast.GradCAM(SmallNet(), fuse="sum")
    with pytest.raises(TypeError, match=r"grad_cam\(\) got an unexpected argument 'colour'"):
        camfast.grad_cam(SmallNet(), IMAGES, colour=3)


def test_cam_without_the_head_it_needs():
    with pytest.raises(ValueError, match="head of global average pooling and one linear layer after 'body'"):
        camfast.cam(models.DeepHead().eval(), IMAGES)
    with pytest.raises(ValueError, match="after 'stem'"):
        camfast.cam(SmallNet().eval(), IMAGES, layers="stem")
    with pytest.raises(TypeError, match="CAM explains classes, got target callables"):
        camfast.cam(SmallNet().eval(), IMAGES, lambda scores: scores[0])


def test_cam_heads_of_other_forms():
    class Convolutional(SmallNet):
        def __init__(self):
            super().__init__()
            self.fc = nn.Conv2d(16, 5, 1)

        def head(self, features):
            return torch.relu(self.fc(features)).mean((2, 3))

    for net, act in ((models.InPlaceAfter(), torch.relu), (Convolutional(), lambda t: t)):
        net.eval()
        with torch.no_grad():
            A = act(net.body(net.stem(IMAGES)))
        expected = torch.einsum("c,nchw->nhw", net.fc.weight.detach()[2].flatten(), A)
        result = camfast.cam(net, IMAGES, 2, size="map", normalize=False)
        torch.testing.assert_close(result.heatmap, expected, rtol=1e-5, atol=1e-6)


# The surface


def test_the_public_names_are_there():
    assert all(hasattr(camfast, name) for name in camfast.__all__) and len(set(camfast.__all__)) == len(camfast.__all__)


def test_functions_take_the_options_of_both(model):
    explainer = camfast.XGradCAM(model, "stem", class_names=list("abcde"))
    expected = explainer(IMAGES, "c", size=9, normalize=False)
    result = camfast.xgrad_cam(
        model, IMAGES, "c", "stem", class_names=list("abcde"), size=9, normalize=False, eval_mode=True
    )
    assert torch.equal(result.heatmap, expected.heatmap) and result.class_names == list("abcde")


def test_explainers_close(model):
    with camfast.GradCAM(model, "body") as explainer:
        assert repr(explainer) == "GradCAM(SmallNet, layers=['body'])"
        explainer(IMAGES)
    with pytest.raises(RuntimeError, match="this GradCAM is closed"):
        explainer(IMAGES)
    explainer.close()


def test_importing_takes_torch_and_numpy_alone():
    heavy = "torchvision timm PIL matplotlib tqdm skimage av ray pandas scipy sklearn safetensors cv2 torch._dynamo"
    code = (
        "import sys, torch; before = set(sys.modules); import camfast; "
        f"print([m for m in '{heavy}'.split() if m in sys.modules and m not in before])"
    )
    assert run_python("-c", code).stdout.strip() == "[]"


def _head_of(name: str) -> nn.Module:
    convolution = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True))
    heads = {
        "linear": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)),
        "no bias": nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4, bias=False)),
        "two": nn.Sequential(nn.Flatten(), nn.Linear(6 * 36, 5), nn.Hardswish(), nn.Dropout(), nn.Linear(5, 4)),
        "convolution": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 4, 1), nn.Flatten()),
        "softmax": nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, 4), nn.Softmax(1)),
    }
    torch.manual_seed(0)
    return nn.Sequential(convolution, heads[name]).double().eval()


@pytest.mark.parametrize("name", ["linear", "no bias", "two", "convolution", "softmax"])
@pytest.mark.parametrize("targets", [2, [3, 0], torch.tensor([[1, 2, 0], [3, 3, 1]])], ids=["int", "list", "K"])
def test_the_last_linear_layer_is_left_out_of_the_backward_pass(name, targets, monkeypatch):
    """Starting behind it changes nothing, and happens exactly where the scores come straight from it."""
    model, x = _head_of(name), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    starts = []
    real = linear_head.last_linear
    monkeypatch.setattr(linear_head, "last_linear", lambda *given: starts.append(real(*given)) or starts[-1])
    quick = camfast.grad_cam_plus_plus(model, x, targets, layers="0", normalize=False)
    assert [start is not None for start in starts] == [name in ("linear", "no bias", "two", "convolution")]
    monkeypatch.setattr(linear_head, "last_linear", lambda *given: None)
    plain = camfast.grad_cam_plus_plus(model, x, targets, layers="0", normalize=False)
    torch.testing.assert_close(quick.heatmap, plain.heatmap, rtol=1e-12, atol=0)
    assert quick.heatmap.std() > 0
