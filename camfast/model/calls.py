"""Calls of layers that run several times in a pass: how many there are, whether one follows another, what each sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .inputs import Inputs
from .layers import ALL_CALLS, call_of
from .tap import Tap

__all__ = ["image_seen", "one_by_one", "separate_calls"]


def one_by_one(
    model: nn.Module, inputs: Inputs, names: Sequence[str], layers: Sequence[nn.Module], eval_mode: bool = True
) -> tuple[list[str], list[nn.Module]]:
    """Names and layers with each ``"net#*"`` as ``"net#1"``, ``"net#2"``, ...: a pass over the first image counts.

    Raises ``ValueError`` for a layer that does not run.
    """
    modules = [layer for layer, name in zip(layers, names, strict=True) if call_of(name)[1] == ALL_CALLS]
    if not modules:
        return list(names), list(layers)
    with Tap(model, modules, graph=False, eval_mode=eval_mode) as tap:
        tap.run(inputs.first())
        runs = dict(zip(modules, tap.quirks.calls, strict=True))
    found = []
    for name, layer in zip(names, layers, strict=True):
        base, call = call_of(name)
        if call == ALL_CALLS:
            found += [(f"{base}#{turn}", layer) for turn in range(1, runs[layer] + 1)]
        else:
            found.append((name, layer))
    return [name for name, _ in found], [layer for _, layer in found]


def separate_calls(model: nn.Module, inputs: Inputs, layer: nn.Module, runs: int, eval_mode: bool = True) -> bool:
    """Whether the last of a layer's ``runs`` calls takes nothing of what the one before gave.

    Then they see different things, two images or the frames of a clip; else one goes on where the other ended, as an
    activation that stands at several places of a network does. One pass over the first image, with a graph.
    """
    with Tap(model, [layer, layer], names=[f"#{runs - 1}", f"#{runs}"], eval_mode=eval_mode) as tap:
        tap.run(inputs.first())
        last = tap.captured[1]
        if not last.requires_grad or last.is_leaf:
            return True
        (gradient,) = torch.autograd.grad(last.sum(), tap.captured[0], allow_unused=True)
        return gradient is None


def image_seen(
    model: nn.Module, inputs: Inputs, names: Sequence[str], layers: Sequence[nn.Module], eval_mode: bool = True
) -> int:
    """Which of ``inputs.images()`` the layers' maps change with: the image itself, where they do, else the first other.

    A pass over the first image, one more with the image changed, and one for each further image until the maps change.
    """
    first = inputs.first()
    images = first.images()
    own = next((place for place, image in enumerate(images) if image is first.image), 0)
    with Tap(model, layers, names=names, graph=False, eval_mode=eval_mode) as tap:
        tap.run(first)
        before = tap.activations
        for place in [own, *(place for place in range(len(images)) if place != own)]:
            about = first.about(images[place])
            tap.run(about.with_image(_changed(images[place])))
            if not all(map(_same, before, tap.activations)):
                return place
    return own


def _changed(image: Tensor) -> Tensor:
    """The same image, mirrored and of other values everywhere."""
    mirrored = image.detach().flip(-1)
    return mirrored * 0.5 + 1 if image.is_floating_point() else torch.bitwise_not(mirrored)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())
