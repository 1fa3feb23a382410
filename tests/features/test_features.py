"""Feature maps: what is captured is the layer's output, of the layers that were asked for, and nothing stays behind."""

from __future__ import annotations

import gc
import io
import signal
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from interpreter import run_python
from models import InPlaceAfter, Packed, SmallNet, TokenNet, Twice, bystander_state, images
from PIL import Image
from torch import nn

import camfast
from camfast.model.copy_on_write import CopyOnWrite

torchvision = pytest.importorskip("torchvision.models")


def convolutions_by_hand(features, x):
    """Outputs of the convolutions of a plain ``nn.Sequential``, computed from weights, with nothing in place."""
    outputs = {}
    for name, layer in features.named_children():
        if isinstance(layer, nn.Conv2d):
            x = F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)
            outputs[f"features.{name}"] = x
        elif isinstance(layer, nn.ReLU):
            assert layer.inplace  # what the test is about
            x = x.clamp(min=0)
        else:
            x = layer(x)
    return outputs


# What is captured


@pytest.mark.parametrize("name", ["alexnet", "vgg16"])
def test_maps_are_the_convolutions_outputs_though_relu_works_in_place(name, device):
    model = torchvision.get_model(name, weights=None).eval().to(device)
    x = images(1, size=(96, 96)).to(device)
    maps = camfast.FeatureMaps(model)(x)
    with torch.no_grad():
        expected = convolutions_by_hand(model.features, x)
    assert list(maps) == list(expected)
    assert len(maps) == {"alexnet": 5, "vgg16": 13}[name]
    for layer, output in expected.items():
        assert output.min() < 0  # a ReLU would have shown
        assert maps[layer].device == x.device
        torch.testing.assert_close(maps[layer], output, rtol=1e-4, atol=1e-5)


def test_only_what_is_overwritten_is_copied():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True)).eval()
    seen = {}

    def note(module, args, output):
        seen[module] = output.data_ptr()

    handles = [model[i].register_forward_hook(note) for i in (0, 2)]
    maps = camfast.FeatureMaps(model)(images())
    assert maps["0"].data_ptr() == seen[model[0]]
    assert maps["2"].data_ptr() != seen[model[2]]
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize(
    "change",
    [
        torch.relu_,
        lambda t: t.view(-1)[:2].zero_(),
        lambda t: torch.add(t, 1, out=t),
        lambda t: t.data.mul_(0),
        lambda t: t.T.fill_(2),
    ],
)
def test_a_kept_tensor_keeps_its_values(change):
    tensor = torch.randn(4, 5)
    before = tensor.clone()
    with CopyOnWrite() as guard:
        first = guard.keep(tensor)
        change(tensor)
        later = tensor.clone()
        second = guard.keep(tensor)
        tensor.fill_(7)
    assert torch.equal(first.tensor, before)
    assert torch.equal(second.tensor, later)
    assert (tensor == 7).all()


def test_functional_operation_in_place():
    model = InPlaceAfter().eval()
    x = images()
    with torch.no_grad():
        expected = model.body(model.stem(x))
    assert torch.equal(camfast.FeatureMaps(model, "body")(x)["body"], expected)


def test_a_container_and_its_parts_each_keep_their_own():
    model = SmallNet().eval()
    x = images()
    maps = camfast.FeatureMaps(model, ["stem", "stem.1"])(x)
    with torch.no_grad():
        normalised = model.stem[1](model.stem[0](x))
    assert torch.equal(maps["stem.1"], normalised)
    assert torch.equal(maps["stem"], normalised.relu())


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_maps_of_one_two_and_three_dimensions(rank):
    model = SmallNet(rank=rank).eval()
    x = images(size=(16, 12, 8)[:rank])
    maps = camfast.FeatureMaps(model)(x)
    assert list(maps) == ["stem.0", "body.0"]
    assert maps["stem.0"].shape == (2, 8, *x.shape[2:])
    picture = maps.grid("body.0", 1, labels=True).tensor
    assert picture.dtype == torch.uint8 and picture.shape[2] == 3


