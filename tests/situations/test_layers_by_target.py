"""The layer that is found belongs to the target; a map that comes out blank is said to be."""

from __future__ import annotations

import warnings

import plain_maps
import pytest
import real_networks
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import camfast
from camfast.targets import Field, LogOdds

RAW = {"size": "map", "normalize": False}


class SegmentationAndClass(nn.Module):
    """A mask by a decoder, and a class from the encoder: the decoder runs last and the class knows nothing of it."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
        self.dec = nn.Sequential(nn.Upsample(scale_factor=4), nn.Conv2d(16, 8, 3, padding=1), nn.ReLU())
        self.seg = nn.Conv2d(8, 2, 1)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.enc(x)
        return {"seg": self.seg(self.dec(features)), "cls": self.fc(features.mean((2, 3)))}


class TwoTasks(nn.Module):
    """A branch of convolutions for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU())
        self.age = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.sex = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.age_fc, self.sex_fc = nn.Linear(16, 1), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x)
        return {
            "age": self.age_fc(self.age(features).mean((2, 3))),
            "sex": self.sex_fc(self.sex(features).mean((2, 3))),
        }


@pytest.mark.parametrize(
    "make, field, layers",
    [(SegmentationAndClass, "cls", {"enc", "enc.3"}), (TwoTasks, "sex", {"sex", "sex.1"}), (TwoTasks, "age", {"age", "age.1"})],
)  # fmt: skip
def test_the_layer_found_is_the_last_that_the_target_reaches(make, field, layers):
    net, x = make().eval(), torch.randn(2, 3, 32, 32)
    result = camfast.grad_cam(net, x, targets=Field(field, 0), **RAW)
    assert set(result.layers) <= layers, result.layers
    wanted = plain_maps.grad_cam(net, result.layers[0], [x], lambda out: out[field][:, 0].sum())
    plain_maps.assert_map(result.heatmap, wanted)


def test_another_target_of_the_same_explainer_finds_its_own_layer():
    net, x = TwoTasks().eval(), torch.randn(2, 3, 32, 32)
    explainer = camfast.GradCAM(net)
    for field in ("age", "sex", "age"):
        result = explainer(x, targets=Field(field, 0), **RAW)
        assert result.layers[0].split(".")[0] == field
        wanted = plain_maps.grad_cam(net, result.layers[0], [x], lambda out, own=field: out[own][:, 0].sum())
        plain_maps.assert_map(result.heatmap, wanted)


class Saturated(nn.Module):
    """Probabilities that are 0 or 1 up to rounding: nothing changes them any more."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU())
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return (4000 * self.fc(self.layer(x).mean((2, 3)))).softmax(1)


@pytest.mark.parametrize("targets", [None, "log odds"])
def test_a_saturated_softmax_is_said_to_be_blank(targets):
    """Blank is the true answer; the same as the peer gives. Silence is what was wrong."""
    net, x = Saturated().eval(), torch.randn(1, 3, 16, 16)
    targets = None if targets is None else LogOdds(int(net(x).argmax()))
    with pytest.warns(UserWarning, match=r"(?i)zero|blank|saturat"):
        heat = camfast.grad_cam(net, x, targets=targets).heatmap
    assert not heat.any()


BUS = 4 + 5  # the row of its scores, behind those of the box


@pytest.fixture(scope="module")
def bus(tmp_path_factory):
    """Trained YOLO26 n, the bus photograph, and the box of the likeliest bus."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("yolo")))  # written where its library is imported
        net, photo = real_networks.yolo26()
    image = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255
    image = F.interpolate(image, (320, 256), mode="bilinear", antialias=True)
    with torch.no_grad():
        rows = net(image)[0][0]
    x, y, w, h = rows[:4, rows[BUS].argmax()].tolist()
    return net, image, (x - w / 2, y - h / 2, x + w / 2, y + h / 2)


@pytest.mark.real
@pytest.mark.parametrize("method", ["grad_cam", "layer_cam", "hires_cam"])
def test_a_detector_is_explained_by_a_layer_of_its_class_branch(bus, method):
    net, image, _ = bus
    raw = camfast.METHODS[method](net)(image, targets=lambda rows: rows[BUS].amax(), **RAW).heatmap
    assert raw.abs().max() > 0


@pytest.mark.real
def test_the_best_bus_lies_in_its_box(bus):
    net, image, box = bus
    heat = camfast.layer_cam(net, image, layers="model.22", targets=lambda rows: rows[BUS].amax()).heatmap[0]
    assert plain_maps.peak_in(heat, box)


@pytest.mark.real
@pytest.mark.parametrize("targets", [None, "bus"])
def test_class_names_of_a_detector_are_not_counted_over_box_numbers(bus, targets):
    """80 names are the 80 rows behind the box. What the label says is what is explained, by mean, best or sum of the boxes.

    A refusal in one sentence is right as well.
    """
    net, image, _ = bus
    names = list(net.names.values())
    explainer = camfast.GradCAM(net, layers="model.22", class_names=names)
    try:
        result = explainer(image, targets=targets, **RAW)
    except (ValueError, TypeError) as error:
        assert "\n" not in str(error)
        return
    label = result.label(0)
    assert label in names if targets is None else label == targets
    row = 4 + names.index(label)
    reductions = [lambda rows: rows[row].mean(), lambda rows: rows[row].amax(), lambda rows: rows[row].sum()]
    wanted = [explainer(image, targets=reduction, **RAW).heatmap for reduction in reductions]
    assert any((result.heatmap - w).abs().max() <= 1e-4 * w.abs().max() for w in wanted)


class Normalised(nn.Module):
    """The mean after a normalisation: a number that no image changes, but for rounding."""

    def __init__(self, affine: bool):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.LayerNorm(16, elementwise_affine=affine)
        self.scale = nn.Linear(16, 4)

    def forward(self, x):
        normed = self.norm(self.conv(x).relu().mean((2, 3)))
        return torch.cat([normed.mean(1, keepdim=True) + 1, self.scale(normed)], 1)


def test_heat_of_nothing_but_rounding_is_said_to_be_so():
    torch.manual_seed(0)
    model = Normalised(affine=False).eval()
    x = torch.randn(2, 3, 12, 12)
    with pytest.warns(camfast.errors.DoubtWarning, match=r"nothing but rounding|blank"):
        camfast.grad_cam(model, x, targets=0, layers="conv")
    with warnings.catch_warnings():
        warnings.simplefilter("error", camfast.errors.DoubtWarning)
        camfast.grad_cam(model, x, targets=[1, 2], layers="conv", normalize=False)


def test_heat_that_cancels_out_over_channels_is_said_to_be_rounding():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Whole(), nn.Linear(8, 3)
    )
    with pytest.warns(camfast.errors.DoubtWarning, match="nothing but rounding"):
        camfast.hires_cam(model.eval(), torch.full((1, 3, 8, 8), 0.5), layers="0")


class Whole(nn.Module):
    """Direction alone: no score changes where all of it is scaled."""

    def forward(self, x):
        return F.normalize(x, dim=1)


def test_a_head_of_zeros_is_said_to_be_one():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()
    nn.init.zeros_(model[-1].weight)
    nn.init.zeros_(model[-1].bias)
    with pytest.warns(camfast.errors.DoubtWarning, match="every score is exactly 0"):
        camfast.grad_cam(model, torch.randn(1, 3, 8, 8))
