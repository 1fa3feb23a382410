"""Classes on any axis of the scores: a class target is that class by hand, or a refusal of one sentence."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import camfast
from camfast.methods.chosen import choose
from camfast.model.class_axis import AmbiguousClasses, Classes
from camfast.model.outputs import scores_of
from camfast.targets import Class, Contrast, Field, Probability

RAW = {"size": "map", "normalize": False}
REDUCTIONS = {
    "mean": lambda s, c: s[:, c].mean(1),
    "best": lambda s, c: s[:, c].amax(1),
    "sum": lambda s, c: s[:, c].sum(1),
}


class Answers(nn.Module):
    """Scores ``[N, classes, places]`` of each class at several places, laid out and wrapped as asked."""

    def __init__(self, classes: int, places: int, how: str, wrap: str, hint: str = "") -> None:
        super().__init__()
        self.c = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.place = nn.Parameter(torch.randn(places, 6))
        self.fc = nn.Linear(6, classes)
        self.how, self.wrap = how, wrap
        if hint == "num_classes":
            self.num_classes = classes
        if hint == "config":
            self.config = SimpleNamespace(num_labels=classes - 1)

    def plain(self, x: Tensor) -> Tensor:
        """``[N, classes, places]``."""
        return self.fc(self.c(x).mean((2, 3)).unsqueeze(1) * self.place).transpose(1, 2)

    def forward(self, x: Tensor):
        s = self.plain(x)
        if self.how == "places first":
            s = s.transpose(1, 2)
        if self.how == "batch second":
            s = s.permute(2, 0, 1)
        if self.how == "boxes":
            s = torch.cat([100 + s[:, :1].sigmoid().expand(-1, 4, -1), s], 1)
        if self.how == "softmax":
            s = s.transpose(1, 2).softmax(-1)
        loss = s.mean()
        return {
            "tensor": s,
            "loss first": (loss, s),
            "dict": {"loss": loss, "logits": s},
            "nested": {"losses": [loss], "head": {"logits": s}},
            "object": SimpleNamespace(scores=s),
        }[self.wrap]


def heat_by_hand(net: Answers, x: Tensor, score) -> Tensor:
    """Grad-CAM of ``score`` of ``[N, classes, places]``."""
    with torch.no_grad():
        A = net.c(x)
    A.requires_grad_()
    s = net.fc(A.mean((2, 3)).unsqueeze(1) * net.place).transpose(1, 2)
    if net.how == "softmax":
        s = s.softmax(1)
    (G,) = torch.autograd.grad(score(s).sum(), A)
    return (G.mean((2, 3), keepdim=True) * A).sum(1).detach()


def close(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).abs().max() <= 1e-4 * wanted.abs().max() + 1e-9)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    classes=st.integers(2, 7),
    places=st.integers(1, 7),
    images=st.integers(1, 4),
    how=st.sampled_from(["classes first", "places first", "batch second", "boxes", "softmax"]),
    wrap=st.sampled_from(["tensor", "loss first", "dict", "nested", "object"]),
    hint=st.sampled_from(["", "names", "num_classes", "config"]),
    target=st.sampled_from(["number", "name", "Class", "Field", "tensor [N, K]", "axis"]),
    data=st.data(),
)
def test_a_class_is_that_class_or_refused(classes, places, images, how, wrap, hint, target, data):
    torch.manual_seed(classes * 100 + places * 10 + images)
    net, x = Answers(classes, places, how, wrap, hint).eval(), torch.randn(images, 3, 6, 6)
    c = data.draw(st.integers(0, classes - 1))
    names = [f"c{k}" for k in range(classes)] if hint == "names" or target == "name" else None
    field = {"loss first": 1, "dict": "logits", "object": "scores"}.get(wrap)
    nested = Field("head", Field("logits", c))
    targets = {
        "number": c,
        "name": f"c{c}",
        "Class": Class(c),
        "Field": Field(field, c) if field is not None else nested if wrap == "nested" else c,
        "tensor [N, K]": torch.tensor([[c, (c + 1) % classes]] * images),
        "axis": Class(c, axis={"classes first": 1, "boxes": 1}.get(how, -1), over="sum"),
    }[target]
    try:
        found = camfast.GradCAM(net, layers="c", class_names=names)(x, targets=targets, **RAW)
    except (ValueError, TypeError) as error:
        assert "\n" not in str(error)
        assert target != "axis" or how in ("boxes", "batch second")
        return
    if target == "axis" and how == "boxes":
        return  # the user said that the columns are classes
    if target == "tensor [N, K]":
        for k in range(2):
            wanted = [heat_by_hand(net, x, lambda s, r=r, k=k: r(s, (c + k) % classes)) for r in REDUCTIONS.values()]
            assert any(close(found.heatmap[:, k], w) for w in wanted)
        return
    ways = [REDUCTIONS["sum"]] if target == "axis" else REDUCTIONS.values()
    assert any(close(found.heatmap, heat_by_hand(net, x, lambda s, r=r: r(s, c))) for r in ways)
    if names is not None and target == "name":
        assert found.label(0) == f"c{c}"


@pytest.mark.parametrize("over", ["best", "sum", "mean", 0, 4, -1])
def test_a_class_over_the_other_axis(over):
    torch.manual_seed(0)
    net, x = Answers(4, 5, "places first", "tensor").eval(), torch.randn(2, 3, 6, 6)
    found = camfast.GradCAM(net, layers="c")(x, targets=Class(2, axis=-1, over=over), **RAW).heatmap
    one = REDUCTIONS.get(over, lambda s, c: s[:, c, over])
    assert close(found, heat_by_hand(net, x, lambda s: one(s, 2)))


def test_top_classes_and_all_of_queries():
    """By the best query of each; a query's number is never among them."""
    torch.manual_seed(1)
    net, x = Answers(3, 7, "places first", "dict").eval(), torch.randn(2, 3, 6, 6)
    best = net.plain(x).detach().amax(2)
    explain = camfast.GradCAM(net, layers="c", class_names=["a", "b", "c"])
    assert torch.equal(explain(x).targets, best.argmax(1))
    assert torch.equal(explain(x, targets=camfast.TopK(2)).targets, best.topk(2, 1).indices)
    every = explain(x, targets="all", **RAW)
    assert every.targets.tolist() == [[0, 1, 2]] * 2 and every.label(1, 2) == "c"
    for k in range(3):
        assert close(every.heatmap[:, k], heat_by_hand(net, x, lambda s, k=k: s[:, k].amax(1)))
    with pytest.raises(ValueError, match="classes from 0 to 2, got 3"):
        explain(x, targets=3)


