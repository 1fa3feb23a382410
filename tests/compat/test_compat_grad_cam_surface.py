"""Every public name of the installed pytorch-grad-cam is in ours, with the same parameters; and imports stay light."""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from pathlib import Path

import pytest
import torch
from compat_surface import module_names, public_names, signature_of
from interpreter import run_python
from torch import nn

PEER, OURS = "pytorch_grad_cam", "camfast.compat.pytorch_grad_cam"
SPECIAL = ("__init__", "__call__", "__enter__", "__exit__", "__del__")
# Names of the peer that ours does not have, and why. Aim at none.
ABSENT: dict[str, str] = {}


@pytest.mark.parametrize("module", module_names(PEER))
def test_every_module_has_every_name_with_the_same_parameters(module):
    ours = importlib.import_module(f"{OURS}.{module}".rstrip("."))
    for name, value in public_names(PEER, module).items():
        if f"{module}.{name}" in ABSENT:
            continue
        own = getattr(ours, name)
        if inspect.isclass(value):
            _compare_classes(value, own)
        elif inspect.isfunction(value):
            _compare_defaults(name, signature_of(value), signature_of(own))
        else:
            assert list(own) == list(value), name


def _compare_classes(theirs: type, own: type) -> None:
    is_function = issubclass(theirs, torch.autograd.Function)  # whose first parameter has no name to call it by
    for name, method in vars(theirs).items():
        public = not name.startswith("_") or name in SPECIAL
        if public and (inspect.isfunction(method) or isinstance(method, (staticmethod, classmethod))):
            pair = [signature_of(getattr(kind, name), skip=int(is_function)) for kind in (theirs, own)]
            _compare_defaults(f"{theirs.__name__}.{name}", *pair)


def _compare_defaults(name: str, theirs: list, own: list) -> None:
    # run_dff_on_image has a type in place of a default
    unset = [(n, k, None if d == "_UnionGenericAlias" or n == "reshape_transform" else d) for n, k, d in theirs]
    assert own in (unset, theirs), f"{name}: {own} instead of {theirs}"


METHODS = "GradCAM HiResCAM ScoreCAM AblationCAM FullGrad FEM RandomCAM FinerCAM RefineCAM SESS KPCA_CAM ShapleyCAM"


@pytest.mark.parametrize("name", METHODS.split())
def test_objects_have_the_same_attributes(name):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    theirs, own = (getattr(importlib.import_module(package), name)(model, [model[1]]) for package in (PEER, OURS))
    for key, value in vars(theirs).items():
        assert hasattr(own, key), key
        if isinstance(value, (int, float, str, type(None))):
            assert getattr(own, key) == value, key


def test_imports_need_neither_the_peer_nor_opencv_nor_matplotlib():
    modules = [f"{OURS}.{module}".rstrip(".") for module in module_names(PEER)]
    script = """
        import importlib, sys
        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {"pytorch_grad_cam", "cv2", "matplotlib", "scipy", "sklearn", "ttach",
                                          "torchvision", "PIL", "tqdm", "timm"}:
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        sys.meta_path.insert(0, Blocked())
        for name in %s:
            importlib.import_module(name)
        import torch
        from torch import nn
        from camfast.compat.pytorch_grad_cam import AblationCAM, GradCAM, ScoreCAM
        from camfast.compat.pytorch_grad_cam.utils import image
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        for method in (GradCAM, AblationCAM, ScoreCAM):
            heat = method(model, [model[1]])(torch.rand(1, 3, 8, 8), None)[0]
        image.show_cam_on_image(torch.rand(8, 8, 3).numpy(), heat, use_rgb=True)
        try:
            image.show_cam_on_image(torch.rand(8, 8, 3).numpy(), heat, colormap=4)
        except ImportError as error:
            print(error)
    """
    script = textwrap.dedent(script) % modules
    done = run_python("-c", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == 'cv2 is needed here: pip install "camfast[compat]"'


def test_the_page_names_everything_once():
    readme = (Path(__file__).parents[2] / "docs" / "migrate" / "pytorch-grad-cam.md").read_text()
    rows = [line.split(" | ") for line in readme.splitlines() if line.startswith("| `")]
    listed = {row[0].strip("| `"): re.findall(r"`(\w+)`", " ".join(row[1:])) for row in rows}
    expected = {module: sorted(public_names(PEER, module)) for module in module_names(PEER) if module}
    assert {module: sorted(names) for module, names in listed.items()} == {m: n for m, n in expected.items() if n}
    absent = {f"{row[0].strip('| `')}.{name}" for row in rows for name in re.findall(r"`(\w+)`", row[3])}
    assert absent == set(ABSENT)
