"""What is printed of results: a line, never the numbers that tensors hold; and one way to an overlay."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re

import numpy as np
import pytest
import torch
from models import SmallNet, calibrated, images

import camfast
from camfast import targets, zoo
from camfast.brief import brief
from camfast.pictures.preparation import Preparation
from camfast.video import Report
from camfast.video.decode import Picture

X = images(2)
PREPARATION = Preparation(32, (32, 32), (0.5,) * 3, (0.25,) * 3)


@pytest.fixture
def net() -> SmallNet:
    return calibrated(SmallNet(), images(4))


def classes_of_data() -> list[type]:
    """Every dataclass that users meet: those of the command line and of the tap are none of theirs."""
    found = {}
    for module in pkgutil.walk_packages(camfast.__path__, "camfast."):
        if not re.search("__main__|[.]cli|[.]model", module.name):
            for value in vars(importlib.import_module(module.name)).values():
                own = isinstance(value, type) and value.__module__.startswith("camfast")
                if own and dataclasses.is_dataclass(value) and not value.__name__.startswith("_"):
                    found[f"{value.__module__}.{value.__name__}"] = value
    return list(found.values())


def test_no_dataclass_with_tensors_has_the_repr_that_dumps_them():
    holding = [
        cls
        for cls in classes_of_data()
        if any(
            re.search(r"Tensor|ndarray|Module", re.sub(r"Callable\[.*\]", "", str(f.type)))
            for f in dataclasses.fields(cls)
        )
    ]
    assert len(holding) > 10 and {camfast.Explanation, camfast.RealtimeResult, zoo.Network} <= set(holding)
    generated = [cls.__qualname__ for cls in holding if hasattr(cls.__repr__, "__wrapped__")]
    assert generated == []


def test_explanations(net):
    names = ["ant", "bee", "cat", "dog", "eel"]
    one = camfast.grad_cam(net, X, 3, layers="body", class_names=names)
    assert repr(one) == "Explanation('dog' by grad_cam of body: heatmap [2, 16, 20], scores [2, 5])"
    many = camfast.layer_cam(net, X, "all", layers=["stem", "body"])
    assert (
        repr(many)
        == "Explanation(0, 1, 2, ... 5 in all by layer_cam of stem, body: heatmap [2, 5, 16, 20], scores [2, 5])"
    )
    mask = targets.Segmentation(1, torch.ones(16, 20, dtype=torch.bool))
    assert repr(mask) == str(mask) == "Segmentation(category=1, mask=bool [16, 20])"
    guided = camfast.guided_backprop(net, X, 1)
    assert repr(guided).startswith(
        "GuidedExplanation(1 by guided_backprop: "
    ) and "attributions [2, 3, 16, 20]" in repr(guided)
    concepts = camfast.DeepFeatureFactorization(net, "body", components=2)(X)
    assert "Factorization(" in repr(concepts) and "concepts [2, " in repr(concepts) and "\n" not in repr(concepts)
    found = camfast.GradCAM(net, "body").layer_maps(X, 1)
    assert len(repr(found)) < 900 and "tensor(" not in repr(found)


def test_frames_of_a_stream_and_reports(net):
    engine = camfast.Realtime(net, layers="body", preparation=PREPARATION, class_names=list("abcde"), targets=[1, 2])
    result = engine(np.zeros((40, 60, 3), np.uint8))
    wanted = (
        r"RealtimeResult\('b' 0\.\d\d, 'c' 0\.\d\d: picture \[2, 40, 60, 3\], heatmap \[2, \d+, \d+\], \d+\.\d ms\)"
    )
    assert re.fullmatch(wanted, repr(result))
    report = Report(None, 12, 0.5, 1.25, "interrupted", ["no sound"], rows=[])
    assert repr(report) == "Report(nothing kept: 12 frames, 0.5 s of the clip in 1.2 s; stopped: interrupted; no sound)"
    assert repr(Picture(np.zeros((2, 3, 3), np.uint8), 0, 1)) == "Picture(pixels=uint8 [2, 3, 3], pts=0, duration=1)"


def test_what_looks_at_layers(net):
    grid = camfast.grid(torch.rand(4, 5, 5))
    assert repr(grid).startswith("Grid(tensor=uint8 [") and len(repr(grid)) < 80
    network = zoo.Network("small", net, PREPARATION, 5, list("abcde"))
    assert repr(network).startswith("Network(name='small', model=SmallNet, ")
    assert "class_names=['a', 'b', 'c', ... 5 in all]" in repr(network)
    assert repr(camfast.FeatureMaps(net, ["stem", "body"])) == "FeatureMaps(SmallNet, layers=['stem', 'body'])"
    gradients = camfast.Gradients(net, "body")
    assert repr(gradients) == "Gradients(SmallNet, layers=['body'])"
    found = gradients(X, lambda output: output[:, 1].sum())
    assert re.fullmatch(r"body: \[2, \d+, 8, 10\]", repr(found))
    with gradients:
        net(X).sum().backward()
    assert repr(gradients) == repr(found)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.ones(2, 3), "float32 [2, 3]"),
        (np.ones((2, 3)), "float64 [2, 3]"),
        (torch.ones(2, device="meta"), "float32 [2] on meta"),
        ({"a": torch.ones(1)}, "{'a': float32 [1]}"),
        ((1, [2.0, None]), "(1, [2, None])"),
        ("x" * 100, repr("x" * 59 + "…")),
        (torch.relu, "relu"),
        (object(), "object"),
    ],
)
def test_values_in_a_few_words(value, words):
    assert brief(value) == words


# overlay() of every result


def test_overlay_is_a_method_of_every_result(net):
    frame = torch.randint(0, 255, (40, 60, 3), dtype=torch.uint8)
    engine = camfast.Realtime(net, layers="body", preparation=PREPARATION, targets=1)
    result = engine(frame)
    assert torch.equal(result.overlay(), result.picture)
    again = result.overlay(frame, "inferno", 0.6)
    assert torch.equal(again, result.overlay(frame)) and (again.int() - result.picture.int()).abs().max() <= 1
    assert torch.equal(result.overlay(frame, alpha=0.0), frame)
    assert not torch.equal(result.overlay(frame, "viridis"), again)
    engine.targets = [1, 2]
    for given in (frame, torch.stack([frame, frame.flip(0)])):
        several = engine(given)
        assert several.overlay(given).shape == several.overlay().shape == (*given.shape[:-3], 2, 40, 60, 3)
        assert (several.overlay(given).int() - several.overlay().int()).abs().max() <= 1
    with pytest.raises(ValueError, match="expected frames to draw on with colormap= or alpha=, got none"):
        result.overlay(alpha=0.2)
    with pytest.raises(ValueError, match=r"expected frames of 40 x 60 pixels, got \[1, 41, 60, 3\]"):
        result.overlay(torch.zeros(41, 60, 3, dtype=torch.uint8))


@pytest.mark.parametrize("result", [camfast.Explanation, camfast.RealtimeResult])
def test_its_arguments_are_the_same(result):
    import inspect

    assert list(inspect.signature(result.overlay).parameters) == ["self", "frames", "colormap", "alpha"]
