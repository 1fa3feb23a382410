"""The right maps, by plain autograd and plain loops, of a network whose axes are known. Nothing of camfast is used here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .axes import Axes, Call
from .blocks import calls_of
from .networks import Network

__all__ = ["Tapped", "modules_named", "normalised", "raw_map", "rounding", "run", "tapped"]

Objective = Callable[[Any], Tensor]
"""What a model returned -> the sum over the images of what is explained: a scalar."""


@dataclass
class Tapped:
    """One call of a layer in one pass."""

    call: Call
    number: int  # from 1
    activations: Tensor  # as the layer returned it, in the graph


def modules_named(model: nn.Module, name: str) -> nn.Module | None:
    """The module that camfast calls ``name``: wrappers may be left out of names."""
    known = dict(model.named_modules(remove_duplicate=False))
    name = name.partition("#")[0]
    for whole in (name, f"module.{name}", f"_orig_mod.{name}"):
        if whole in known:
            return known[whole]
    fits = {id(m): m for key, m in known.items() if key.endswith("." + name)}
    return next(iter(fits.values())) if len(fits) == 1 else None


def _first(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, (tuple, list)):
        return next((t for t in map(_first, output) if t is not None), None)
    return next((t for t in map(_first, output.values()) if t is not None), None) if isinstance(output, dict) else None


def _changed(output: Any, new: Tensor) -> Any:
    if isinstance(output, Tensor):
        return new
    if isinstance(output, (tuple, list)):
        at = next(i for i, item in enumerate(output) if _first(item) is not None)
        return type(output)([*output[:at], _changed(output[at], new), *output[at + 1 :]])
    at = next(key for key, item in output.items() if _first(item) is not None)
    return {**output, at: _changed(output[at], new)}


@contextlib.contextmanager
def _replaced(module: nn.Module, change: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """Within the block the first tensor of what ``module`` returns in its ``i``-th call, from 1, is ``change(i, tensor)``."""
    count = 0

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        nonlocal count
        tensor = _first(output)
        count += 1
        return output if tensor is None else _changed(output, change(count, tensor))

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _not_checkpointed(model: nn.Module) -> Iterator[None]:
    """Checkpoints change nothing of what is computed, but hooks would see calls twice."""
    found = [m for m in model.modules() if getattr(m, "checkpointed", None) is not None]
    before = [m.checkpointed for m in found]
    for m in found:
        m.checkpointed = None
    try:
        yield
    finally:
        for m, how in zip(found, before, strict=True):
            m.checkpointed = how


def with_graph(inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs as leaves, so that a graph is there for frozen models too."""

    def leaf(value: Any) -> Any:
        if isinstance(value, list):
            return [leaf(item) for item in value]
        fits = isinstance(value, Tensor) and value.is_floating_point()
        return value.detach().clone().requires_grad_() if fits else value

    return {name: leaf(value) for name, value in inputs.items()}


def run(network: Network) -> Any:
    """What the model returns, without hooks or a graph."""
    with torch.no_grad():
        return network.run()


def tapped(network: Network, module: nn.Module) -> tuple[list[Tapped], Any]:
    """Every call of ``module`` in one pass with a graph, and what the model returned."""
    kept: list[Tensor] = []

    def keep(count: int, tensor: Tensor) -> Tensor:
        if not tensor.requires_grad and tensor.is_floating_point():
            tensor = tensor.clone().requires_grad_()
        kept.append(tensor)
        return tensor.clone()  # what follows may write into it

    with _not_checkpointed(network.model), torch.enable_grad(), _replaced(module, keep):
        output = network.run(with_graph(network.inputs))
    known = calls_of(module)
    calls = known if len(known) == len(kept) else [Call(None)] * len(kept)
    return [Tapped(call, i + 1, t) for i, (call, t) in enumerate(zip(calls, kept, strict=True))], output


def raw_map(
    method: str, network: Network, module: nn.Module, at: Tapped, output: Any, objective: Objective, axes: Axes
) -> Tensor:
    """The raw map ``[M, *map]`` of one call of a layer read by ``axes``; M are images, or frames of all images."""
    A = axes.view(at.activations).detach()
    rank = tuple(range(2, A.ndim))
    if method == "eigen_cam":
        rows = A.flatten(2).transpose(1, 2)
        rows = rows - rows.mean(1, keepdim=True)
        first = torch.linalg.svd(rows.double(), full_matrices=False)[2][:, :1]
        return (rows.double() * first).sum(2).view(A.shape[0], *A.shape[2:]).float()
    if method in ("recipro_cam", "ablation_cam", "score_cam"):
        return _PERTURBED[method](network, module, at, axes, objective)
    G = gradients(at, output, objective, axes)
    if method == "grad_cam":
        return (G.mean(rank, keepdim=True) * A).sum(1)
    if method == "hires_cam":
        return (G * A).sum(1)
    assert method == "layer_cam", method
    return (G.clamp(min=0) * A).sum(1)


def gradients(at: Tapped, output: Any, objective: Objective, axes: Axes) -> Tensor:
    """``[M, C, *map]``, zero where nothing depends on the layer."""
    (g,) = torch.autograd.grad(objective(output), at.activations, retain_graph=True, allow_unused=True)
    return axes.view(torch.zeros_like(at.activations) if g is None else g).detach()


