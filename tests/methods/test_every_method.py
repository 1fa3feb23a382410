"""What holds for every method there is: half precision, errors in one sentence, and a model left as it was."""

from __future__ import annotations

import pytest
import torch
from models import SmallNet, TokenNet, bystander_state, calibrated, images
from torch import nn

import camfast

X = images(2)
OPTIONS = {
    "ss_cam": {"samples": 2, "seed": 1, "std": 0.1},
    "is_cam": {"samples": 2},
    "sess": {"num_scales": 2},
    "smooth_grad_cam_plus_plus": {"samples": 2, "seed": 1},
    "random_cam": {"seed": 1},
    "deep_feature_factorization": {"components": 2},
}
WITHOUT_TARGETS = {"deep_feature_factorization"}
CLASSES_ONLY = {"cam", "finer_cam"}
OF_ACTIVATIONS = {name for name, method in camfast.METHODS.items() if method.needs == "activations"}


class Network(SmallNet):
    """With a layer of its own for the pooled map."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)

    def head(self, features: torch.Tensor) -> torch.Tensor:
        return self.fc(self.dropout(self.pool(features).flatten(1)))


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return TokenNet().eval() if name == "legrad" else calibrated(Network(), images(4))


def explainer(name: str, net: nn.Module, **options) -> camfast.Explainer:
    return camfast.METHODS[name](net, **OPTIONS.get(name, {}), **options)


def same(before: dict, net: nn.Module) -> bool:
    after = bystander_state(net)
    for kind in ("hooks", "training", "requires_grad", "identity", "attributes"):
        assert before[kind] == after[kind], kind
    for kind in ("tensors", "grad"):
        for name, value in before[kind].items():
            assert (value is None and after[kind][name] is None) or torch.equal(value, after[kind][name]), name
    return True


@pytest.mark.parametrize("name", camfast.METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(name, dtype, device):
    targets = None if name in WITHOUT_TARGETS else [1, 3]
    expected = explainer(name, network(name))(X, targets).heatmap
    result = explainer(name, network(name).to(dtype).to(device))(X.to(dtype).to(device), targets)
    assert result.heatmap.dtype == torch.float32 and result.heatmap.shape == expected.shape
    assert (result.heatmap.cpu() - expected).abs().mean() < (0.02 if dtype == torch.float16 else 0.1)


@pytest.mark.parametrize("name", camfast.METHODS)
def test_a_model_in_training_is_left_as_it_was(name):
    net = network(name).train()
    net.requires_grad_(False)
    net.fc.requires_grad_(True)
    net(X).sum().backward()
    x, before = X.clone(), bystander_state(net)
    targets = None if name in WITHOUT_TARGETS else camfast.TopK(2)
    made = explainer(name, net)
    with torch.inference_mode():
        made(x, targets)
    result = made(x, targets)
    assert same(before, net) and torch.equal(x, X)
    assert not result.heatmap.requires_grad and not result.scores.requires_grad
    assert torch.is_grad_enabled()


def cut_off(scores):
    return scores[0].detach()


BAD = {
    "class out of range": (99, "targets must be classes from 0 to 4, got 99"),
    "negative class": (-1, "targets must be classes from 0 to 4, got -1"),
    "fewer targets than images": ([1], "expected one target an image, 2, got 1"),
    "more than there are classes": (camfast.TopK(9), r"TopK\(9\) needs at least 9 classes, got 5"),
    "a name": ("tabby", "no class names are known"),
    "not a scalar": (lambda scores: scores, r"a target callable must return one scalar, got shape \[5\]"),
    "cut off": (cut_off, "differentiable function of the scores, got a tensor cut off"),
}


@pytest.mark.parametrize("name", [name for name in camfast.METHODS if name not in WITHOUT_TARGETS])
def test_bad_targets(name):
    net = network(name)
    before, made = bystander_state(net), explainer(name, net)
    for kind, (targets, message) in BAD.items():
        if callable(targets):
            gradient_free = not camfast.METHODS[name].uses_gradients
            if name in CLASSES_ONLY or name in OF_ACTIVATIONS or (kind == "cut off" and gradient_free):
                continue
        with pytest.raises(ValueError, match=message):
            made(X, targets)
    for targets in (1.5, torch.tensor([0.0, 1.0]), {"class": 1}):
        with pytest.raises(TypeError):
            made(X, targets)
    assert same(before, net)


@pytest.mark.parametrize("name", camfast.METHODS)
def test_bad_images_and_sizes(name):
    made = explainer(name, network(name))
    with pytest.raises(TypeError, match="float images expected, got uint8"):
        made(X.to(torch.uint8))
    with pytest.raises(TypeError, match="expected float32 images, as the model's weights are, got float64"):
        made(X.double())
    with pytest.raises(ValueError, match="expected at least one image, got an empty batch"):
        made(X[:0])
    with pytest.raises(ValueError, match="size must be None, 'map', an int or 2 ints"):
        made(X, size=(3,))
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got str"):
        camfast.METHODS[name]("resnet50")


@pytest.mark.parametrize("name", camfast.METHODS)
def test_layers_that_do_not_fit(name):
    net = network(name)
    before = bystander_state(net)
    if name in ("full_grad", "guided_backprop"):
        with pytest.raises(ValueError, match="leave it out"):
            camfast.METHODS[name](net, "body")
        return
    with pytest.raises(ValueError, match="expected a layer of the model, got 'bdy'"):
        explainer(name, net, layers="bdy")
    layer, message = (
        ("fc", "must return tokens") if name == "legrad" else ("pool", "must give a map of several positions")
    )
    with pytest.raises(ValueError, match=message):
        explainer(name, net, layers=layer)(X)
    if name != "legrad":
        with pytest.raises(ValueError, match="float tensor of 3 or more dimensions, got none"):
            explainer(name, net, layers="fc")(X)
    assert same(before, net)