def test_targets_of_several_classes_read_one_place():
    """The place where the target's own class scores highest."""
    torch.manual_seed(2)
    net, x = Answers(4, 5, "places first", "tensor").eval(), torch.randn(1, 3, 6, 6)
    place = int(net.plain(x)[0, 1].argmax())
    found = camfast.GradCAM(net, layers="c")(x, targets=Probability(1), **RAW).heatmap
    assert close(found, heat_by_hand(net, x, lambda s: s[:, :, place].softmax(1)[:, 1]))
    found = camfast.GradCAM(net, layers="c", class_names=list("abcd"))(x, targets=Contrast("b", "d"), **RAW).heatmap
    assert close(found, heat_by_hand(net, x, lambda s: s[:, 1, place] - s[:, 3, place]))


def test_no_object_is_explained_only_when_asked_for():
    torch.manual_seed(3)
    net, x = Answers(4, 7, "places first", "dict", hint="config").eval(), torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        net.fc.bias[3] = 50.0
    assert (camfast.GradCAM(net, layers="c")(x).targets < 3).all()
    assert camfast.GradCAM(net, layers="c")(x, targets=3).targets.tolist() == [3, 3]


def test_rows_of_boxes():
    torch.manual_seed(4)
    net, x = Answers(6, 20, "boxes", "tensor", hint="num_classes").eval(), torch.randn(2, 3, 6, 6)
    names = ["person", "bicycle", "car", "bus", "dog", "cat"]
    explain = camfast.GradCAM(net, layers="c", class_names=names)
    result = explain(x)
    assert torch.equal(result.targets - 4, net.plain(x).amax(2).argmax(1)) and result.label(0) in names
    found = explain(x, targets="bus", **RAW)
    assert found.targets.tolist() == [7, 7] and found.label(0) == "bus"
    wanted = heat_by_hand(net, x, lambda s: s[:, 3].amax(1))
    assert close(found.heatmap, wanted) and close(explain(x, targets=Class(3), **RAW).heatmap, wanted)
    for targets in (3, [3, 3], torch.tensor([3, 3])):
        with pytest.raises(ValueError, match=r"or camfast.targets.Class\(3\) for class 3 of 6"):
            explain(x, targets=targets)


def test_scores_that_nothing_tells_of():
    scores = torch.randn(2, 5, 7)
    with pytest.raises(AmbiguousClasses, match=r"Class\(c, axis=-1, over='best'\)"):
        choose(1, scores)
    assert choose(1, scores, [f"c{k}" for k in range(7)]).axis.axis == 2
    assert choose(1, scores, [f"c{k}" for k in range(5)]).axis.axis == 1
    with pytest.raises(AmbiguousClasses):
        Classes(list("abc")).axis(torch.randn(2, 3, 3))


def test_rows_fewer_than_images():
    row = torch.randn(1, 5)
    assert scores_of({"logits": row}, 6, rows="fewer") is row
    assert scores_of(torch.randn(2, 5), 6, rows="fewer").shape == (2, 5)
    for wrong in (torch.randn(4, 5), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="one row of scores an image"):
            scores_of(wrong, 6, rows="fewer")


def test_labels_never_raise_what_nobody_can_read():
    torch.manual_seed(5)
    net, x = Answers(4, 1, "classes first", "tensor").eval(), torch.randn(2, 3, 6, 6)
    few = camfast.GradCAM(net, layers="c", class_names=["a", "b"])
    assert few(x, targets=3).label(0) == "3"
    result = camfast.GradCAM(net, layers="c")(x, targets=torch.tensor([[0, 1], [2, 3]]))
    assert result.label(1, 1) == "3"
    with pytest.raises(ValueError, match="which of 2 targets an image"):
        result.label(0)
    with pytest.raises(IndexError, match="a target from 0 to 1, got 2"):
        result.label(0, 2)
    with pytest.raises(IndexError, match="an image from 0 to 1, got 5"):
        result.label(5, 0)


@pytest.mark.parametrize(
    ("a", "b"),
    [(1, None), ("cat", camfast.TopK(2)), (Class(1, axis=-1), Probability(3)), (Field("x", 1), Field("x", 2))],
)
def test_kinds_of_targets(a, b):
    from camfast.methods.reading import kind_of

    assert kind_of(a) == kind_of(b)
    assert kind_of(Field("x", 1)) != kind_of(Field("y", 1)) and kind_of(Field(0, 1)) != kind_of(Field(1, 1))
