"""The table of methods, methods of one's own, and the options that smooth any of them."""

from __future__ import annotations

import copy
import re
import typing
from pathlib import Path

import pytest
import torch
from models import SmallNet, TokenNet, calibrated, images

import camfast
from camfast import methods
from camfast.methods import explainer, registry

README = Path(__file__).parents[2] / "README.md"
METHODS_PAGE = README.parent / "docs" / "methods.md"
X = images(2)


@pytest.fixture
def net() -> SmallNet:
    return calibrated(SmallNet(), images(4))


@pytest.fixture
def table(monkeypatch):
    """Methods of a test are no one else's."""
    monkeypatch.setattr(registry, "METHODS", dict(camfast.METHODS))
    return registry.METHODS


# The table


def test_every_method_has_a_class_a_function_and_a_row():
    rows = dict(re.findall(r"^\| ([^|]+) \| (`[A-Z].+`) \|$", README.read_text(), re.M))
    in_rows = [name for row in rows.values() for name in re.findall(r"`(\w+)`", row)]
    assert sorted(in_rows) == sorted(cls.__name__ for cls in camfast.METHODS.values())
    kinds = {}
    for name, cls in camfast.METHODS.items():
        assert cls.name == name and getattr(camfast, cls.__name__) is cls and cls.__doc__
        function = getattr(camfast, name)
        assert function.__name__ == name and function.__doc__.startswith(cls.__doc__.splitlines()[0])
        assert {cls.__name__, name} <= set(camfast.__all__)
        kinds.setdefault(cls.needs, set()).add(cls.__name__)
    assert {frozenset(re.findall(r"`(\w+)`", row)) for row in rows.values()} == {frozenset(k) for k in kinds.values()}
    assert set(kinds) == set(typing.get_args(explainer.Needs))


def test_a_name_is_given_once(net, table):
    with pytest.raises(ValueError, match="expected a name that no method has, got 'grad_cam', the name of GradCAM"):
        camfast.method("grad_cam")(lambda A, G: G.mean(-1))
    again = []
    for factor in (1, -1):  # a notebook's cell, run again

        @camfast.method("twice")
        def twice(A, G, factor=factor):
            return factor * G.mean(-1)

        again.append(twice(net, X, 1, normalize=False).heatmap)
    assert torch.equal(again[0], -again[1]) and table["twice"](net)(X).method == "twice"


# Methods of one's own


