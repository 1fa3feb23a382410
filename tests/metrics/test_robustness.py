"""Max-sensitivity, infidelity, coherency, randomised layers: against captum, scikit-image, SciPy and plain code."""

from __future__ import annotations

import models
import numpy as np
import pytest
import torch
from torch import nn

import camfast
from camfast import metrics
from camfast.metrics.fidelity import _squares


@pytest.fixture
def case():
    images = models.images(3, size=(24, 20))
    return models.calibrated(models.SmallNet(), images), images


# Similarity


def test_pearson_and_spearman_are_scipys():
    stats = pytest.importorskip("scipy.stats")
    a, b = torch.rand(4, 9, 8), torch.rand(4, 9, 8)
    b[0] = a[0] ** 3
    a[1] = a[1].round(decimals=1)  # ranks that are shared
    for call, peer in ((metrics.pearson, stats.pearsonr), (metrics.spearman, stats.spearmanr)):
        expected = [peer(x.flatten(), y.flatten())[0] for x, y in zip(a.numpy(), b.numpy(), strict=True)]
        assert call(a, b).tolist() == pytest.approx(expected, abs=1e-6)
    assert (
        metrics.spearman(a, b)[0] == pytest.approx(1)
        and metrics.pearson(torch.ones(1, 4, 4), b[:1, :4, :4]).isnan().all()
    )


def test_ssim_is_scikit_images():
    peer = pytest.importorskip("skimage.metrics")
    a, b = torch.rand(3, 15, 12).double(), torch.rand(3, 15, 12).double()
    b[0] = a[0]
    expected = []
    for x, y in zip(a.numpy(), b.numpy(), strict=True):
        span = max(x.max(), y.max()) - min(x.min(), y.min())
        expected.append(peer.structural_similarity(x, y, data_range=span))
    assert metrics.ssim(a, b).tolist() == pytest.approx(expected, abs=1e-9)
    with pytest.raises(ValueError, match="at least 7 x 7"):
        metrics.ssim(a[:, :5], b[:, :5])


# ADCC


def test_adcc_and_its_parts(case):
    model, images = case
    explainer = camfast.GradCAM(model)
    result = explainer(images)
    found = metrics.adcc(explainer, images)
    again = explainer(images * result.heatmap[:, None], result.targets).heatmap
    expected = torch.tensor(
        [np.corrcoef(x.flatten(), y.flatten())[0, 1] for x, y in zip(result.heatmap, again, strict=True)]
    )
    torch.testing.assert_close(found.coherency, ((1 + expected) / 2).float(), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.complexity, result.heatmap.abs().mean((1, 2)))
    torch.testing.assert_close(found.average_drop, metrics.average_drop(model, images, result))
    parts = torch.stack([found.coherency, 1 - found.complexity, 1 - found.average_drop])
    torch.testing.assert_close(found.value, 3 / (1 / parts).sum(0))
    torch.testing.assert_close(metrics.coherency(explainer, images, result), found.coherency)
    torch.testing.assert_close(metrics.coherency(lambda x, t: explainer(x, t).heatmap, images, result), found.coherency)


def test_coherency_is_pytorch_grad_cams(case):
    model, images = case
    peers = pytest.importorskip("pytorch_grad_cam.metrics.arcc")
    explainer = camfast.GradCAM(model)
    result = explainer(images)

    def base(input_tensor, targets):
        return explainer(input_tensor, targets).heatmap.numpy()

    theirs = peers.Coherency()(images, result.heatmap.numpy(), result.targets, model, base)
    torch.testing.assert_close(
        metrics.coherency(explainer, images, result), torch.from_numpy(theirs).float(), rtol=0, atol=1e-4
    )
    theirs = peers.Complexity()(result.heatmap.numpy())
    torch.testing.assert_close(metrics.complexity(result), torch.from_numpy(theirs), rtol=0, atol=1e-6)


