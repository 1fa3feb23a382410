"""Heat in one range: of all maps of a call, of two calls, of every method."""

from __future__ import annotations

import pytest
import torch
from models import SmallNet, images
from test_every_method import OPTIONS, WITHOUT_TARGETS, X, explainer, network

import camfast


def plain(raw, low, high):
    return ((raw - low) / (high - low)).clamp(0, 1)


@pytest.mark.parametrize("name", camfast.METHODS)
def test_every_method_has_one_range_for_all_maps(name):
    targets = None if name in WITHOUT_TARGETS else camfast.TopK(3)
    made = explainer(name, network(name))
    shared = made(X, targets, normalize="shared")
    heat = shared.heatmap
    assert heat.min() == 0 and heat.max() == 1 and (heat.flatten(1).amax(1) < 1).sum() == 1
    low, high = shared.scale
    if not name.startswith("guided"):  # their raw map is a signed sum, their heat one of absolute values
        raw = made(X, targets, normalize=False)
        assert raw.scale == "raw" and raw.heatmap.max() == pytest.approx(high)
        torch.testing.assert_close(heat, plain(raw.heatmap.clamp(min=0), low, high))
        torch.testing.assert_close(made(X, targets, normalize=(-1, 2.5)).heatmap, plain(raw.heatmap, -1, 2.5))
    again = made(X, targets, normalize=shared.scale)
    torch.testing.assert_close(again.heatmap, heat)
    assert again.scale == shared.scale
    with pytest.raises(ValueError, match="low below high, got 'all'"):
        made(X, targets, normalize="all")


def test_functions_take_it_and_two_runs_can_be_compared():
    torch.manual_seed(0)
    model = SmallNet().eval()
    first = camfast.grad_cam(model, X, 1, normalize="shared")
    weaker = camfast.grad_cam(model, X * 0.5, 1, normalize=first.scale)
    raw = camfast.grad_cam(model, X * 0.5, 1, normalize=False).heatmap
    torch.testing.assert_close(weaker.heatmap, plain(raw, *first.scale))
    assert camfast.grad_cam(model, X, 1).scale == "each" and first[0].scale == first.scale


@pytest.mark.parametrize("options", [{"aug_smooth": True}, {"layers": ["stem.0", "body"]}, {"eigen_smooth": True}])
def test_options(options):
    torch.manual_seed(0)
    made = camfast.GradCAM(SmallNet().eval(), **options)
    shared, raw = made(X, [0, 1], normalize="shared"), made(X, [0, 1], normalize=False).heatmap
    torch.testing.assert_close(shared.heatmap, plain(raw.clamp(min=0), *shared.scale))


def test_one_map_is_as_by_its_own_range():
    torch.manual_seed(0)
    made = camfast.HiResCAM(SmallNet().eval())
    own, shared = made(X[:1], 2, size="map").heatmap, made(X[:1], 2, size="map", normalize="shared").heatmap
    torch.testing.assert_close(own, shared, rtol=0, atol=1e-4)


def test_an_image_that_is_not_finite_counts_for_no_range():
    torch.manual_seed(0)
    made = camfast.GradCAM(SmallNet().eval(), "body")
    x = images(3)
    expected = made(x[1:], 1, normalize="shared")
    x[0, 0, 0, 0] = float("nan")
    found = made(x, 1, normalize="shared")
    assert found.heatmap[0].isnan().all() and found.scale == pytest.approx(expected.scale)
    torch.testing.assert_close(found.heatmap[1:], expected.heatmap)
    x[:] = float("nan")
    assert made(x, 1, normalize="shared").heatmap.isnan().all()


def test_nothing_for_the_target_is_said():
    class Against(SmallNet):
        def forward(self, x):
            return -self.body(self.stem(x)).mean((2, 3))

    made = camfast.HiResCAM(Against().eval(), "body")
    with pytest.warns(camfast.errors.DoubtWarning, match="blank"):
        assert not made(X, 1, normalize="shared").heatmap.any()


@pytest.mark.parametrize("wrong", [(1, 1), (2, 1), (0,), (0, 1, 2), (0, float("inf")), (0, "1"), None, 1.5, "each"])
def test_what_is_no_range_is_refused_before_the_pass(wrong):
    ran = []
    model = SmallNet().eval()
    model.register_forward_hook(lambda *_: ran.append(1))
    for method in (camfast.grad_cam, camfast.guided_backprop, camfast.deep_feature_factorization):
        with pytest.raises(ValueError, match="normalize must be True, False, 'shared' or "):
            method(model, X, normalize=wrong)
    assert not ran and OPTIONS
