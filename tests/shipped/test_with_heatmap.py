"""A network with its heat in plain operations: equal to the explainer, and taken by every tracer."""

from __future__ import annotations

import pytest
import torch
from heads import CLASSES, HEADS, SIZE, network
from hypothesis import given, settings
from hypothesis import strategies as st
from models import SmallNet, images
from torch import nn

import camfast
from camfast.ops import reference
from camfast.shipped import SHIPPED, HeatNetwork
from camfast.shipped.decompositions import table
from camfast.shipped.formulas import eigen_map
from camfast.shipped.kinds import explainer_class

METHODS = [name for name in SHIPPED if name != "cam"]
BATCH = images(3, size=SIZE, seed=5)


def shipped(head: str, method: str = "grad_cam", targets=None, **options) -> HeatNetwork:
    options.setdefault("example", images(2, size=SIZE))
    return camfast.with_heatmap(network(head), method, "trunk", targets, **options)


def explained(head: str, method: str, batch, targets=None, size=None, normalize=True):
    return explainer_class(method)(network(head), "trunk")(batch, targets, size, normalize)


def assert_same(found, expected, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(found[0], expected.scores, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1], expected.heatmap, rtol=0, atol=tolerance)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_gives_what_the_explainer_gives(head):
    own = shipped(head)
    assert own.form == ("closed form" if head == "pooled" else "backward pass")
    assert_same(own(BATCH), explained(head, "grad_cam", BATCH))  # other images, and another number of them


@pytest.mark.parametrize(
    ("method", "head"),
    [*((method, "pooled") for method in METHODS), ("xgrad_cam", "hidden layer"), ("recipro_cam", "hidden layer")],
)
def test_every_method_gives_what_the_explainer_gives(method, head):
    own = shipped(head, method, normalize=False, size="map")
    expected = explained(head, method, BATCH, size="map", normalize=False)
    scale = float(expected.heatmap.abs().max())
    torch.testing.assert_close(own(BATCH)[1], expected.heatmap, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("head", ["pooled", "relu before pooling"])
def test_cam(head):
    assert_same(shipped(head, "cam")(BATCH), explained(head, "cam", BATCH))


ROWS = [[1, 2], [0, 4], [3, 3]]


@pytest.mark.parametrize(
    ("head", "method", "targets"),
    [
        *(("pooled", "grad_cam", targets) for targets in (3, ROWS, "all")),
        *(("layer norm", "grad_cam", targets) for targets in ([4, 0, 1], camfast.TopK(2))),
        ("pooled", "recipro_cam", ROWS),
        ("layer norm", "recipro_cam", "all"),
        ("pooled", "fem", camfast.TopK(2)),
    ],
    ids=str,
)
def test_targets(head, method, targets):
    own = shipped(head, method, targets, example=BATCH if isinstance(targets, list) else images(2, size=SIZE))
    assert own.dynamic == (not isinstance(targets, list))
    expected = explained(head, method, BATCH, targets)
    assert_same(own(BATCH), expected)
    assert own(BATCH)[1].shape == expected.heatmap.shape


def test_class_names_and_sizes():
    own = shipped("pooled", targets="dog", class_names=["a", "b", "c", "dog", "e"], size=(10, 12))
    assert_same(own(BATCH), explained("pooled", "grad_cam", BATCH, 3, (10, 12)))


@pytest.mark.parametrize("method", ["grad_cam", "eigen_cam"])
def test_several_layers(method):
    own = camfast.with_heatmap(
        network("layer norm"), method, ["trunk.2", "trunk", "head.0"], example=images(2, size=SIZE)
    )
    expected = explainer_class(method)(network("layer norm"), ["trunk.2", "trunk", "head.0"])(BATCH)
    assert_same(own(BATCH), expected)


def test_a_segmentation_network_and_one_found_layer():
    class Planes(SmallNet):
        def forward(self, x):
            return nn.functional.conv2d(self.body(self.stem(x)), self.fc.weight[..., None, None])

    model = Planes().eval()
    own = camfast.with_heatmap(model, example=images(2, size=SIZE))
    assert_same(own(BATCH), camfast.grad_cam(model, BATCH))


def test_the_example_may_be_left_out():
    model = SmallNet().eval()
    model.default_cfg = {"input_size": (3, 24, 20)}
    own = camfast.with_heatmap(model)
    batch = images(3, size=(24, 20))
    assert_same(own(batch), camfast.grad_cam(model, batch))


@pytest.mark.parametrize("head", ["pooled", "layer norm"])
def test_openvino_xais_recipes(head):
    """What openvino_xai 1.1.0 inserts: the channels' mean, and the network's own probabilities of one position alone."""
    model = network(head)
    A = model.trunk(BATCH).detach()
    own = shipped(head, "activation_mean", size="map", normalize=False)(BATCH)[1]
    torch.testing.assert_close(own, A.mean(1), rtol=1e-5, atol=1e-6)
    own = shipped(head, "recipro_cam", "all", size="map", normalize=False, gaussian=False)(BATCH)[1]
    for y in range(A.shape[2]):
        for x in range(A.shape[3]):
            kept = torch.zeros_like(A)
            kept[:, :, y, x] = A[:, :, y, x]
            torch.testing.assert_close(own[:, :, y, x], model.head(kept).softmax(1), rtol=1e-4, atol=1e-6)


# Tracers


@pytest.mark.parametrize(
    ("head", "method"),
    [("pooled", "recipro_cam"), ("attention", "xgrad_cam"), ("flattened", "eigen_cam")],
)
def test_tracers_take_it_and_keep_the_batch_dynamic(head, method):
    own, example = shipped(head, method), images(2, size=SIZE)
    expected = own(BATCH)
    program = torch.export.export(own, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    called = {str(node.target) for node in program.graph.nodes}
    assert not [name for name in called if "camfast" in name or "backward" in name or "grad" in name]
    for traced in (program.module(), torch.jit.trace(own, example, check_trace=False)):
        torch.testing.assert_close(traced(BATCH), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(traced(BATCH[:1]), own(BATCH[:1]), rtol=1e-5, atol=1e-5)


def test_compiles_as_one_graph():
    own = shipped("layer norm")
    compiled = torch.compile(own, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(BATCH), own(BATCH), rtol=1e-5, atol=1e-5)


def test_nothing_is_recorded_and_parameters_are_shared():
    model = network("layer norm").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    own = camfast.with_heatmap(model, "grad_cam", "trunk", example=images(2, size=SIZE))
    scores, heat = own(BATCH)
    assert not scores.requires_grad and not heat.requires_grad
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    memory = {p.data_ptr() for p in model.parameters()}
    assert {p.data_ptr() for p in own.parameters()} <= memory
    assert len({p.data_ptr() for p in own.parameters()}) == len(list(own.parameters()))  # each once


# Formulas


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**31))
def test_power_iteration(channels, rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(2, channels, rows, columns, generator=generator, dtype=torch.float64)
    A += 3 * torch.randn(1, channels, 1, 1, generator=generator) * torch.randn(1, 1, rows, columns, generator=generator)
    torch.testing.assert_close(eigen_map(A), reference.eigen_cam(A, normalize=False), rtol=1e-4, atol=1e-4)


def test_power_iteration_of_what_is_not_finite():
    A = torch.randn(3, 4, 3, 3)
    A[0, 0, 0, 0], A[1, 0, 0, 0] = torch.nan, torch.inf
    expected = reference.eigen_cam(A, normalize=False)
    torch.testing.assert_close(eigen_map(A), expected, rtol=1e-3, atol=1e-3, equal_nan=True)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2), st.sampled_from([1, 2]), st.booleans()
)
def test_the_derivative_of_a_convolution(kernel, stride, padding, dilation, groups, transposed):
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 4 // groups, kernel, kernel, dtype=torch.float64)
    settings_ = ([stride] * 2, [padding] * 2, [dilation] * 2, transposed, [0, 0], groups)
    if transposed and dilation * (kernel - 1) < padding:
        return
    y = torch.ops.aten.convolution(x, weight, None, *settings_)
    gradient = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, x, gradient)
    found = table()[torch.ops.aten.convolution_backward.default](
        gradient, x.detach(), weight, None, *settings_, [True, False, False]
    )[0]
    torch.testing.assert_close(found, expected)