def test_coherency_of_several_targets(case):
    model, images = case
    explainer = camfast.GradCAM(model)
    both = metrics.coherency(explainer, images, targets=[[0, 3]] * 3)
    alone = [metrics.coherency(explainer, images, targets=category) for category in (0, 3)]
    torch.testing.assert_close(both, torch.stack(alone, 1), rtol=0, atol=1e-5)


# Max-sensitivity and infidelity


def test_max_sensitivity_is_captums(case):
    model, images = case
    captum = pytest.importorskip("captum.metrics")
    explainer = camfast.GradCAM(model)
    result = explainer(images)
    found = metrics.max_sensitivity(explainer, images, radius=0.1, samples=4, seed=1)
    generator = torch.Generator().manual_seed(1)

    def noisy(inputs):
        inputs = inputs[0] if isinstance(inputs, tuple) else inputs
        copies = inputs.reshape(3, -1, *inputs.shape[1:])  # captum repeats every image; one at a time here
        return (copies + ((2 * torch.rand(3, *inputs.shape[1:], generator=generator) - 1) * 0.1)[:, None]).flatten(0, 1)

    def explained(inputs):
        inputs = inputs[0] if isinstance(inputs, tuple) else inputs
        return (explainer(inputs, result.targets).heatmap,)

    theirs = captum.sensitivity_max(explained, images, noisy, n_perturb_samples=4, max_examples_per_batch=3)
    torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-6)
    assert (found > 0).all()


@pytest.mark.parametrize("scaled", [False, True])
def test_infidelity_is_captums(case, scaled):
    model, images = case
    captum = pytest.importorskip("captum.metrics")
    result = camfast.grad_cam(model, images)
    found = metrics.infidelity(model, images, result, samples=9, side=0.4, scaled=scaled, seed=2)
    squares = iter(_squares(images, 9, 0.4, 2))

    def without(inputs, baselines=None):
        gone = next(squares)[:, None] * inputs
        return gone, inputs - gone

    heat = result.heatmap[:, None].expand_as(images)
    theirs = captum.infidelity(
        model,
        without,
        images,
        heat,
        target=result.targets,
        n_perturb_samples=9,
        max_examples_per_batch=3,
        normalize=scaled,
    )
    torch.testing.assert_close(found, theirs.detach(), rtol=1e-3, atol=1e-5)


def test_squares_are_squares_inside_the_picture():
    squares = _squares(torch.zeros(5, 3, 21, 30), 8, 0.3, 0)
    assert squares.shape == (8, 5, 21, 30) and squares.flatten(2).sum(2).unique().tolist() == [36]
    rows, columns = squares.any(3).sum(2), squares.any(2).sum(2)
    assert rows.unique().tolist() == columns.unique().tolist() == [6]
    assert torch.equal(squares, _squares(torch.zeros(5, 3, 21, 30), 8, 0.3, 0))


def test_a_perfect_explanation_has_no_infidelity():
    """Of a linear model weight times image is exact, here with one channel and a heat that is the weight."""
    weight = torch.rand(1, 12, 14)

    class Linear(nn.Module):
        def forward(self, x):
            return torch.stack([(x[:, 0] * weight[0]).sum((1, 2)), torch.zeros(len(x))], 1)

    images = torch.rand(2, 1, 12, 14)
    found = metrics.infidelity(Linear(), images, weight.expand(2, -1, -1), 0, scaled=False)
    assert float(found.abs().max()) < 1e-6
    assert float(metrics.infidelity(Linear(), images, weight.expand(2, -1, -1) * 7, 0).abs().max()) < 1e-6
    assert float(metrics.infidelity(Linear(), images, 1 - weight.expand(2, -1, -1), 0).min()) > 0.1


# Randomised layers