def test_repeated_module_has_an_entry_for_each_call():
    model = Twice().eval()
    x = images()
    maps = camfast.FeatureMaps(model, types="Tanh")(x)
    with torch.no_grad():
        first = model.body(model.stem(x))
        second = model.body(first)
    assert list(maps) == ["body.1", "body.1#2"]
    assert torch.equal(maps["body.1"], first) and torch.equal(maps["body.1#2"], second)


@pytest.mark.parametrize("kind", ["tuple", "dict", "dataclass", "nested"])
def test_output_in_a_structure(kind):
    maps = camfast.FeatureMaps(Packed(kind).eval(), ["body.conv", "body"])(images())
    assert torch.equal(maps["body"], maps["body.conv"])


def test_tokens_become_grids():
    model = TokenNet().eval()
    x = images()
    maps = camfast.FeatureMaps(model, "blocks.*", types="Block")(x)
    with torch.no_grad():
        tokens = torch.cat([model.prefix.expand(2, -1, -1), model.patch(x).flatten(2).mT], 1)
        first = model.blocks[0](tokens)
    assert maps["blocks.0"].shape == (2, 16, 4, 5)
    torch.testing.assert_close(maps["blocks.0"], first[:, 1:].mT.unflatten(2, (4, 5)))


def test_vision_transformer_and_resnet():
    vit = torchvision.VisionTransformer(64, 16, 2, 2, 32, 64, num_classes=7).eval()
    maps = camfast.FeatureMaps(vit, "encoder.layers.*", types="EncoderBlock")(images(size=(64, 64)))
    assert [tuple(m.shape) for m in maps.values()] == [(2, 32, 4, 4)] * 2
    resnet = torchvision.resnet18(weights=None).eval()
    maps = camfast.FeatureMaps(resnet)(images(1, size=(64, 64)))
    assert len(maps) == 20
    assert "layer4.1.conv2" in maps and maps["layer4.0.downsample.0"].shape == (1, 512, 2, 2)


# What is kept of it


def test_reductions_and_callback():
    model, x = SmallNet().eval(), images()
    full = camfast.FeatureMaps(model)(x)
    mean = camfast.FeatureMaps(model, reduce="mean")(x)
    for name, maps in full.items():
        torch.testing.assert_close(mean[name], maps.mean(1, keepdim=True))
    top = camfast.FeatureMaps(model, reduce=3)(x)
    for name, maps in full.items():
        spread = maps.flatten(2).var(2)
        for n in range(2):
            order = spread[n].argsort(descending=True)[:3]
            assert top.channels[name][n].tolist() == order.tolist()
            assert torch.equal(top[name][n], maps[n, order])
    streamed = {}
    result = camfast.FeatureMaps(model, reduce=lambda m: m.amax(1), callback=streamed.__setitem__)(x)
    assert len(result) == 0
    for name, maps in full.items():
        assert torch.equal(streamed[name], maps.amax(1))
    kept = {}
    camfast.FeatureMaps(model, callback=kept.__setitem__)(x)
    assert all(torch.equal(kept[name], maps) for name, maps in full.items())
    moved = camfast.FeatureMaps(model, device="cpu")(x)
    assert all(torch.equal(moved[name], maps) for name, maps in full.items())


def test_streaming_keeps_one_map_at_a_time():
    model = nn.Sequential(*[layer for _ in range(6) for layer in (nn.Conv2d(3, 3, 3), nn.Sigmoid())]).eval()
    alive = weakref.WeakSet()
    most = 0

    def note(name, maps):
        nonlocal most
        alive.add(maps)
        most = max(most, len(alive))

    camfast.FeatureMaps(model, callback=note)(images())
    assert most <= 2
    assert len(alive) == 0


# Nothing stays behind