# What is refused, each in one sentence


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"method": "score_cam"}, ValueError, "score_cam cannot be shipped: it runs the whole network"),
        ({"method": "random_cam"}, ValueError, "draws random weights"),
        ({"method": "grad_can"}, ValueError, "close to it: 'grad_cam'"),
        ({"method": 3}, TypeError, "method must be a name"),
        ({"layers": "trunc"}, ValueError, "'trunk'"),
        ({"targets": lambda scores: scores[0]}, TypeError, "which run"),
        ({"targets": CLASSES}, ValueError, "from 0 to 4"),
        ({"targets": [1, 2, 3], "example": images(2, size=SIZE)}, ValueError, "one target an image"),
        ({"normalize": "shared"}, ValueError, "True or False"),
        ({"example": torch.zeros(2, 3, 4, dtype=torch.uint8)}, TypeError, "floating tensor"),
        ({"method": "cam", "layers": "trunk.2"}, ValueError, "CAM needs"),
        ({"gaussian": False}, ValueError, "gaussian= is of recipro_cam alone"),
        ({"targets": camfast.TopK(9)}, ValueError, "at least 9 classes"),
    ],
)
def test_refusals(arguments, kind, words):
    given_ = {"layers": "trunk", "example": images(2, size=SIZE), **arguments}
    with pytest.raises(kind, match=words) as caught:
        camfast.with_heatmap(network("hidden layer"), **given_)
    assert "\n" not in str(caught.value)


def test_a_network_that_is_no_graph():
    class Branching(SmallNet):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else -super().forward(x)

    with pytest.raises(ValueError, match="as one graph of operations") as caught:
        camfast.with_heatmap(Branching().eval(), example=images(2, size=SIZE))
    assert "\n" not in str(caught.value)


def test_a_network_of_one_image_alone():
    class Fixed(SmallNet):
        def forward(self, x):
            return super().forward(x).reshape(2, -1)

    with pytest.raises(ValueError, match="dynamic=False ships that"):
        camfast.with_heatmap(Fixed().eval(), example=images(2, size=SIZE))
    own = camfast.with_heatmap(Fixed().eval(), example=images(2, size=SIZE), dynamic=False)
    assert own(images(2, size=SIZE))[1].shape == (2, *SIZE)


def test_images_of_another_size():
    with pytest.raises(ValueError, match=r"images must be \[N, 3, 32, 40\], as the example was"):
        shipped("pooled")(images(2, size=(16, 16)))


def test_very_many_classes_behind_a_deep_head():
    model = nn.Sequential(
        network("pooled").trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 40)
    )
    with pytest.raises(ValueError, match="of 16 at most, got 40"):
        camfast.with_heatmap(model.eval(), "grad_cam", "0", "all", example=images(2, size=SIZE))
