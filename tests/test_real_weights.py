"""Trained networks on photographs: the heat falls on the object.

Two measures over photographs with known boxes: the pointing game (Zhang et al. 2018, doi:10.1007/s11263-017-1059-x; the
peak lies in a box) and the energy in the boxes (Wang et al. 2020, arXiv:1910.01279: the share of the heat there). A map
that knows nothing scores the boxes' share of the photograph in both, a third of it on average.
"""

from __future__ import annotations

import functools

import pytest
import real_networks
import torch
import torch.nn.functional as F
from real_networks import CLASSIFIERS, Scene, Trained
from torch import Tensor, nn

import camfast
from camfast.targets import Segmentation

pytestmark = pytest.mark.real

TWO_THINGS = ["cat", "cup"]  # in one photograph
LABELLED = sorted(real_networks.FOOLBOX)
LEAST_ENERGY = 0.5  # mean over photographs
LEAST_LIFT = 1.2  # of each photograph: the energy over the boxes' share of it
METHODS = ["grad_cam", "layer_cam", "eigen_cam"]


@functools.cache
def trained(name: str) -> Trained:
    return CLASSIFIERS[name]()


def heat_of(network: Trained, method: str, scene: Scene, **options) -> Tensor:
    image = network.image(scene.photo)
    with torch.no_grad():
        scores = network.model(image)[0]
    target = max(scene.classes, key=lambda c: scores[c].item())  # the likeliest of the object's names
    return camfast.METHODS[method](network.model, **options)(image, target).heatmap[0]


def measures(heat: Tensor, inside: Tensor) -> tuple[bool, float, float]:
    """Whether the peak is inside, the share of the heat there, and that share over the share of the area."""
    energy = (heat[inside].sum() / heat.sum()).item()
    return bool(inside.flatten()[heat.argmax()]), energy, energy / inside.float().mean().item()


def played(name: str, method: str, scenes: list[str], **options) -> tuple[list[bool], list[float], list[float]]:
    network = trained(name)
    found = []
    for scene in map(real_networks.scene, scenes):
        heat = heat_of(network, method, scene, **options)
        found.append(measures(heat, scene.inside(tuple(heat.shape))))
    hits, energies, lifts = zip(*found, strict=True)
    return list(hits), list(energies), list(lifts)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_prediction_is_right(name):
    """Weights and preparation are what they were trained as: most photographs are recognised."""
    network = trained(name)
    right = 0
    for scene in map(real_networks.scene, LABELLED):
        with torch.no_grad():
            best = network.model(network.image(scene.photo)).topk(5).indices[0].tolist()
        right += bool(set(best) & set(scene.classes))
    assert right >= len(LABELLED) - 1


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("method", ["grad_cam", "layer_cam"])
def test_each_of_two_things_has_its_own_heat(name, method):
    hits, energies, lifts = played(name, method, TWO_THINGS)
    assert all(hits)
    assert min(lifts) >= LEAST_LIFT, energies


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("method", METHODS)
def test_labelled_photographs(name, method):
    hits, energies, lifts = played(name, method, LABELLED)
    assert sum(hits) >= len(hits) - 1
    assert sum(energies) / len(energies) >= LEAST_ENERGY
    assert min(lifts) >= LEAST_LIFT, energies


@pytest.mark.parametrize("name", ["efficientnet-lite0", "mobilenet_v2"])
def test_score_cam(name):
    """By the 48 channels of largest variance, since each costs a forward pass."""
    hits, energies, lifts = played(name, "score_cam", ["imagenet_06_609", "imagenet_19_305"], channels=48)
    assert all(hits) and min(lifts) >= LEAST_LIFT, energies


