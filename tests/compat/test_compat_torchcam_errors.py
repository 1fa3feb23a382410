"""torchcam's errors, the states it restores and the steps it lets one override: the same script on torchcam and on ours.

A script returns whatever is to be the same. Where it raises, the type must be the same.
"""

from __future__ import annotations

import copy
import importlib
import logging
from operator import itemgetter

import pytest
import torch
from packages import Packages, each
from torch import nn
from torchcam_beside import OURS, PEER, Net, X, check, outcome

pytest.importorskip("torchcam")
SCORES = ["ScoreCAM", "SSCAM", "ISCAM"]


@pytest.fixture(autouse=True)
def as_the_peer(monkeypatch):
    monkeypatch.setattr(importlib.import_module(OURS), "strict", True)


class Structured(nn.Module):
    """Returns a list of a dictionary an image."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        rows = self.features(x).relu().flatten(2).mean(-1)
        return [{"first": row[0] - row[2], "second": row[1] * 3} for row in rows]


def options(name):
    return {"batch_size": 3, **({} if name == "ScoreCAM" else {"num_samples": 2})}


# Score-CAM and its kin


@pytest.mark.parametrize("class_idx", [1, [2, 0]])
@pytest.mark.parametrize("name", SCORES)
def test_several_layers_and_batches(name, class_idx):
    model = Net().eval()

    def script(torchcam):
        with getattr(torchcam.methods, name)(model, ["1", "3"], **options(name)) as extractor:
            model(X)
            return extractor(class_idx)

    check(script)


@pytest.mark.parametrize("name", [*SCORES, "SmoothGradCAMpp"])
@pytest.mark.parametrize("targets", [itemgetter("first"), [itemgetter("second"), itemgetter("first")]])
def test_targets_of_structured_outputs(name, targets):
    model = Structured().eval()
    own = {"num_samples": 2} if name == "SmoothGradCAMpp" else options(name)

    def script(torchcam):
        with getattr(torchcam.methods, name)(model, "features", **own) as extractor:
            return extractor(scores=model(X), targets=targets)

    check(script)


@pytest.mark.parametrize("name", [*SCORES, "SmoothGradCAMpp", "GradCAM"])
def test_maps_of_one_position(name):
    model = Net().eval()
    own = {"num_samples": 2} if name == "SmoothGradCAMpp" else {} if name == "GradCAM" else options(name)

    def script(torchcam):
        with getattr(torchcam.methods, name)(model, "4", **own) as extractor:
            return extractor(1, model(X), normalized=False)

    check(script)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("step", ["_masked_input_chunk", "_score_input", "_init_score_weights", "_get_score_weights"])
def test_an_error_in_a_step_leaves_hooks_and_modes(name, step, monkeypatch):
    def script(torchcam):
        model = Net().train()
        model[1].eval()
        with getattr(torchcam.methods, name)(model, ["1", "3"], **options(name)) as extractor:
            model(X)
            monkeypatch.setattr(extractor, step, lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                extractor(1)
            return [extractor._hooks_enabled, *(module.training for module in model.modules())]

    check(script)


@pytest.mark.parametrize("name", SCORES)
def test_hooks_that_were_off_stay_off(name):
    def script(torchcam):
        model = Net().eval()
        with getattr(torchcam.methods, name)(model, "3", **options(name)) as extractor:
            model(X)
            extractor.disable_hooks()
            return [*extractor(1), torch.tensor(extractor._hooks_enabled)]

    check(script)


@pytest.mark.parametrize("name", SCORES)
def test_every_step_of_a_subclass_is_taken(name):
    model = Net().eval()

    def script(torchcam):
        taken = []

        class Own(getattr(torchcam.methods, name)):
            pass

        steps = [
            "_prepare_masked_inputs",
            "_masked_input_chunk",
            "_init_score_weights",
            "_score_input",
            "_upsample",
            "_get_score_weights",
        ]
        for step in steps:

            def own(self, *args, step=step):
                taken.append(step)
                return getattr(super(Own, self), step)(*args)

            setattr(Own, step, own)
        Own._select_scores = staticmethod(lambda output, samples, idx, targets: -output[:, 0])
        with Own(model, "4" if name == "ScoreCAM" else "3", **options(name)) as extractor:
            model(X)
            cams = extractor(1)
        assert set(taken) == set(steps)
        return cams

    check(script)


def test_outputs_of_models_whose_first_is_a_scalar():
    """A loss before the scores: a target callable per sample needs a row per sample, and both say so."""
    model = Net().eval()

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            scores = self.inner(x)
            return scores.sum(), scores

    both = Loss().eval()
    for name, error in (("ScoreCAM", TypeError), ("GradCAM", TypeError), ("SmoothGradCAMpp", TypeError)):

        def script(torchcam, name=name):
            with getattr(torchcam.methods, name)(both, "inner.3") as extractor:
                return extractor(scores=both(X), targets=itemgetter(0))

        check(script, error)


# Methods of gradients


@pytest.mark.parametrize("name", ["SmoothGradCAMpp", "GradCAM", "GradCAMpp", "XGradCAM", "LayerCAM"])
def test_disconnected_scores(name):
    model = Structured().eval()

    def script(torchcam):
        with getattr(torchcam.methods, name)(model, "features") as extractor:
            return extractor(scores=model(X), targets=lambda row: row["first"].detach())

    check(script, RuntimeError)


def test_smooth_grad_cam_restores_its_input_hook_and_takes_its_steps(monkeypatch):
    def script(torchcam):
        model = Net().eval()
        with torchcam.methods.SmoothGradCAMpp(model, ["1", "3"], num_samples=2) as extractor:
            model(X)
            backprop, calls = extractor._backprop, []
            monkeypatch.setattr(extractor, "_backprop", lambda *a, **k: calls.append(a[1]) or backprop(*a, **k))
            cams = extractor([1, 0])
            assert calls == [[1, 0]] * 2
            monkeypatch.setattr(extractor, "_backprop", lambda *a, **k: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                extractor(1)
            assert extractor._ihook_enabled and extractor._hooks_enabled
            return [*cams, *extractor.hook_a, *extractor.hook_g, extractor._input]

    check(script)


def test_smooth_grad_cam_in_training_mode_leaves_modes():
    def script(torchcam):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), *Net()[4:6], nn.Linear(4, 3)).train()
        with torchcam.methods.SmoothGradCAMpp(model, "1") as extractor:
            model(X)
            return [*extractor(1), *model[1].buffers(), torch.tensor(model.training)]

    check(script)


@pytest.mark.parametrize(
    "arguments",
    [
        (0, None), (0, [[1.0, 2.0]]), (0, torch.rand(3)), (0, torch.rand(2, 1)), (True, torch.rand(2, 3)),
        ([0, True], torch.rand(2, 3)), ([0], torch.rand(2, 3)), ([0, 3], torch.rand(2, 3)),
        ([0, 1], torch.rand(2, 3), []), ([0, 1], torch.rand(2, 3), (2,)), ([0, 1], torch.rand(2, 3), [0, 2]),
        ([0, 1], torch.rand(2, 3), [2, 2]), ([0, 1], torch.rand(2, 3), [2, 3]), ([0, 1], torch.rand(2, 3), [True]),
        ([0, 1], torch.rand(2, 3), [[1, 2]]), ([0, 1], torch.rand(2, 3), [[], []]),
        ([0, 1], torch.rand(2, 3), [[1], [0, 2]]), ([0, 1], torch.rand(2, 3), [[True], [0]]),
        ([0, 1], torch.rand(2, 3), [2, [0]]),
    ],
)  # fmt: skip
def test_finer_cam_refuses(arguments):
    def script(torchcam):
        with torchcam.methods.FinerCAM(Net().eval(), "2") as extractor:
            return extractor(*arguments)

    theirs = outcome(script, Packages(PEER))
    assert isinstance(theirs, type) and issubclass(theirs, (TypeError, ValueError))
    check(script, theirs)


def test_steps_of_finer_cam():
    model = Net().eval()

    def script(torchcam):
        class Own(torchcam.methods.FinerCAM):
            def _reference_indices(self, *args):
                return super()._reference_indices(*args).flip(1)[:, :1]

        with Own(model, "2") as extractor:
            scores = model(X)
            rows = extractor._explicit_reference_rows([1, 2], 3)
            classes, own = extractor._target_indices([0, 1], scores)
            contrast = extractor._contrastive_scores(0, scores, None)
            return [*extractor([0, 1], scores), torch.tensor(rows), torch.tensor(classes), own, contrast.detach()]

    check(script)


# The base


@pytest.mark.parametrize("inside", [False, True])
def test_evaluation_mode(inside, monkeypatch):
    """Inside all modules evaluate; afterwards, also where ``eval`` fails half-way, each is as it was."""

    def script(torchcam):
        model = Net().train()
        model[1].eval()
        seen = []
        with torchcam.methods.GradCAM(model, "3") as extractor:
            with extractor._eval_mode():
                seen += [module.training for module in model.modules()]
                model[3].train()
            seen += [module.training for module in model.modules()]
            if inside:

                def fail():
                    for module in model.modules():
                        module.training = False
                    raise ZeroDivisionError

                monkeypatch.setattr(model, "eval", fail)
                with pytest.raises(ZeroDivisionError), extractor._eval_mode():
                    pass
                with pytest.raises(ZeroDivisionError):
                    torchcam.methods._utils.locate_candidate_layer(model, (3, 8, 8))
                seen += [module.training for module in model.modules()]
        assert all(not module._forward_hooks for module in model.modules())
        return seen

    check(script)


@pytest.mark.parametrize(
    "model, size, raised",
    [
        (nn.Sequential(nn.ReLU()), (3, 8, 8), StopIteration),
        (nn.Sequential(nn.Flatten(1), nn.Linear(12, 1)), (3, 2, 2), None),
        (nn.Sequential(nn.Conv2d(4, 3, 1)), (3, 8, 8), RuntimeError),
    ],
)
def test_models_without_a_candidate(model, size, raised):
    def script(torchcam):
        found = torchcam.methods._utils.locate_candidate_layer(model, size)
        assert found is None
        with pytest.raises(ValueError, match="named_modules"):
            torchcam.methods.core._CAM(model, input_shape=size)
        return []

    check(script, raised)
    assert all(not module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("fc", [3, "7", nn.Linear(2, 2)])
def test_a_wrong_linear_layer(fc):
    check(lambda torchcam: torchcam.methods.CAM(Net(), "3", fc_layer=fc))


def test_a_wrong_linear_layer_leaves_no_hook():
    model = Net()
    with pytest.raises(TypeError, match="fc_layer"):
        importlib.import_module(OURS + ".methods").CAM(model, "3", fc_layer=3)
    assert not model[3]._forward_hooks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [2.0, torch.nan])
def test_ties_of_fused_maps(value, dtype):
    """The first of several equal maps has the gradient, NaN wins, dtypes may differ; a size that is no tuple is not taken."""

    def script(torchcam):
        rows = ([1.0, value, 3.0, 0.0], [1.0, value, 4.0, value], [0.0, 2.0, 4.0, value])
        cams = [torch.tensor(row).view(1, 2, 2).requires_grad_() for row in rows]
        cams[1] = cams[1].detach().to(dtype).requires_grad_()
        fused = torchcam.methods.core._CAM.fuse_cams(cams, (4, 4))
        plain = torchcam.methods.core._CAM.fuse_cams([cam.detach() for cam in cams], [3, 3])
        return [fused.detach(), *torch.autograd.grad(fused.sum(), cams), plain]

    check(script)


def test_the_wrappers_hand_hooks_on():
    def script(torchcam):
        model = Net().eval()
        seen = []
        for make in (torchcam.methods.RefineCAM, torchcam.methods.FinerCAM):
            with make(model, ["1", "3"]) as extractor:
                extractor.disable_hooks()
                seen += [extractor.base_cam._hooks_enabled]
                with extractor._hooks_off():
                    pass
                extractor.enable_hooks()
                seen += [extractor.base_cam._hooks_enabled, len(extractor.base_cam.hook_handles)]
                extractor.reset_hooks()
                extractor.remove_hooks()
                seen += [len(model[3]._forward_hooks)]
            seen += [len(extractor.base_cam.hook_handles)]
        return torch.tensor(seen)

    check(script)


def test_the_choice_of_a_layer_is_logged(caplog):
    def script(torchcam):
        caplog.clear()
        with caplog.at_level(logging.WARNING), torchcam.methods.CAM(Net().eval(), input_shape=(3, 8, 8)):
            return [record.getMessage() for record in caplog.records]

    theirs, ours = each(script, PEER, OURS)
    assert theirs == ours and len(ours) == 2


def test_the_same_model_afterwards():
    """No method leaves a hook, a mode, a gradient or a buffer behind, in torchcam or here."""
    for name in ("GradCAM", "GradCAMpp", "SmoothGradCAMpp", "XGradCAM", "LayerCAM", "CAM", "FinerCAM", *SCORES):

        def script(torchcam, name=name):
            model = Net().train()
            before = copy.deepcopy(model.state_dict())
            with getattr(torchcam.methods, name)(model, "3") as extractor:
                extractor(1, model(X))
            assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
            assert all(parameter.grad is None for parameter in model.parameters())
            torch.testing.assert_close(model.state_dict(), before)
            return [module.training for module in model.modules()]

        check(script)