@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_randomised_layers_by_hand(case, order):
    """The same with deep copies, whose layers are reset one after the other."""
    import copy

    model, images = case
    result = camfast.GradCAM(model, "body")(images)
    found = metrics.layer_randomisation(model, images, layers="body", order=order, seed=5)
    assert found.layers[0] == "fc" and set(found.layers) == {
        name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.Linear))
    }
    assert float(found.depth[-1]) == 1 and found.similarity.shape == (len(found.layers), 3)
    for step in range(len(found.layers)):
        other = copy.deepcopy(model)
        torch.manual_seed(5)
        for name in found.layers[: step + 1] if order == "cascading" else [found.layers[step]]:
            other.get_submodule(name).reset_parameters()
        heat = camfast.GradCAM(other, "body")(images, result.targets).heatmap
        expected = metrics.spearman(result.heatmap, heat)
        torch.testing.assert_close(found.similarity[step], expected, rtol=0, atol=1e-5, equal_nan=True)
    torch.testing.assert_close(found.curve, found.similarity.nanmean(1))


def test_some_depths_and_other_similarities(case):
    model, images = case
    whole = metrics.layer_randomisation(model, images, similarity="ssim")
    some = metrics.layer_randomisation(model, images, camfast.GradCAM, similarity="ssim", steps=2)
    assert len(some.layers) == 2 and some.layers[-1] == whole.layers[-1]
    torch.testing.assert_close(some.similarity[-1], whole.similarity[-1], equal_nan=True)


def test_eigen_cam_does_not_see_the_last_layer_and_grad_cam_does(case):
    """Why the check is made: EigenCAM knows nothing of the classes."""
    model, images = case
    eigen = metrics.layer_randomisation(model, images, "eigen_cam", order="independent")
    grad = metrics.layer_randomisation(model, images, "grad_cam", order="independent")
    assert float(eigen.curve[0]) == pytest.approx(1, abs=1e-6) and float(grad.curve[0]) < 0.9


@pytest.mark.parametrize("call", ["layer_randomisation", "adcc", "max_sensitivity"])
def test_the_model_and_the_generators_are_left_as_they_were(case, call):
    model, images = case
    model.train()
    before, state = models.bystander_state(model), torch.get_rng_state()
    if call == "layer_randomisation":
        metrics.layer_randomisation(model, images, steps=2)
    else:
        getattr(metrics, call)(camfast.GradCAM(model), images)
    after = models.bystander_state(model)
    assert torch.equal(state, torch.get_rng_state())
    for key in ("hooks", "training", "requires_grad", "identity", "attributes"):
        assert before[key] == after[key], key
    assert all(torch.equal(value, after["tensors"][key]) for key, value in before["tensors"].items())
    assert all(value is None for value in after["grad"].values())


def test_wrong_arguments_are_said(case):
    model, images = case
    for change, message in (
        ({"method": "grad_can"}, "no method is called 'grad_can'; close to it: 'grad_cam'"),
        ({"order": "random"}, "order must be 'cascading' or 'independent', got 'random'"),
        ({"similarity": "hog"}, "similarity must be one of spearman, pearson, ssim, got 'hog'"),
        ({"steps": 0}, "steps must be a positive int"),
    ):
        with pytest.raises(ValueError, match=message):
            metrics.layer_randomisation(model, images, **change)
    with pytest.raises(ValueError, match="radius must be above 0, got 0"):
        metrics.max_sensitivity(camfast.GradCAM(model), images, radius=0)
    with pytest.raises(TypeError, match="adcc needs an explainer"):
        metrics.adcc(print, images)
    with pytest.raises(TypeError, match="expected an explainer, or a callable"):
        metrics.coherency("grad_cam", images)
    with pytest.raises(ValueError, match="side must be a share"):
        metrics.infidelity(model, images, camfast.grad_cam(model, images), side=0)
    with pytest.raises(ValueError, match="has no layer with reset_parameters"):
        metrics.layer_randomisation(Plain(), images, "fem")


class Plain(nn.Module):
    """A network without a layer of PyTorch's."""

    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        return self.pool(x).flatten(2).mean(2)
