"""Metrics, factorization, guided backpropagation and helpers: the same call on pytorch-grad-cam and on ours."""

from __future__ import annotations

import importlib
import itertools
import types

import numpy as np
import pytest
import torch
from torch import nn

PEER, OURS = "pytorch_grad_cam", "camfast.compat.pytorch_grad_cam"
RNG = np.random.default_rng(0)
CAMS = RNG.random((2, 32, 40), np.float32)
IMAGES = torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(1))


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).eval()


def both(module: str, call) -> list:
    """What ``call(module)`` gives for the peer's module and for ours, with the same seeds."""
    found = []
    for package in (PEER, OURS):
        torch.manual_seed(3)
        np.random.seed(3)
        found.append(call(importlib.import_module(f"{package}.{module}".rstrip("."))))
    return found


def assert_equal(pair: list, atol: float = 2e-6) -> None:
    theirs, ours = pair
    if isinstance(theirs, (list, tuple)):
        assert type(ours) is type(theirs) and len(ours) == len(theirs)
        for one in zip(theirs, ours, strict=True):
            assert_equal(list(one), atol)
        return
    assert type(ours) is type(theirs)
    if isinstance(theirs, (np.ndarray, torch.Tensor)):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=0, atol=atol)
    else:
        assert ours == theirs


def targets(package_module: types.ModuleType) -> list:
    package = OURS if package_module.__name__.startswith("camfast") else PEER
    kind = importlib.import_module(package + ".utils.model_targets").ClassifierOutputTarget
    return [kind(1), kind(2)]


@pytest.mark.parametrize("options", [{}, {"return_diff": False}, {"return_visualization": True}])
def test_confidence_change(options):
    def call(module):
        return module.CamMultImageConfidenceChange()(IMAGES, CAMS, targets(module), network(), **options)

    assert_equal(both("metrics.cam_mult_image", call))


@pytest.mark.parametrize("name", ["DropInConfidence", "IncreaseInConfidence"])
def test_drop_and_increase(name):
    assert_equal(both("metrics.cam_mult_image", lambda m: getattr(m, name)()(IMAGES, CAMS, targets(m), network())))


@pytest.mark.parametrize(
    "name, percentiles",
    [
        ("ROADMostRelevantFirst", 75),
        ("ROADLeastRelevantFirst", 75),
        ("ROADMostRelevantFirstAverage", [30, 60]),
        ("ROADLeastRelevantFirstAverage", [30, 60]),
        ("ROADCombined", [30, 60]),
    ],
)
def test_road(name, percentiles):
    assert_equal(both("metrics.road", lambda m: getattr(m, name)(percentiles)(IMAGES, CAMS, targets(m), network())))


def test_imputer_with_shares_of_its_own(monkeypatch):
    mask = torch.from_numpy((CAMS[0] > 0.4).astype(np.float32))
    shares = [((0, 1), 0.3), ((2, -1), 0.2), ((-1, 0), 0.5)]

    def call(module):
        imputer = module.NoisyLinearImputer(noise=0.1, weighting=shares)
        matrix, known = imputer.setup_sparse_system(mask.numpy(), IMAGES[0].reshape(3, -1).numpy(), shares)
        moved = imputer.add_offset_to_indices(np.arange(20), (-1, 2), (4, 5))
        return imputer(IMAGES[0], mask), matrix.toarray(), known, moved

    theirs, ours = both("metrics.road", call)
    assert_equal([theirs[1:], ours[1:]])
    assert (theirs[0] - ours[0]).abs().max() > 0.1  # the original takes its own shares in the call
    monkeypatch.setattr(importlib.import_module(OURS), "strict", True)
    assert_equal(both("metrics.road", call), 1e-5)


@pytest.mark.parametrize("percentile", [20, "auto"])
@pytest.mark.parametrize("name", ["RemoveMostRelevantFirst", "RemoveLeastRelevantFirst"])
def test_removal(name, percentile):
    heat = torch.from_numpy(CAMS[0] ** 3)

    def call(module):
        return getattr(module, name)(percentile, lambda image, mask: mask)(IMAGES[0], heat)

    assert_equal(both("metrics.perturbation_confidence", call))


def test_average_across_thresholds():
    def call(module):
        def metric(percentile):
            removal = module.RemoveMostRelevantFirst(percentile, lambda image, mask: image * mask)
            return module.PerturbationConfidenceMetric(removal)

        averager = module.AveragerAcrossThresholds(metric, [20, 70])
        return averager(IMAGES, CAMS, targets(module), network())

    assert_equal(both("metrics.perturbation_confidence", call))


