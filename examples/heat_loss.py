"""A network that is right for the wrong reason, and what a loss on its heat does about it.

    python examples/heat_loss.py           # a minute on two cores; writes heat_loss.png
    python examples/heat_loss.py 150       # fewer steps

Each picture shows a disc, a square or a cross, all of one grey. In training a small mark tells the answer by its colour; in
the test the mark's colour means nothing. A network trained as usual reads the mark. The same network, trained with
``camfast.losses.energy_outside`` on the box of the shape, reads the shape.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from shapes import NAMES, SIDE, pictures, trained
from torch import Tensor, nn

import camfast
from camfast import losses

MARK = 7  # pixels of its side
GREY = 0.4  # of every shape, over grey noise from 0 to 0.45
COLOURS = torch.tensor([[1.0, 0.2, 0.2], [0.2, 1.0, 0.2], [0.3, 0.3, 1.0]])  # of the mark: one a class, in training


def network() -> nn.Module:
    """Four convolutions, global average pooling, one linear layer."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in [(3, 16, 2), (16, 32, 1), (32, 64, 2), (64, 64, 1)]:
        norm = nn.BatchNorm2d(outputs, momentum=0.3)  # few steps, so that its means must follow soon
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), norm, nn.ReLU(inplace=True)]
    return nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, len(NAMES)))


def marked(images: Tensor, told: Tensor, masks: Tensor) -> Tensor:
    """The pictures in grey, each with a mark in the colour of the class ``told`` in the corner that is farthest from the shape."""
    images = images.mean(1, keepdim=True).where(~masks[:, None], GREY).repeat(1, 3, 1, 1)
    middle = SIDE / 2
    for image, mask, kind in zip(images, masks, told, strict=True):
        y, x = (2 if where > middle else SIDE - MARK - 2 for where in mask.nonzero().float().mean(0))
        image[:, y : y + MARK, x : x + MARK] = COLOURS[kind, :, None, None]
    return images


@functools.cache
def unseen(count: int = 150) -> tuple[Tensor, Tensor, Tensor]:
    """The test: pictures whose marks are of any colour, their kinds ``[N]``, and the shapes' masks ``[N, 64, 64]``."""
    generator = torch.Generator().manual_seed(1)
    images, kinds, _, masks = pictures(count, generator, each=1)
    told = torch.randint(len(NAMES), (count,), generator=generator)
    return marked(images, told, masks[:, 0]), kinds[:, 0], masks[:, 0]


@dataclass
class Lesson:
    """The loss of a training step, and what is measured on the test along the way."""

    weight: float  # of the heat's loss; 0: none
    every: int  # steps between two looks at the test
    curves: list[tuple[int, float, float]] = field(default_factory=list)
    """Step, accuracy, share of the heat on the shape."""
    steps: int = 0
    explainer: camfast.GradCAM | None = None

    def __call__(self, model: nn.Module, images: Tensor, kinds: Tensor, boxes: Tensor, masks: Tensor) -> Tensor:
        self.explainer = self.explainer or camfast.GradCAM(model, "0")
        if self.steps % self.every == 0:
            self.measure(model)
        self.steps += 1
        labels = kinds[:, 0]
        images = marked(images, labels, masks[:, 0])  # here the mark tells the answer
        if not self.weight:
            return F.cross_entropy(model(images), labels)
        # Of every class, raw: what speaks against a class is to lie on the shape as well. It is the step's own pass.
        result = self.explainer(images, "all", normalize=False, differentiable=True)
        outside = losses.energy_outside(result.heatmap.abs(), boxes=boxes)
        return F.cross_entropy(result.scores, labels) + self.weight * outside

    def measure(self, model: nn.Module) -> None:
        images, kinds, masks = unseen()
        result = self.heat(images)
        accuracy = (result.scores.argmax(1) == kinds).float().mean().item()
        self.curves.append((self.steps, accuracy, losses.energy_inside(result.heatmap, near(masks)).mean().item()))

    def heat(self, images: Tensor) -> camfast.Explanation:
        """What makes the network say what it says: the heat of its top class."""
        assert self.explainer is not None
        return self.explainer(images)


def near(masks: Tensor) -> Tensor:
    """The shapes and what lies within 4 pixels of them: a map of 16 x 16 is no finer."""
    return F.max_pool2d(masks[:, None].float(), 9, 1, 4)[:, 0]


def figure(lessons: dict[str, Lesson], path: str, shown: int = 8) -> None:
    """Writes curves of the lessons, and heat on pictures of the test."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    images = unseen()[0][:shown]
    frames = (images * 255).to(torch.uint8).permute(0, 2, 3, 1)
    rows = {
        "the test": frames,
        **{name: lesson.heat(images).overlay(frames) for name, lesson in lessons.items()},
    }
    page = plt.figure(figsize=(shown, 3.2 + 1.15 * len(rows)), layout="constrained")
    above, below = page.subfigures(2, 1, height_ratios=[3.2, 1.15 * len(rows)])
    right, hot = above.subplots(1, 2)
    right.axhline(1 / len(NAMES), color="grey", linestyle=":", label="by chance")
    for name, lesson in lessons.items():
        steps, accuracy, share = zip(*lesson.curves, strict=True)
        right.plot(steps, accuracy, label=name)
        hot.plot(steps, share, label=name)
    right.set(title="accuracy on the test", ylim=(0, 1.02), xlabel="training step")
    hot.set(title="share of the heat on the shape", ylim=(0, 1.02), xlabel="training step")
    right.legend(fontsize=8, loc="lower right")
    for row, (name, pictures_of_row) in zip(below.subplots(len(rows), shown), rows.items(), strict=True):
        row[0].set_title(name, loc="left", fontsize=9)
        for place, picture in zip(row, pictures_of_row, strict=True):
            place.imshow(picture.numpy())
            place.axis("off")
    page.savefig(path, dpi=110)


if __name__ == "__main__":
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    every = max(steps // 20, 30)  # steps between two looks at the test
    lessons = {"without the heat's loss": Lesson(0.0, every), "with it": Lesson(1.0, every)}
    for name, lesson in lessons.items():
        print(f"{name}:")
        model = trained(network, lesson, rate=3e-3, steps=steps, each=1)
        lesson.measure(model)
        _, accuracy, share = lesson.curves[-1]
        print(f"{accuracy:.2f} of the test right, {share:.2f} of the heat is on the shape")
    figure(lessons, "heat_loss.png")
