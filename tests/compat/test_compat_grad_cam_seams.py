"""pytorch-grad-cam's steps, argument checks and odd calls: the same on the original and on ours."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("pytorch_grad_cam")
PEER, OURS = "pytorch_grad_cam", "camfast.compat.pytorch_grad_cam"
METHODS = [
    "GradCAM",
    "HiResCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "XGradCAM",
    "LayerCAM",
    "EigenCAM",
    "EigenGradCAM",
    "FullGrad",
]


def package(name):
    return importlib.import_module(name)


def network(dims=2):
    torch.manual_seed(0)
    conv, pool = (nn.Conv3d, nn.AdaptiveAvgPool3d(1)) if dims == 3 else (nn.Conv2d, nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(
        conv(1, 3, 3, padding=1), nn.ReLU(), conv(3, 4, 3, padding=1), nn.ReLU(), pool, nn.Flatten(), nn.Linear(4, 3)
    ).eval()


def rows(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize("name", ["GradCAM", "GradCAMPlusPlus", "XGradCAM"])
def test_weights_of_a_class_without_an_object(name, shape):
    A, G = (rows(*shape).numpy() for _ in range(2))
    found = [getattr(package(which), name).get_cam_weights(None, None, None, None, A, G) for which in (PEER, OURS)]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["GradCAM", "GradCAMPlusPlus", "XGradCAM"])
def test_a_subclass_that_calls_the_step_of_its_base(name, dims):
    model, x = network(dims), rows(2, 1, *(6, 7, 8)[-dims:])
    found = []
    for which in (PEER, OURS):

        class Own(getattr(package(which), name)):
            def get_cam_weights(self, *args):
                return super().get_cam_weights(*args) ** 2

        with Own(model, [model[2], model[0]]) as cam:
            found.append(cam(x, None))
    np.testing.assert_allclose(found[1], found[0], atol=2e-6)


@pytest.mark.parametrize("name", [*METHODS, "ScoreCAM", "AblationCAM", "KPCA_CAM", "FEM", "ShapleyCAM", "RandomCAM"])
def test_an_unexpected_argument_names_the_class(name):
    model = network()
    words = []
    for which in (PEER, OURS):
        with pytest.raises(TypeError, match="use_cuda") as caught:
            getattr(package(which), name)(model, [model[2]], use_cuda=True)
        words.append(str(caught.value))
    assert words[1].startswith(f"{name}.__init__()") and words[1] == words[0]


def test_a_class_of_ones_own_is_made_as_python_makes_it():
    class Own(package(OURS).GradCAM):
        pass

    assert Own.__init__ is package(OURS).GradCAM.__init__


@pytest.mark.parametrize(
    "options",
    [{"pool": "median"}, {"pre_filter_ratio": 1.0}, {"pre_filter_ratio": -0.1}, {"num_scales": 0}, {"num_scales": -2}],
)
def test_arguments_of_sess(options):
    model = network()
    for which in (PEER, OURS):
        with pytest.raises(ValueError, match="pool|pre_filter_ratio|num_scales"):
            package(which).SESS(model, [model[2]], **options)


@pytest.mark.parametrize("options, targets", [({"scales": [8]}, [0, 1]), ({"num_scales": 1}, [0]), ({}, [0, 1, 2])])
def test_calls_that_sess_refuses(options, targets):
    model = network()
    for which in (PEER, OURS):
        target = importlib.import_module(which + ".utils.model_targets").ClassifierOutputTarget
        with pytest.raises(ValueError, match=r"\d"), package(which).SESS(model, [model[2]], **options) as cam:
            cam(rows(2, 1, 16, 20), [target(index) for index in targets])


class Frames(nn.Module):
    """T frames as a batch, one row of scores."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features, self.head = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)).max(0, keepdim=True).values)


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("name", METHODS[:-1])
def test_frames_explained_with_one_row_of_scores(name, given):
    model, x = Frames().eval(), rows(4, 3, 12, 14)
    found = []
    for which in (PEER, OURS):
        target = importlib.import_module(which + ".utils.model_targets").ClassifierOutputTarget
        with getattr(package(which), name)(model, [model.features]) as cam:
            found.append(cam(x, [target(2)] if given else None))
    assert found[0].shape == (4, 12, 14)
    if name.startswith("Eigen"):  # the sign of a component is LAPACK's there
        assert found[1].shape == found[0].shape
    else:
        np.testing.assert_allclose(found[1], found[0], atol=2e-6)


def test_finer_cam_has_the_seam_of_its_base():
    model = network()
    cam = package(OURS).FinerCAM(model, [model[2]])
    assert cam._htcore is None and cam.base_cam._htcore is None
    steps = []

    class Gaudi:
        def mark_step(self):
            steps.append(1)

    cam.base_cam._htcore = Gaudi()
    assert cam._htcore is cam.base_cam._htcore
    cam.base_cam.get_cam_image = lambda *args: np.ones((1, 8, 9))  # by the steps
    assert cam(rows(1, 1, 8, 9)).shape == (1, 8, 9) and steps == [1]


@pytest.mark.parametrize("name", [*METHODS, "ScoreCAM", "AblationCAM", "FinerCAM", "SESS"])
@pytest.mark.parametrize("end", ["with", "error"])
def test_hooks_are_gone_afterwards(name, end):
    for which in (PEER, OURS):
        model = network()
        own = {"num_scales": 1} if name == "SESS" else {}
        try:
            with getattr(package(which), name)(model, [model[2]], **own) as cam:
                if end == "error":
                    raise KeyError
                cam(rows(1, 1, 8, 9), None)
        except KeyError:
            assert end == "error"
        del cam
        assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules()), which