def test_arcc():
    model = network()

    def call(module):
        package = importlib.import_module(OURS if module.__name__.startswith("camfast") else PEER)
        cam = package.LayerCAM(model, [model[1]])
        heat = cam(IMAGES * 3, targets(module))
        constant = module.batch_pearson_coherency(CAMS, 0 * CAMS)
        coherency = module.Coherency()(IMAGES * 3, heat, targets(module), model, cam)
        arcc = module.ARCC(cam, [30, 60])(IMAGES * 3, heat, targets(module), model)
        return arcc, coherency, module.Complexity()(heat), module.batch_pearson_coherency(heat, CAMS), constant

    assert_equal(both("metrics.arcc", call))


def test_factorization():
    model = network()

    def call(module):
        factorization = module.DeepFeatureFactorization(model, model[3], computation_on_concepts=model[6])
        return factorization(IMAGES, 3), module.DeepFeatureFactorization(model, model[3])(IMAGES, n_components=2)

    assert_equal(both("feature_factorization.deep_feature_factorization", call), 1e-5)


def test_dff():
    activations = RNG.random((2, 6, 5, 4), np.float32) - 0.3
    assert_equal(both("feature_factorization.deep_feature_factorization", lambda m: m.dff(activations, 3)), 1e-5)


def test_factorization_of_a_photograph():
    from PIL import Image

    model = network()
    photo = Image.fromarray(RNG.integers(0, 256, (64, 48, 3), np.uint8))
    call = importlib.import_module(OURS).run_dff_on_image
    image = torch.randn(3, 64, 48)
    found = call(model, model[3], model[6], photo, image, None, 3, 2)  # classes by number: the model has no names
    assert found.shape == (64, 3 * 48, 3) and found.dtype == np.uint8
    np.testing.assert_array_equal(found[:, :48], np.asarray(photo))


def test_a_factorization_in_given_colours():
    maps = RNG.random((3, 31, 17), np.float32)
    picture = RNG.random((31, 17, 3), np.float32)
    colours = [np.array([1, 0, 0.2]), np.array([0, 1, 0]), np.array([0.1, 0.3, 1])]
    assert_equal(both("utils.image", lambda m: m.show_factorization_on_image(picture, maps, colours, 0.4)))


@pytest.mark.parametrize("category", [None, 3])
def test_guided_backpropagation(category):
    assert_equal(both("", lambda m: m.GuidedBackpropReLUModel(network(), "cpu")(IMAGES[:1].clone(), category)))


def test_guided_backpropagation_leaves_no_trace():
    model = network().train()
    before = list(model.modules())
    image = IMAGES[:1].clone()
    importlib.import_module(OURS).GuidedBackpropReLUModel(model)(image)
    assert list(model.modules()) == before and model.training
    assert not image.requires_grad and all(p.grad is None for p in model.parameters())
    with pytest.raises(IndexError):
        importlib.import_module(OURS).GuidedBackpropReLUModel(model)(image, 99)
    assert list(model.modules()) == before


def test_guided_relu():
    def call(module):
        x = torch.linspace(-1, 1, 9, requires_grad=True)
        (module.GuidedBackpropReLUasModule()(x) * torch.tensor([1.0, -1, 1, -1, 1, 1, -1, 1, -1])).sum().backward()
        return x.grad

    assert_equal(both("guided_backprop", call))


def test_sobel():
    picture = RNG.integers(0, 256, (31, 29, 3), np.uint8)
    assert_equal(both("sobel_cam", lambda m: m.sobel_cam(picture)))


def test_windows():
    def call(module):
        each = itertools.product(range(1, 20), range(1, 7), range(1, 22))
        return [module.window_starts(*one) for one in each], module.sliding_window(13, 20, 3, 5)

    assert_equal(both("sess", call))


def test_steps_of_sess():
    model = network()

    def call(module):
        with module.SESS(model, [model[3]], num_scales=2) as cam:
            patches, places = cam.collect_patches(IMAGES[:1], 24, 12)
            target = cam.get_target(IMAGES[:1])
            scores = cam.get_scores(patches, target)
            pasted = cam.paste_cam(CAMS[0][:24, :24], places[-1], (32, 40))
            return patches, places, target.category, scores, pasted, cam.get_scales(24)

    theirs, ours = both("sess", call)
    assert int(theirs[2]) == ours[2]
    assert_equal([(*part[:2], *part[3:]) for part in (theirs, ours)], 1e-5)


def test_overridden_steps_of_sess():
    model = network()

    def call(module):
        class Mine(module.SESS):
            def get_scales(self, window_size):
                return [window_size, window_size + 9]

            def get_scores(self, patches, target):
                return super().get_scores(patches, target) ** 2

            def paste_cam(self, cam, coordinates, target_size):
                return np.sqrt(super().paste_cam(cam, coordinates, target_size))

        return Mine(model, [model[3]])(IMAGES[:1])

    assert_equal(both("sess", call), 1e-5)