@pytest.mark.parametrize("fails", [False, True])
def test_no_trace(fails):
    model = SmallNet()  # in training mode, with batch norm and dropout
    before = bystander_state(model)
    looker = camfast.FeatureMaps(model)
    alive = weakref.WeakSet()
    if fails:

        def stop(name, maps):
            raise RuntimeError("stop")

        with pytest.raises(RuntimeError, match="stop"):
            camfast.FeatureMaps(model, callback=stop)(images())
    else:
        maps = looker(images())
        alive.update(maps.values())
        assert len(alive) == 2
        assert not any(m.requires_grad for m in maps.values())
        del maps
    gc.collect()
    assert len(alive) == 0
    after = bystander_state(model)
    assert before.keys() == after.keys()
    for key in ("hooks", "training", "requires_grad", "identity", "attributes"):
        assert before[key] == after[key]
    assert all(torch.equal(before["tensors"][k], after["tensors"][k]) for k in before["tensors"])
    assert torch.is_grad_enabled()


# Bad input


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("steam", "'stem'"),
        ("bodyy.*", "close to it: 'body"),
        (["stem", "nothing.here"], "expected a layer of the model"),
        ([], "at least one layer"),
        ("fc", "without positions"),
        ("f?", "spatial map"),
    ],
)
def test_layers_that_cannot_be_shown(layers, message):
    model = SmallNet().eval()
    with pytest.raises(ValueError, match=message):
        camfast.FeatureMaps(model, layers)(images())
    assert not any(m._forward_hooks for m in model.modules())


def test_other_bad_arguments():
    model = SmallNet()
    with pytest.raises(ValueError, match=r"type LSTM in the model, got .*Conv2d"):
        camfast.FeatureMaps(model, types="LSTM")
    with pytest.raises(ValueError, match="reduce must be 'mean'"):
        camfast.FeatureMaps(model, reduce="max")
    with pytest.raises(ValueError, match="1 channel or more"):
        camfast.FeatureMaps(model, reduce=0)
    with pytest.raises(ValueError, match="expected images"):
        camfast.FeatureMaps(model).to_tensorboard(_Recorder())


class _Recorder:
    def __init__(self):
        self.images, self.histograms = {}, {}

    def add_image(self, tag, picture, step, dataformats):
        assert dataformats == "HWC"
        self.images[tag, step] = picture

    def add_histogram(self, tag, values, step):
        self.histograms[tag, step] = values


# Gradients


def test_gradients_of_layers_and_tensors():
    model, x = SmallNet().eval(), images()
    with camfast.Gradients(model, ["stem.1", "body.0"]) as gradients:
        inner = model.stem(x)
        gradients.watch(inner, "inner")
        scores = model.head(model.body(inner))
        scores[:, 2].sum().backward()
    model.zero_grad()

    normalised = model.stem[1](model.stem[0](x)).detach().requires_grad_()
    hidden = normalised.relu()
    hidden.retain_grad()
    conv = model.body[0](hidden)
    conv.retain_grad()
    model.head(model.body[1](conv).relu())[:, 2].sum().backward()
    torch.testing.assert_close(gradients["stem.1"], normalised.grad)
    torch.testing.assert_close(gradients["inner"], hidden.grad)
    torch.testing.assert_close(gradients["body.0"], conv.grad)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    gradients.clear()
    assert len(gradients) == 0

    model.zero_grad()
    before = bystander_state(model)
    maps = camfast.Gradients(model, ["stem.1", "body.0"])(x, lambda output: output[:, 2].sum())
    torch.testing.assert_close(maps["stem.1"], normalised.grad)
    torch.testing.assert_close(maps["body.0"], conv.grad)
    assert before["grad"] == bystander_state(model)["grad"]


def test_gradients_of_a_frozen_model_and_of_repeated_calls():
    model, x = Twice().eval().requires_grad_(False), images()
    with camfast.Gradients(model, "body") as gradients:
        model(x)[:, 0].sum().backward()
        model(x)[:, 1].sum().backward()  # the second pass replaces the first
    assert set(gradients) == {"body", "body#2"}
    hidden = model.body(model.stem(x)).requires_grad_()
    last = model.body(hidden)
    last.retain_grad()
    model.head(last)[:, 1].sum().backward()
    torch.testing.assert_close(gradients["body"], hidden.grad)
    torch.testing.assert_close(gradients["body#2"], last.grad)


