"""camfast.compat.install: other libraries' names served from camfast in a fresh interpreter, and what imports need."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from interpreter import run_python

import camfast.compat

# The name under which a class is imported, and what it is called.
CLASSES = {
    "captum": ("captum.attr", "LayerGradCam"),
    "monai": ("monai.visualize", "GradCAM"),
    "torchcam": ("torchcam.methods", "GradCAM"),
}
BLOCKED = (
    "captum",
    "cv2",
    "matplotlib",
    "monai",
    "PIL",
    "pytorch_grad_cam",
    "scipy",
    "sklearn",
    "torchcam",
    "torchvision",
    "tqdm",
)


def run(code):
    done = run_python("-c", textwrap.dedent(code))
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_served_without_anything_else(name):
    """Neither the original nor OpenCV, matplotlib, Pillow, ... is imported for an import."""
    module, kind = CLASSES[name]
    run(f"""
        import importlib.abc, sys
        class Blocked(importlib.abc.MetaPathFinder):
            def find_spec(self, fullname, path=None, target=None):
                if fullname.partition(".")[0] in {BLOCKED}:
                    raise ModuleNotFoundError(fullname + " is blocked", name=fullname)
        sys.meta_path.insert(0, Blocked())
        from camfast.compat import install
        install({name!r})
        install({name!r})  # once more does nothing
        import {module} as served
        from {module} import {kind}
        import camfast.compat.{module} as ours
        assert served is ours and {kind}.__module__.startswith("camfast.compat.{name}")
        assert sys.modules[{name!r}].__spec__.name == "camfast.compat.{name}"
    """)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_module_is_imported_without_its_original(name):
    run(f"""
        import importlib, pkgutil, sys
        for blocked in {BLOCKED}:
            sys.modules[blocked] = None
        package = importlib.import_module("camfast.compat.{name}")
        names = [module.name for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
        assert names
        for module in names:
            importlib.import_module(module)
    """)


def test_refused_after_the_original():
    pytest.importorskip("torchcam")
    out = run("""
        import torchcam.methods
        from camfast.compat import install
        try:
            install("torchcam")
        except RuntimeError as error:
            print(error)
        from torchcam.methods import GradCAM
        assert GradCAM.__module__.startswith("torchcam")
    """)
    assert "torchcam is imported already" in out and "before its first import" in out


def test_refused_after_a_part_of_the_original():
    """An original whose import failed half-way leaves its modules behind."""
    out = run("""
        import sys, types
        sys.modules["torchcam.methods"] = types.ModuleType("torchcam.methods")
        from camfast.compat import install
        try:
            install("torchcam")
        except RuntimeError as error:
            print(error)
    """)
    assert "torchcam.methods is imported already" in out


def test_uninstalled_again():
    pytest.importorskip("torchcam")
    run("""
        from camfast.compat import install, uninstall
        install("torchcam")
        from torchcam.methods import GradCAM as ours
        uninstall("torchcam")
        from torchcam.methods import GradCAM as theirs
        assert ours.__module__.startswith("camfast.compat") and theirs.__module__.startswith("torchcam")
        import camfast.compat.torchcam.methods
        assert camfast.compat.torchcam.methods.GradCAM is ours
    """)


@pytest.mark.parametrize(
    "name, rest, calls",
    [
        (
            "captum",
            "from captum.attr import IntegratedGradients, NoiseTunnel",
            "NoiseTunnel(ours).attribute(x, target=1)",
        ),
        ("monai", "from monai.visualize import VanillaGrad", "VanillaGrad(model)(x[:1])"),
    ],
)
def test_the_rest_of_an_installed_original_stays(name, rest, calls):
    pytest.importorskip(name)
    module, kind = CLASSES[name]
    out = run(f"""
        from camfast.compat import install
        install({name!r})
        {rest}
        import torch
        from {module} import {kind}
        from torch import nn
        assert {kind}.__module__.startswith("camfast.compat.{name}")
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
        x = torch.rand(2, 3, 8, 8)
        ours = {kind}(model, "1" if {name!r} == "monai" else model[1])
        print({calls}.shape)
    """)
    assert "[" in out


def test_names_that_stay_the_originals_work_there_and_say_so():
    """What other classes of captum and MONAI are built on stays theirs; the pages on moving say which."""
    pytest.importorskip("captum"), pytest.importorskip("monai")
    out = run("""
        from camfast.compat import install
        install("captum"), install("monai")
        import torch
        from torch import nn
        from captum.attr import GuidedBackprop, LayerAttribution, LayerConductance, NeuronGuidedBackprop
        from monai.visualize import GradCAM, VanillaGrad
        from monai.visualize.class_activation_maps import ModelWithHooks

        for kind in (GuidedBackprop, LayerAttribution, ModelWithHooks):
            assert not kind.__module__.startswith("camfast"), kind
        assert issubclass(LayerConductance, LayerAttribution)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
        x = torch.rand(2, 3, 8, 8)
        print(NeuronGuidedBackprop(model, model[0]).attribute(x, (0, 1, 1)).shape)
        print(VanillaGrad(model)(x[:1]).shape)
        assert GradCAM.__module__.startswith("camfast")
        wrapped = ModelWithHooks(model, "1", register_forward=True, register_backward=True)
        torch.testing.assert_close(GradCAM(wrapped, "1")(x, 1), GradCAM(model, "1")(x, 1))
    """)
    assert "[2, 3, 8, 8]" in out and "[1, 3, 8, 8]" in out
    pages = Path(__file__).parents[2] / "docs" / "migrate"
    for page, names in (("captum", ("GuidedBackprop", "LayerAttribution")), ("monai", ("ModelWithHooks",))):
        rows = [line for line in (pages / f"{page}.md").read_text().splitlines() if line.startswith("| `")]
        for name in names:
            assert any(name in row.split("|")[1] and f'after `install("{page}")`' in row for row in rows), name


def test_a_script_of_the_originals():
    out = run("""
        import sys
        from camfast.compat import install
        for name in ("torchcam", "captum", "monai"):
            install(name)

        import torch
        from torch import nn
        from captum.attr import GuidedGradCam, LayerAttribution, LayerGradCam
        from monai.visualize import GradCAM as MonaiGradCAM
        import torchcam.metrics
        from torchcam.methods import LayerCAM
        from torchcam.methods._utils import locate_candidate_layer

        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
        x = torch.rand(2, 3, 8, 8)
        assert locate_candidate_layer(model, (3, 8, 8)) == "1"
        with LayerCAM(model, "1") as extractor:
            print(extractor(1, model(x))[0].shape)
            metric = torchcam.metrics.ClassificationMetric(extractor)
            metric.update(x)
        maps = LayerGradCam(model, model[1]).attribute(x, target=1)
        print(LayerAttribution.interpolate(maps, (8, 8)).shape, GuidedGradCam(model, model[0]).attribute(x, 1).shape)
        print(MonaiGradCAM(model, "1")(x).shape)
    """)
    assert out.count("[2, 1, 8, 8]") == 2 and "[2, 6, 6]" in out and "[2, 3, 8, 8]" in out


def test_what_is_absent_says_so():
    out = run("""
        import importlib.util
        find_spec = importlib.util.find_spec
        importlib.util.find_spec = lambda name: None if name == "captum" else find_spec(name)  # not installed
        from camfast.compat import install
        install("captum")
        try:
            from captum.attr import IntegratedGradients
        except ImportError as error:
            print(error)
        try:
            import captum.insights
        except ModuleNotFoundError as error:
            print(error)
    """)
    assert (
        "IntegratedGradients: import it from captum.attr itself" in out and "No module named 'captum.insights'" in out
    )


def test_unknown_names():
    with pytest.raises(ValueError, match="'captum', 'monai', 'pytorch_grad_cam', 'torchcam', got 'numpy'"):
        camfast.compat.install("numpy")


def test_a_package_that_is_not_there_yet(monkeypatch):
    monkeypatch.setattr(camfast.compat, "NAMES", ("nothing_yet",))
    with pytest.raises(ImportError, match="camfast does not stand for nothing_yet yet"):
        camfast.compat.install("nothing_yet")


@pytest.mark.parametrize("value, expected", [("1", True), ("0", False), ("", False), (None, False)])
def test_strict_by_the_environment(monkeypatch, value, expected):
    if value is None:
        monkeypatch.delenv("CAMFAST_COMPAT_STRICT", raising=False)
    else:
        monkeypatch.setenv("CAMFAST_COMPAT_STRICT", value)
    import camfast.compat.monai as ours

    assert camfast.compat.is_strict("monai") is expected
    monkeypatch.setattr(ours, "strict", not expected)
    assert camfast.compat.is_strict("monai") is not expected
