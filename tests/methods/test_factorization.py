"""Deep Feature Factorization against pytorch-grad-cam, and its factors against scikit-learn."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from models import DeepHead, SmallNet, TokenNet, bystander_state, calibrated, images

import camfast
from camfast.methods import nmf

X = images(3)


@pytest.fixture
def net() -> SmallNet:
    return calibrated(SmallNet(), images(4))


@pytest.mark.filterwarnings("ignore")  # some do not converge within the steps
@pytest.mark.parametrize(("shape", "components"), [((30, 49), 3), ((7, 100), 5), ((4, 6), 8), ((5, 5), 1)])
def test_factors_equal_scikit_learns(shape, components, device):
    sklearn = pytest.importorskip("sklearn.decomposition")
    X = torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    X[2] = 0
    theirs = sklearn.NMF(components, init="random", random_state=0)
    W = theirs.fit_transform(X.numpy())
    ours, H = nmf.factorize(X.to(device), components)
    torch.testing.assert_close(ours.cpu(), torch.from_numpy(W), rtol=0, atol=1e-8)
    torch.testing.assert_close(H.cpu(), torch.from_numpy(theirs.components_), rtol=0, atol=1e-8)
    assert (ours >= 0).all() and (H >= 0).all()


def test_a_matrix_of_zeros():
    W, H = nmf.factorize(torch.zeros(4, 6), 2)
    assert not W.any() and not H.any()


def test_equals_the_peer(net, device):
    peer = pytest.importorskip("pytorch_grad_cam")
    twin = copy.deepcopy(net)
    concepts, maps, scores = peer.DeepFeatureFactorization(twin, twin.body, computation_on_concepts=twin.fc)(X, 4)
    result = camfast.DeepFeatureFactorization(net.to(device), components=4)(X.to(device))
    assert result.layers == ["body"] and result.heatmap.shape == (3, 4, 16, 20) and result.heatmap.device == device
    np.testing.assert_allclose(result.heatmap.cpu(), np.stack(maps), rtol=0, atol=2e-5)
    np.testing.assert_allclose(result.concepts.cpu(), concepts.T, rtol=0, atol=1e-4)
    np.testing.assert_allclose(result.concept_scores.cpu(), scores, rtol=0, atol=1e-4)
    assert result.targets.tolist() == [result.concept_scores.argmax(1).tolist()] * 3
    torch.testing.assert_close(result.scores.cpu(), twin(X).detach(), rtol=0, atol=1e-5)


def test_pictures_and_names_of_concepts(net, tmp_path):
    result = camfast.deep_feature_factorization(net, X, components=2, class_names=list("abcde"))
    assert isinstance(result, camfast.Factorization) and result.overlay().shape == (3, 2, 16, 20, 3)
    assert result.label(1, 0) == "abcde"[int(result.concept_scores[0].argmax())]
    assert len(result.save(tmp_path / "concept.png", each=True)) == 6
    assert torch.equal(result[1].heatmap, result.heatmap[1:2]) and result[1].concepts is result.concepts


def test_scores_by_any_head_and_by_a_classifier():
    net = calibrated(DeepHead(), images(4))
    result = camfast.deep_feature_factorization(net, X, components=3)
    everywhere = result.concepts[:, :, None, None].expand(-1, -1, 8, 10)
    torch.testing.assert_close(result.concept_scores, net.head(everywhere).detach(), rtol=1e-4, atol=1e-4)
    weights = torch.randn(16, 7)
    result = camfast.deep_feature_factorization(net, X, components=3, classifier=lambda c: c @ weights)
    torch.testing.assert_close(result.concept_scores, result.concepts @ weights)
    assert result.targets.max() < 7


def test_tokens_sizes_and_raw_maps(net):
    tokens = camfast.deep_feature_factorization(TokenNet().eval(), X, components=2)
    assert tokens.heatmap.shape == (3, 2, 16, 20) and tokens.concept_scores.shape == (2, 5)
    raw = camfast.deep_feature_factorization(net, X, components=2, size="map", normalize=False)
    assert raw.heatmap.shape == (3, 2, 8, 10) and raw.heatmap.min() >= 0
    low = camfast.deep_feature_factorization(net, X, components=2, size="map").heatmap
    torch.testing.assert_close(low, camfast.reference.min_max(raw.heatmap))


def test_images_that_are_not_finite(net):
    clean = camfast.deep_feature_factorization(net, X[:2], layers="body", components=2)
    for bad in (torch.inf, torch.nan):
        x = X.clone()
        net.body.register_forward_hook(lambda m, a, out, bad=bad: torch.cat([out[:-1], torch.full_like(out[-1:], bad)]))
        result = camfast.DeepFeatureFactorization(net, "body", components=2)(x)
        net.body._forward_hooks.clear()
        assert not result.heatmap[:2].isnan().any()
        if bad == torch.inf:
            torch.testing.assert_close(result.heatmap[:2], clean.heatmap, rtol=0, atol=1e-6)
            assert result.heatmap[2].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(net, dtype):
    expected = camfast.deep_feature_factorization(net, X, components=2)
    result = camfast.deep_feature_factorization(net.to(dtype), X.to(dtype), components=2)
    assert result.heatmap.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (result.heatmap - expected.heatmap).abs().mean() < (1e-6 if dtype == torch.float64 else 2e-2)


def test_leaves_no_trace(net):
    net.train()
    before = bystander_state(net)
    camfast.DeepFeatureFactorization(net, components=2)(X)
    with pytest.raises(ZeroDivisionError):
        camfast.DeepFeatureFactorization(net, components=2, classifier=lambda c: 1 / 0)(X)
    after = bystander_state(net)
    for kind in ("hooks", "training", "requires_grad", "identity", "attributes"):
        assert before[kind] == after[kind]


def test_bad_arguments(net):
    for options, error, message in [
        ({"components": 0}, ValueError, "components must be a positive int or None, got 0"),
        ({"layers": ["stem", "body"]}, ValueError, "explains one layer, got stem, body"),
        ({"classifier": 3}, TypeError, "classifier must be a callable"),
        ({"aug_smooth": True}, ValueError, "has no aug_smooth"),
    ]:
        with pytest.raises(error, match=message):
            camfast.DeepFeatureFactorization(net, **options)
    with pytest.raises(ValueError, match="expected targets=None"):
        camfast.DeepFeatureFactorization(net)(X, 1)
    with pytest.raises(ValueError, match=r"a row of scores a concept, \[5, ...\], got \[3\]"):
        camfast.DeepFeatureFactorization(net, classifier=lambda c: torch.zeros(3))(X)