class Prompted(nn.Module):
    """SAM as a segmentation network: images ``[1, 3, 1024, 1024]`` to the logits of three masks around a point."""

    def __init__(self, sam: nn.Module, point: tuple[float, float]) -> None:
        super().__init__()
        self.sam, self.point = sam, point

    def forward(self, images: Tensor) -> Tensor:
        points = torch.tensor([[self.point]]), torch.ones(1, 1)
        sparse, dense = self.sam.prompt_encoder(points=points, boxes=None, masks=None)
        masks, _ = self.sam.mask_decoder(
            image_embeddings=self.sam.image_encoder(images),
            image_pe=self.sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        return masks  # [1, 3, 256, 256]


def test_a_transformer_that_segments():
    """MobileSAM, asked for what is at a point on a jeep: its encoder and its decoder both look at the jeep."""
    scene = real_networks.scene("imagenet_06_609")
    sam = real_networks.mobile_sam()
    image = F.interpolate(torch.from_numpy(scene.photo).permute(2, 0, 1)[None].float(), (1024, 1024), mode="bilinear")
    image = (image - sam.pixel_mean) / sam.pixel_std
    ((x0, y0, x1, y1),) = scene.boxes
    model = Prompted(sam, (512 * (x0 + x1), 512 * (y0 + y1))).eval()
    found = camfast.LayerCAM(model, layers="sam.image_encoder.neck")(image, 2, size=256)
    mask, box = found.scores[0, 2] > 0, scene.inside((256, 256))
    assert (mask & box).sum() > 0.9 * mask.sum() > 0.5 * 0.9 * box.sum()  # it is the jeep's mask
    target = Segmentation(2, mask)
    hit, energy, _ = measures(
        camfast.LayerCAM(model, "sam.image_encoder.neck")(image, target, size=256).heatmap[0], box
    )
    assert hit and energy >= 0.6
    explainer = camfast.GradCAM(model)
    hit, energy, _ = measures(explainer(image, target, size=256).heatmap[0], mask)
    assert explainer.layers == ["sam.mask_decoder.output_upscaling"] and hit and energy >= 0.9


def test_a_detector(tmp_path, monkeypatch):
    """YOLO26 finds a bus; the last of its maps for large things saw the bus."""
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))  # its library writes settings where it is imported
    model, photo = real_networks.yolo26()
    height, width = 640, 480
    image = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255
    image = F.interpolate(image, (height, width), mode="bilinear", antialias=True)
    bus = 5
    with torch.no_grad():
        rows = model(image)[0][0]  # [4 + classes, boxes]: centre, size, scores
    best = rows[4 + bus].argmax()
    assert rows[4 + bus, best] > 0.8
    x, y, w, h = (rows[:4, best] / torch.tensor([width, height, width, height])).tolist()
    box = Scene("bus", photo, (bus,), ((x - w / 2, y - h / 2, x + w / 2, y + h / 2),)).inside((height, width))
    for method in (camfast.layer_cam, camfast.hires_cam):
        heat = method(model, image, lambda rows: rows[4 + bus].amax(), layers="model.22").heatmap[0]
        hit, energy, lift = measures(heat, box)
        assert hit and energy >= 0.6 and lift >= LEAST_LIFT


@pytest.fixture(scope="module")
def digits():
    """A vision transformer, trained here on handwritten digits somewhere on a noisy ground: model, images, classes, masks."""
    transformer = pytest.importorskip("timm.models.vision_transformer")
    data = pytest.importorskip("sklearn.datasets").load_digits()
    images, classes = torch.tensor(data.images, dtype=torch.float32) / 16, torch.tensor(data.target)
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(len(classes), generator=generator)
    train, test = order[:1400], order[1400:]

    def placed(chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ground = 0.3 * torch.rand(len(chosen), 1, 24, 24, generator=generator)
        masks = torch.zeros(len(chosen), 24, 24, dtype=torch.bool)
        for i, (row, column) in enumerate(8 * torch.randint(0, 3, (len(chosen), 2), generator=generator)):
            masks[i, row : row + 8, column : column + 8] = True
            ground[i, 0, row : row + 8, column : column + 8] = images[chosen[i]]
        return ground, classes[chosen], masks

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the network is so small that a second thread only waits
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = transformer.VisionTransformer(24, 4, 1, 10, embed_dim=48, depth=2, num_heads=4, mlp_ratio=2)
        steps = 250
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, steps)
        for _ in range(steps):
            x, y, _ = placed(train[torch.randint(0, len(train), (64,), generator=generator)])
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
    finally:
        torch.set_num_threads(threads)
    model.eval()
    x, y, masks = placed(test[:120])
    with torch.no_grad():
        right = model(x).argmax(1) == y
    assert right.float().mean() > 0.8
    return model, x[right], y[right], masks[right]


@pytest.mark.parametrize("method", ["grad_cam", "layer_cam", "hires_cam", "eigen_cam", "score_cam", "recipro_cam"])
def test_a_transformer_that_classifies(digits, method):
    """The digit covers a ninth of the picture."""
    model, x, y, masks = digits
    if method == "score_cam":
        x, y, masks = x[:40], y[:40], masks[:40]
    heat = camfast.METHODS[method](model)(x, y).heatmap
    found = [measures(h, mask) for h, mask in zip(heat, masks, strict=True) if h.any()]
    hits, energies, _ = zip(*found, strict=True)
    assert len(found) > 0.7 * len(x)  # Grad-CAM's weights may make a whole map negative
    assert sum(hits) / len(hits) > 3 / 9
    assert sum(energies) / len(energies) > 1.5 / 9