def test_gradients_errors():
    model = SmallNet().eval()
    with pytest.raises(ValueError, match="requires a gradient"):
        camfast.Gradients(model, "stem").watch(torch.zeros(3), "x")
    with pytest.raises(ValueError, match="one value"):
        camfast.Gradients(model, "stem")(images(), lambda output: output)
    with pytest.raises(KeyError, match="no backward pass"):
        camfast.Gradients(model, "stem")["stem"]


# TensorBoard


@pytest.fixture
def events():
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def read(directory):
        log = accumulator.EventAccumulator(str(directory), {accumulator.IMAGES: 0, accumulator.HISTOGRAMS: 0})
        return log.Reload()

    return read


@pytest.mark.parametrize("held", [True, False])
def test_log_holds_one_image_for_each_convolution(events, tmp_path, held):
    model = torchvision.alexnet(weights=None).eval()
    x = images(2, size=(96, 96))
    looker = camfast.FeatureMaps(model)
    maps = looker(x)
    if held:
        looker.to_tensorboard(tmp_path / "log", 3, image=1)
    else:
        looker.to_tensorboard(tmp_path / "log", 3, x, image=1, histograms=["weights"])
    log = events(tmp_path / "log")
    assert sorted(log.Tags()["images"]) == [f"features.{i}" for i in (0, 10, 3, 6, 8)]
    for name, value in maps.items():
        (image,) = log.Images(name)
        expected = maps.grid(name, 1)
        assert (image.step, image.height, image.width) == (3, *expected.shape[:2])
        drawn = decoded(image.encoded_image_string)
        assert torch.equal(drawn, expected.tensor)
        channels, height, width = value.shape[1:]
        side = expected.columns
        assert side * side >= channels > (side - 1) ** 2
        assert image.width == side * (width + 2) + 2
        assert image.height == -(-channels // side) * (height + 2) + 2
    tags = log.Tags()["histograms"]
    assert sorted(tags) == ([] if held else sorted(f"{n}.{p}" for n in maps for p in ("weight", "bias")))
    if not held:
        (histogram,) = log.Histograms("features.3.weight")
        value = histogram.histogram_value
        weight = model.features[3].weight
        assert value.num == weight.numel()
        assert value.min == pytest.approx(weight.min().item()) and value.max == pytest.approx(weight.max().item())


def decoded(png):
    return torch.from_numpy(np.array(Image.open(io.BytesIO(png))))


def test_writer_of_the_caller_stays_open(events, tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    model = SmallNet().eval()
    model(images()).sum().backward()
    with tensorboard.SummaryWriter(tmp_path) as writer:
        camfast.FeatureMaps(model).to_tensorboard(writer, 1, images(), histograms=True)
        camfast.FeatureMaps(model)(images()).to_tensorboard(writer, 2)
    log = events(tmp_path)
    assert [image.step for image in log.Images("body.0")] == [1, 2]
    assert "body.0.weight.grad" in log.Tags()["histograms"]


def test_log_directory_that_cannot_be_written(tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="log directory that can be written"):
        camfast.FeatureMaps(SmallNet()).to_tensorboard(tmp_path / "file" / "log", 0, images())
    with pytest.raises(TypeError, match="SummaryWriter"):
        camfast.FeatureMaps(SmallNet()).to_tensorboard(3, 0, images())


FULL_DISK = """
import resource, signal, sys, torch, camfast
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
torch.manual_seed(0)
model = torch.nn.Sequential(*[torch.nn.Conv2d(3, 3, 3, padding=1) for _ in range(8)])
try:
    camfast.FeatureMaps(model).to_tensorboard(sys.argv[1], 0, torch.randn(1, 3, 40, 40))
except OSError as error:
    sys.exit(str(error))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit of file sizes on this system")
def test_what_was_written_before_the_disk_was_full_is_readable(events, tmp_path):
    process = run_python("-c", FULL_DISK, tmp_path)
    assert process.returncode == 1
    assert "cannot write on to the log" in process.stderr and "Traceback" not in process.stderr
    tags = events(tmp_path).Tags()["images"]
    assert 0 < len(tags) < 8
    assert tags == [str(i) for i in range(len(tags))]