def test_the_example_of_the_docs(net, table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(@camfast\.method.*?)```", METHODS_PAGE.read_text(), re.S)
    assert len(code.strip().splitlines()) < 10
    scope = {"camfast": camfast, "model": net, "images": X}
    exec(code, scope)
    name = re.search(r'method\("(\w+)"\)', code)[1]
    A, G = by_hand(net, X, 1)
    expected = camfast.reference.cam(A, G.clamp(min=0).flatten(2).mean(2), (16, 20))
    result = scope[name](net, X, 1)
    torch.testing.assert_close(result.heatmap, expected, rtol=0, atol=2e-6)
    assert [path.name for path in tmp_path.glob("*.png")] == ["positive.png"]
    assert result.method == name and table[name](net, "stem")(X).layers == ["stem"]


def by_hand(net, x, target):
    A = net.body(net.stem(x)).detach().requires_grad_()
    (G,) = torch.autograd.grad(net.head(A)[:, target].sum(), A)
    return A.detach(), G


@pytest.mark.parametrize("targets", [1, camfast.TopK(3)])
def test_a_weight_for_each_position_and_rules_of_activations(net, table, targets):
    @camfast.method("positions")
    def positions(A, G):
        """Its own documentation."""
        return G * A.sigmoid()

    @camfast.method("spread_cam", needs="activations")
    def spread_cam(A):
        return A.std(-1)

    result = positions(net, X, targets, normalize=False)
    A, _ = by_hand(net, X, 1)
    for k, ids in enumerate(result.targets.reshape(2, -1).T):
        G = by_hand(net, X, ids[0])[1][:1], by_hand(net, X, ids[1])[1][1:]
        expected = camfast.reference.hires_cam(A, torch.cat(G) * A.sigmoid(), (16, 20), False)
        torch.testing.assert_close(result.heatmap.reshape(2, -1, 16, 20)[:, k], expected)
    assert positions.__doc__.startswith("Its own documentation.") and table["positions"].needs == "gradients"

    spread = spread_cam(net, X, targets, normalize=False).heatmap.reshape(2, -1, 16, 20)
    expected = camfast.reference.cam(A, A.flatten(2).std(2), (16, 20), False)
    for own in spread.unbind(1):
        torch.testing.assert_close(own, expected)
    assert table["spread_cam"].needs == "activations" and not table["spread_cam"].uses_gradients
    assert spread_cam(TokenNet().eval(), images(2, size=(16, 20))).heatmap.shape == (2, 16, 20)


def test_a_class_of_ones_own(net, table):
    class MeanCAM(methods.LayerExplainer):
        """The mean over the channels, times a strength."""

        name = "mean_cam"
        needs = "activations"
        uses_gradients = False

        def __init__(self, model, layers=None, *, strength: float = 1.0, **options):
            super().__init__(model, layers, **options)
            self.strength = strength

        def maps(self, tap, chosen, inputs):
            return [methods.SummedMap.of(A, A.mean(1) * self.strength) for A in self.grids(tap, inputs)]

    mean_cam = methods.register(MeanCAM)
    A, _ = by_hand(net, X, 1)
    result = mean_cam(net, X, layers="body", size="map", normalize=False, strength=3.0)
    torch.testing.assert_close(result.heatmap, 3 * A.mean(1))
    assert result.method == "mean_cam" and table["mean_cam"] is MeanCAM
    with pytest.raises(
        TypeError, match=r"mean_cam\(\) got an unexpected argument 'strenght'; did you mean strength=\?"
    ):
        mean_cam(net, X, strenght=2.0)


def test_rules_that_are_none(net, table):
    for name in ("", "my cam", 3, None):
        with pytest.raises(ValueError, match="expected a name such as"):
            camfast.method(name)
    with pytest.raises(ValueError, match="needs must be"):
        camfast.method("mine", needs="everything")
    number = camfast.method("number")(lambda A, G: 3.0)
    with pytest.raises(TypeError, match="a weight rule must return a tensor, got float from number"):
        number(net, X)
    shape = camfast.method("shape")(lambda A, G: G.sum())
    with pytest.raises(ValueError, match=r"must return weights \[2, 16\] or \[2, 16, 80\], got \[\] from shape"):
        shape(net, X)


# Smoothing

SUMS = [
    "GradCAM",
    "GradCAMPlusPlus",
    "XGradCAM",
    "HiResCAM",
    "LayerCAM",
    "GradCAMElementWise",
    "ScoreCAM",
    "ShapleyCAM",
]


def peers(net, name, targets, **options):
    peer = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    twin = copy.deepcopy(net)
    found = getattr(peer, name)(twin, [twin.body])(X.clone(), [ClassifierOutputTarget(c) for c in targets], **options)
    return torch.from_numpy(found)


@pytest.mark.parametrize("name", [*SUMS, "FEM", "FullGrad"])
@pytest.mark.filterwarnings("ignore")
def test_aug_smooth_equals_the_peer(net, name):
    options = {} if name == "FullGrad" else {"layers": "body"}
    result = getattr(camfast, name)(net, aug_smooth=True, **options)(X, [1, 3])
    torch.testing.assert_close(result.heatmap, peers(net, name, [1, 3], aug_smooth=True), rtol=0, atol=3e-6)
    torch.testing.assert_close(result.scores, net(X).detach())


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.filterwarnings("ignore")
def test_eigen_smooth_equals_the_peer_up_to_sign(net, name):
    explainer = getattr(camfast, name)(net, "body", eigen_smooth=True)
    found = peers(net, name, [1, 3], eigen_smooth=True)
    raw = explainer(X, [1, 3], size="map", normalize=False).heatmap
    turned = camfast.ops.resize_normalize(-raw, (16, 20), relu=True)
    ours = explainer(X, [1, 3]).heatmap
    for i in range(2):
        assert min((ours[i] - found[i]).abs().max(), (turned[i] - found[i]).abs().max()) < 3e-6
    assert (ours - getattr(camfast, name)(net, "body")(X, [1, 3]).heatmap).abs().max() > 1e-3


def test_smoothing_of_several_targets_layers_and_composites(net):
    many = camfast.LayerCAM(net, ["stem", "body"], aug_smooth=True, eigen_smooth=True)(
        X, torch.tensor([[1, 3], [0, 2]])
    )
    for k in range(2):
        one = camfast.LayerCAM(net, ["stem", "body"], aug_smooth=True, eigen_smooth=True)(X, many.targets[:, k])
        torch.testing.assert_close(many.heatmap[:, k], one.heatmap, rtol=0, atol=1e-5)
    finer = camfast.FinerCAM(net, eigen_smooth=True, alpha=0.0, comparisons=[1])(X, 1, normalize=False).heatmap
    plain = camfast.GradCAM(net, eigen_smooth=True)(X, 1, normalize=False).heatmap
    torch.testing.assert_close(finer / finer.abs().max(), plain / plain.abs().max(), rtol=0, atol=1e-4)


def test_targets_are_those_of_the_images_themselves(net):
    """Where no target is given, a rescaled image may be of another class: the map is of the image's own."""
    result = camfast.grad_cam(net, X, aug_smooth=True)
    assert result.targets.tolist() == net(X).argmax(1).tolist()
    torch.testing.assert_close(result.heatmap, camfast.grad_cam(net, X, result.targets, aug_smooth=True).heatmap)


def test_smoothing_where_it_makes_no_sense(net):
    for cls, option in [("EigenCAM", "eigen_smooth"), ("ReciproCAM", "eigen_smooth"), ("GuidedBackprop", "aug_smooth")]:
        with pytest.raises(ValueError, match=f"{cls} has no {option}, got {option}=True"):
            getattr(camfast, cls)(net, **{option: True})
    with pytest.raises(ValueError, match=r"aug_smooth mirrors pictures and volumes, got images \[2, 3, 32\]"):
        camfast.grad_cam(calibrated(SmallNet(rank=1), images(4, size=(32,))), images(2, size=(32,)), aug_smooth=True)
