"""Signatures: whole ones on every class and function, and wrong arguments answered by name."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest
import torch
from models import SmallNet, calibrated, images

import camfast
from camfast.methods import LayerExplainer, LayerMap

X = images(2)
SHARED = {"model", "layers", "eval_mode", "class_names", "aug_smooth", "eigen_smooth", "graph", "compile"}


@pytest.fixture
def net() -> SmallNet:
    return calibrated(SmallNet(), images(4))


@pytest.mark.parametrize("name", camfast.METHODS)
def test_every_argument_is_in_the_signature(name):
    cls, function = camfast.METHODS[name], getattr(camfast, name)
    own, of_function = inspect.signature(cls).parameters, inspect.signature(function).parameters
    for parameters in (own, of_function):
        kinds = {parameter.kind for parameter in parameters.values()}
        assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
        assert all(p.annotation is not p.empty for p in parameters.values())
    assert SHARED | ({"reshape", "fuse"} if issubclass(cls, LayerExplainer) else set()) <= set(own)
    assert list(own)[:2] == ["model", "layers"]
    assert list(of_function)[:6] == ["model", "images", "targets", "layers", "size", "normalize"]
    assert set(of_function) == set(own) - {"graph", "compile"} | {"images", "targets", "size", "normalize"}


def test_signatures_of_what_hands_options_on():
    own = inspect.signature(camfast.SSCAM).parameters
    assert {"samples", "std", "seed", "channels", "autocast", "batch_size", "progress"} <= set(own)
    assert own["samples"].default == 35 and own["batch_size"].default is None

    class Mine(camfast.GradCAM):
        def __init__(self, *args, strength: float = 1.0, **options):
            super().__init__(*args, **options)

    of_guided = inspect.signature(camfast.GuidedGradCAM).parameters
    assert dict(of_guided) == dict(inspect.signature(camfast.GradCAM).parameters)
    mine = inspect.signature(Mine).parameters
    assert list(mine)[:3] == ["model", "layers", "strength"] and "reshape" in mine


def test_an_explainer_has_the_signature_of_its_call(net):
    parameters = list(inspect.signature(camfast.GradCAM(net)).parameters)
    assert parameters == ["images", "targets", "size", "normalize", "differentiable"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda net: camfast.grad_cam(net, X, target=3),
            "grad_cam() got an unexpected argument 'target'; did you mean targets=?",
        ),
        (
            lambda net: camfast.grad_cam(net, X, layer="body"),
            "grad_cam() got an unexpected argument 'layer'; did you mean layers=?",
        ),
        (lambda net: camfast.score_cam(net, X, colour=3), "score_cam() got an unexpected argument 'colour'"),
        (
            lambda net: camfast.score_cam(net, X, batchsize=3),
            "score_cam() got an unexpected argument 'batchsize'; did you mean batch_size=?",
        ),
        (lambda net: camfast.grad_cam(net), "grad_cam(): missing a required argument: 'images'"),
        (
            lambda net: camfast.LayerCAM(net, target_layers=["body"]),
            "LayerCAM() got an unexpected argument 'target_layers'; did you mean layers=?",
        ),
        (
            lambda net: camfast.LayerCAM(net, class_idx=3),
            "LayerCAM() got an unexpected argument 'class_idx'; targets= is one of its call: LayerCAM(model)(images, targets=...)",
        ),
        (lambda net: camfast.LayerCAM(net, "body", None), "LayerCAM(): too many positional arguments"),
        (
            lambda net: camfast.LayerCAM(net)(X, target=3),
            "the call of LayerCAM got an unexpected argument 'target'; did you mean targets=?",
        ),
        (
            lambda net: camfast.GuidedGradCAM(net)(X, sizes=3),
            "the call of GuidedGradCAM got an unexpected argument 'sizes'; did you mean size=?",
        ),
    ],
)
def test_a_wrong_argument_names_what_was_called(net, call, message):
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        call(net)


def test_explainers_can_be_copied(net):
    explainer = camfast.SSCAM(net, "body", samples=1, seed=0, batch_size=8)
    expected = explainer(X, 1).heatmap
    for twin in (copy.copy(explainer), copy.deepcopy(explainer), pickle.loads(pickle.dumps(explainer))):
        assert torch.equal(twin(X, 1).heatmap, expected)


# What there is before the heatmap


@pytest.mark.parametrize("targets", [1, torch.tensor([[1, 3], [0, 2]])])
def test_layer_maps_are_what_the_heatmap_is_made_of(net, targets):
    explainer = camfast.GradCAM(net, ["stem", "body"])
    found = explainer.layer_maps(X, targets)
    torch.testing.assert_close(found.output, net(X))
    assert found.chosen.targets.tolist() == ([1, 1] if isinstance(targets, int) else targets.tolist())
    assert [layer.size for layer in found.maps] == [(16, 20), (8, 10)]
    assert all(isinstance(layer, LayerMap) for layer in found.maps)
    for size in (None, "map", 7):
        expected = explainer(X, targets, size)
        again = explainer.result(found, size)
        assert torch.equal(again.heatmap, expected.heatmap) and torch.equal(again.scores, expected.scores)
        assert again.layers == ["stem", "body"] and not again.scores.requires_grad
