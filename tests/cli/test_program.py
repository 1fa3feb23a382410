"""The program itself: what it says without work, what it imports, what it says of what is missing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from interpreter import run_python

from camfast.cli.main import main

skimage = pytest.importorskip("skimage")

CAT = str(Path(skimage.__file__).parent / "data" / "chelsea.png")


def test_version_help_and_no_command(capsys):
    with pytest.raises(SystemExit) as leave:
        main(["--version"])
    assert leave.value.code == 0 and capsys.readouterr().out.strip().startswith("camfast 0.")
    assert main([]) == 0 and "image" in capsys.readouterr().out
    with pytest.raises(SystemExit) as leave:
        main(["nosuch"])
    assert leave.value.code == 2


def test_info_tells_what_a_bug_report_needs(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for word in (torch.__version__, sys.version.split()[0], "_C.abi3.so", "cuda loaded", "threads", "os  "):
        assert word in text
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["torch"]["version"] == torch.__version__ and facts["threads"]["torch"] == torch.get_num_threads()
    assert Path(facts["camfast"]["cpu_library"]).is_file() and isinstance(facts["camfast"]["cuda_archs"], list)
    assert len(facts["devices"]) >= torch.cuda.device_count()
    assert facts["camfast"]["cuda_loaded"] is (
        torch.cuda.is_available() and facts["camfast"]["cuda_library"] is not None
    )


def python(*arguments):
    return run_python(*arguments, check=True).stdout


def test_as_modules():
    assert python("-m", "camfast", "--version").startswith("camfast ")
    assert json.loads(python("-m", "camfast", "info", "--json"))["camfast"]["version"]


def test_importing_camfast_imports_nothing_heavy():
    code = (
        "import sys, torch; before = set(sys.modules); import camfast, camfast.cli; "
        "[getattr(camfast, name) for name in camfast.__all__]; print(set(sys.modules) - before)"
    )
    imported = {name.strip("'{} \n").partition(".")[0] for name in python("-c", code).split(",")}
    assert "camfast" in imported
    assert not imported & set(
        ["torchvision", "timm", "PIL", "tqdm", "skimage", "safetensors", "matplotlib", "efficientnet_lite_pytorch"]
    )


def test_a_missing_package_names_its_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert main(["image", CAT]) == 2
    assert 'pip install "camfast[vision]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("missing", "extra", "arguments"),
    [
        ("PIL", "vision", ["image", CAT]),
        ("av", "video", ["video", "clip.mp4", "-o", "out.mp4"]),
        ("PIL", "vision", ["video", "clip.mp4", "-o", "out.mp4"]),
        ("aiohttp.web", "live", ["live", "0"]),
        ("av", "video", ["live", "browser"]),
        ("PIL", "vision", ["live", "browser"]),
        ("tensorboard", "tensorboard", ["features", CAT, "--logdir", "runs"]),
        ("PIL", "vision", ["features", CAT, "--out", "maps"]),
        ("skimage", "demo", ["demo"]),
        ("PIL", "demo", ["gallery"]),
    ],
)
def test_a_missing_package_is_said_before_the_network_is_loaded(monkeypatch, capsys, missing, extra, arguments):
    from camfast import zoo

    def loaded(*args, **options):
        raise AssertionError("the network was loaded")

    monkeypatch.setattr(zoo, "load", loaded)
    for name in [name for name in sys.modules if name == missing or name.startswith(missing + ".")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(arguments) == 2
    assert f'{missing.split(".")[0]} is needed here: pip install "camfast[{extra}]"' in capsys.readouterr().err


def test_a_wrong_name_lists_what_there_is(capsys):
    assert main(["image", CAT, "--model", "resnet51"]) == 2
    near = re.search(r"close to it: (.*)", capsys.readouterr().err)[1].split(", ")
    assert len(near) == len(set(near)) == 3 and "'resnet50'" in near
    assert main(["image", CAT, "--layer", "qqqq"]) == 2
    err = capsys.readouterr().err
    assert "got 'qqqq'; there are '_conv_stem', " in err and "in all" in err and "named_modules" not in err


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["nothing"]])
def test_answers_without_torch(arguments):
    code = "import sys; from camfast.cli import main\ntry: main(sys.argv[1:])\nfinally: print(*sys.modules)"
    loaded = run_python("-c", code, *arguments).stdout.split()
    assert "camfast.cli.main" in loaded and not {"torch", "numpy"} & set(loaded)


@pytest.mark.parametrize("arguments", [["layers", "resnet18"], ["image", "--help"], ["info"]])
def test_a_reader_that_has_seen_enough_is_no_error(arguments):
    """The reading end is closed before anything is written, as by ``head`` that has its lines."""
    reading, writing = os.pipe()
    os.close(reading)
    process = run_python("-m", "camfast", *arguments, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (process.returncode, process.stderr) == (0, "")