def test_ablation_layers():
    activations = RNG.random((12, 5, 4), np.float32) - 0.2

    def call(module):
        layer = module.AblationLayer()
        mask = layer.objectiveness_mask_from_svd(activations, 0.2)
        chosen = layer.activations_to_be_ablated(activations, 0.25)
        layer.set_next_batch(1, torch.from_numpy(np.stack([activations, activations.clip(0)])), 3)
        return mask, chosen, layer.indices, layer(None)

    assert_equal(both("ablation_layer", call))


@pytest.mark.parametrize("ratio", [1.0, 0.25])
def test_scores_of_ablated_channels(ratio):
    def call(module):
        cam = module.AblationCAM(network(), [])
        return np.float32(cam.assemble_ablation_scores([1.0, 2.0, 3.0], 0.5, np.array([4, 0, 2]), 6))

    assert_equal(both("ablation_cam", call))


def test_ablation_leaves_the_model_as_it_was_after_an_error():
    package = importlib.import_module(OURS)
    model = network()
    before = list(model.modules())

    class Broken(package.AblationLayer):
        def __call__(self, x):
            raise OSError("no")

    with pytest.raises(OSError):
        package.AblationCAM(model, [model[1]], ablation_layer=Broken())(IMAGES, None)
    assert list(model.modules()) == before and not model[1]._forward_hooks.get("save_activation")


def test_the_multilayer_ablation_works_here():
    module = importlib.import_module(OURS + ".ablation_cam_multilayer")
    model = network()
    found = module.AblationCAM(model, [model[1], model[3]])(IMAGES, None)
    expected = importlib.import_module(OURS).AblationCAM(model, [model[1], model[3]])(IMAGES, None)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    cam = module.AblationCAM(model, [model[1]])
    layer = model[1]
    cam.set_ablation_layers()
    cam.set_ablation_layer_batch_indices([0, 3])
    assert isinstance(model[1], module.AblationLayer)
    assert model[:2](IMAGES)[0, 0].abs().sum() == 0 and model[:2](IMAGES)[1, 3].abs().sum() == 0
    cam.trim_ablation_layer_batch_indices(1)
    assert cam.ablation_layers[0].indices == [0]
    cam.unset_ablation_layers()
    assert model[1] is layer


def test_find_layers():
    def call(module):
        model = nn.Sequential(network(), nn.Sequential(nn.ReLU(), nn.Conv2d(1, 1, 1)))
        old, new = model[1][0], nn.Tanh()
        done = [module.replace_layer_recursive(model, old, new), module.replace_layer_recursive(model, old, new)]
        module.replace_all_layer_type_recursive(model, nn.ReLU, nn.GELU())
        found = module.find_layer_types_recursive(model, [nn.Conv2d, nn.GELU, nn.Tanh])
        some = module.find_layer_predicate_recursive(model, lambda m: isinstance(m, nn.Sequential))
        return done, [type(m).__name__ for m in found], [len(m) for m in some], str(model)

    assert_equal(both("utils.find_layers", call))


def test_images():
    picture = RNG.random((11, 9, 3), np.float32)
    stack = RNG.standard_normal((2, 3, 7, 5)).astype(np.float32)
    labels = {i: f"name {i}, other" for i in range(5)}

    def call(module):
        return (
            module.preprocess_image(picture, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6]),
            module.preprocess_image((picture * 255).astype(np.uint8)),
            module.deprocess_image(stack[0]),
            module.scale_accross_batch_and_channels(stack, (10, 14)),
            module.create_labels_legend(stack.reshape(-1, 5)[:4], labels, top_k=3),
        )

    assert_equal(both("utils.image", call))


def test_projections(monkeypatch):
    batch = RNG.standard_normal((2, 6, 5, 4)).astype(np.float32)
    batch[0, 1, 2, 3] = np.nan
    monkeypatch.setattr(importlib.import_module(OURS), "strict", True)

    def call(module):
        return (
            module.get_2d_projection(batch.copy()),
            module.get_2d_projection_kernel(batch.copy()),
            module.get_2d_projection_kernel(batch.copy(), kernel="rbf", gamma=0.1),
            module.get_2d_projection_with_sign_correction(batch.copy()),
        )

    assert_equal(both("utils.svd_on_activations", call), 2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["GradCAM", "EigenCAM", "LayerCAM", "FEM"])
def test_half_precision_works_where_the_original_fails(name, dtype):
    package = importlib.import_module(OURS)
    model = network()
    expected = package.__dict__[name](model, [model[3]])(IMAGES, [lambda s: s[1]] * 2)
    low = model.to(dtype)
    found = package.__dict__[name](low, [low[3]])(IMAGES.to(dtype), [lambda s: s[1]] * 2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=0.15)
