"""Watch heatmaps move to the object as a network learns: handwritten digits somewhere on a noisy canvas.

    python examples/watch_training.py runs/digits
    tensorboard --logdir runs/digits

Needs scikit-learn, for its 1797 digits of 8 x 8 pixels, and TensorBoard.
"""

from __future__ import annotations

import functools
import sys

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import camfast

SIDE, DIGIT = 40, 16  # pixels of the canvas and of a digit on it


digits_of_sklearn = functools.cache(load_digits)


def canvases(indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Images ``[N, 1, 40, 40]`` with one digit each, labels ``[N]``, and where the digits are, bool ``[N, 40, 40]``."""
    data = digits_of_sklearn()
    digits = torch.tensor(data.images[indices], dtype=torch.float32)[:, None] / 16
    digits = F.interpolate(digits, (DIGIT, DIGIT), mode="bilinear")
    images = torch.rand(len(indices), 1, SIDE, SIDE, generator=generator) * 0.6
    inside = torch.zeros(len(indices), SIDE, SIDE, dtype=torch.bool)
    corners = torch.randint(0, SIDE - DIGIT + 1, (len(indices), 2), generator=generator)
    for n, (top, left) in enumerate(corners.tolist()):
        place = (slice(top, top + DIGIT), slice(left, left + DIGIT))
        images[n, 0][place] = torch.maximum(images[n, 0][place], digits[n, 0])
        inside[n][place] = True
    return images, torch.tensor(data.target[indices]), inside


def network() -> nn.Module:
    """Four convolutions, global average pooling, one linear layer."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in [(1, 16, 1), (16, 32, 2), (32, 64, 2), (64, 64, 1)]:
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def heat_on_digit(explanation: camfast.Explanation, inside: Tensor) -> float:
    """The share of the heat that lies on the digits; by chance it would be their share of the canvas, 0.16."""
    heat = explanation.heatmap
    return ((heat * inside).sum((1, 2)) / heat.sum((1, 2)).clamp(min=1e-6)).mean().item()


def train(writer: object, steps: int = 300, every: int = 50) -> tuple[list[float], float, camfast.callbacks.Watch]:
    """Trains, watched. Returns the heat's share on the digits at each log, the accuracy on unseen digits, the watch."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    order = torch.randperm(1797, generator=generator)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    images, labels, inside = canvases(order[:8], generator)  # fixed, never trained on
    shares = []
    with camfast.callbacks.Watch(model, images, every=every, writer=writer, targets=labels) as watch:
        for step in range(steps):
            batch, wanted, _ = canvases(order[8 + torch.randint(1500, (48,), generator=generator)], generator)
            model.train()
            explanation = watch(step)
            if explanation is not None:
                shares.append(heat_on_digit(explanation, inside))
            optimizer.zero_grad()
            F.cross_entropy(model(batch), wanted).backward()
            optimizer.step()
        shares.append(heat_on_digit(watch.log(steps), inside))
    unseen, truth, _ = canvases(order[1508:], generator)
    with torch.no_grad():
        accuracy = (model.eval()(unseen).argmax(1) == truth).float().mean().item()
    return shares, accuracy, watch


if __name__ == "__main__":
    shares, accuracy, watch = train(sys.argv[1] if len(sys.argv) > 1 else "runs/digits")
    print("heat on the digit:", " ".join(f"{share:.2f}" for share in shares))
    print(f"accuracy on unseen digits: {accuracy:.2f}")
    print(f"training waited {watch.seconds * 1000 / watch.logs:.1f} ms a log")