def rounding(method: str, at: Tapped, output: Any, objective: Objective, axes: Axes) -> Tensor:
    """How far two ways of adding up the same map may be apart, ``[M]``: all terms may cancel but for rounding."""
    A = axes.view(at.activations).detach().abs()
    if method == "ablation_cam":  # weights are differences of scores over a score
        return 1e-5 * A.sum(1).flatten(1).amax(1)
    if method not in ("grad_cam", "hires_cam", "layer_cam"):
        return torch.zeros(A.shape[0])
    G = gradients(at, output, objective, axes).abs()
    weights = G.mean(tuple(range(2, A.ndim)), keepdim=True) if method == "grad_cam" else G
    return 3e-6 * (weights * A).sum(1).flatten(1).amax(1)


def _again(network: Network, module: nn.Module, number: int, change: Callable[[Tensor], Tensor]) -> Any:
    """What the model returns where one call of ``module`` gave something else."""
    put = lambda count, t: change(t) if count == number else t  # noqa: E731
    with _not_checkpointed(network.model), torch.no_grad(), _replaced(module, put):
        return network.run()


def _recipro(network: Network, module: nn.Module, at: Tapped, axes: Axes, objective: Objective) -> Tensor:
    """The softmax probability where one position, and half of its neighbours, is all that is left."""
    A = axes.view(at.activations)
    sizes = tuple(A.shape[2:])
    found = torch.zeros(A.shape[0], *sizes)
    for place in torch.cartesian_prod(*map(torch.arange, sizes)).view(-1, len(sizes)).tolist():
        mask = torch.ones(())
        for axis, (count, centre) in enumerate(zip(sizes, place, strict=True)):
            distance = (torch.arange(count) - centre).abs()
            row = torch.where(distance == 0, 0.5, torch.where(distance == 1, 0.25, 0.0))
            mask = mask * row.view(*(count if i == axis else 1 for i in range(len(sizes))))

        def change(tensor: Tensor, mask: Tensor = mask) -> Tensor:
            tensor = tensor.clone()
            axes.view(tensor).mul_(mask)
            return tensor

        found[(slice(None), *place)] = objective.each(_again(network, module, at.number, change), softmax=True)
    return found


def _ablation(network: Network, module: nn.Module, at: Tapped, axes: Axes, objective: Objective) -> Tensor:
    """The share of the score that is lost without a channel; each image by itself."""
    A = axes.view(at.activations).detach()
    whole = objective.each(run(network))
    weights = torch.zeros(A.shape[:2])
    least = A.flatten(1).amin(1)
    value = torch.where(least == 0, 0.0, least - 1e7)
    for channel in range(A.shape[1]):

        def change(tensor: Tensor, channel: int = channel) -> Tensor:
            tensor = tensor.clone()
            view = axes.view(tensor)
            view[:, channel] = value.view(-1, *(1,) * (view.ndim - 2))
            return tensor

        lost = whole - objective.each(_again(network, module, at.number, change))
        weights[:, channel] = lost / torch.where(whole == 0, 1, whole)
    return (weights.view(*weights.shape, *(1,) * (A.ndim - 2)) * A).sum(1)


def _score(network: Network, module: nn.Module, at: Tapped, axes: Axes, objective: Objective) -> Tensor:
    """Each channel masks the image that the call saw."""
    A = axes.view(at.activations).detach()
    name = at.call.image if at.call.image in network.inputs else next(iter(network.pictures))
    image = network.inputs[name]
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[A.ndim - 2]
    masks = F.interpolate(A, image.shape[2:], mode=mode, align_corners=True)
    low, high = masks.flatten(2).amin(2), masks.flatten(2).amax(2)
    shape = (*low.shape, *(1,) * (A.ndim - 2))
    masks = (masks - low.view(shape)) / (high - low + 1e-8).view(shape)
    flat = A.flatten(2).amax(2) - A.flatten(2).amin(2) < 1e-6 * A.flatten(2).abs().amax(2)
    masks[flat] = 0  # a constant channel's mask, but for the rounding of its interpolation
    totals = []
    for channel in range(A.shape[1]):
        changed = {**network.inputs, name: image * masks[:, channel : channel + 1]}
        with torch.no_grad():
            totals.append(objective.each(network.run(changed)))
    weights = torch.stack(totals, 1).softmax(1)
    return (weights.view(*weights.shape, *(1,) * (A.ndim - 2)) * A).sum(1)


_PERTURBED = {"recipro_cam": _recipro, "ablation_cam": _ablation, "score_cam": _score}


def normalised(raw: Tensor, size: tuple[int, ...], together: int = 1) -> Tensor:
    """The heatmap of raw maps ``[M, *map]``: ReLU, each to [0, 1], resized to the image, each to [0, 1] again.

    ``together`` maps at a time, frames of a clip or instances of a bag, share one range.
    """
    if together > 1:
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[raw.ndim - 1]
        heat = F.interpolate(raw.clamp(min=0)[:, None], size, mode=mode, align_corners=False)[:, 0]
        return _unit(heat.unflatten(0, (-1, together))).flatten(0, 1)
    small = _unit(raw.clamp(min=0))
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[raw.ndim - 1]
    return _unit(F.interpolate(small[:, None], size, mode=mode, align_corners=False)[:, 0])


def _unit(maps: Tensor) -> Tensor:
    flat = maps.flatten(1)
    low, high = flat.amin(1), flat.amax(1)
    shape = (-1, *(1,) * (maps.ndim - 1))
    return (maps - low.view(shape)) / (high - low + 1e-7).view(shape)
