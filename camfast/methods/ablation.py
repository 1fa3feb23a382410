"""Methods that change activations and score the result by the head alone: Ablation-CAM and Recipro-CAM."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import ops
from ..model.inputs import Inputs
from ..model.outputs import scores_of
from ..model.replay import HeadReplay, Mode
from ..model.tap import Tap
from .chosen import Chosen
from .explainer import Explainer, LayerMap, Needs
from .registry import register
from .scoring import batch_fitting, counted, progress_bar, strongest

__all__ = ["AblationCAM", "ReciproCAM", "ablation_cam", "recipro_cam"]

_ABLATION_DEPTH = 1e7  # how far below the least activation an ablated one lies, where the least is not 0

View = Callable[[Tensor], Tensor]


class PerturbationExplainer(Explainer):
    """A method that scores changed activations or images, in batches, without gradients.

    Args:
        batch_size: how many changed copies are scored at once; None takes as many as fit in about 64 MB.
        progress: show a progress bar (needs tqdm; without it none is shown).

    The other arguments are those of :class:`camfast.Explainer`.
    """

    needs: ClassVar[Needs] = "images"
    uses_gradients: ClassVar[bool] = False

    def __init__(self, *args: Any, batch_size: int | None = None, progress: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self.batch_size = counted(batch_size, "batch_size")
        self.progress = progress


class HeadExplainer(PerturbationExplainer):
    """A method that scores changed activations of each image by the head (see :mod:`camfast.model.replay`)."""

    needs: ClassVar[Needs] = "head"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._modes: dict[str, Mode] = {}

    def replay(self, index: int, layer: int, inputs: Inputs) -> tuple[HeadReplay, View]:
        """The head after one of the layers for one image, and the view of its activations as ``[N, C, *map]``."""
        name = self._names[layer]
        replay = HeadReplay(self.model, self._modules[layer], inputs.one(index), self._modes.get(name))
        self._modes[name] = replay.mode
        view = self.to_grid(replay.activations, inputs.one(index), name)
        copy = replay.repeated(1)
        if view(copy).untyped_storage().data_ptr() != copy.untyped_storage().data_ptr():
            raise ValueError(f"{type(self).__name__} needs a reshape= that returns a view of its input, got a copy")
        return replay, view


class AblationCAM(HeadExplainer):
    """Ablation-CAM: a channel's weight is the share of the score that is lost without it (Desai 2020, https://doi.org/10.1109/WACV45572.2020.9093360).

    ``w_c = (s - s_c) / s``, the score s_c taken with channel c at 0, or, where an image's least activation is not 0,
    far below that. The head alone runs for each channel. ``channels`` limits the work to that many channels of largest
    variance an image; the others get weight 0. None ablates all of them. With ``all_tokens`` a channel goes in a
    transformer's extra tokens too, such as the class token, and not in the map's alone.
    """

    name: ClassVar[str] = "ablation_cam"

    def __init__(self, *args: Any, channels: int | None = None, all_tokens: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self.channels = counted(channels, "channels")
        self.all_tokens = all_tokens

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        maps = []
        for layer, (name, A) in enumerate(zip(self.layers, tap.activations, strict=True)):
            grid = self.to_grid(A, inputs, name)(A)
            ablated = strongest(grid, self.channels)  # [N, channels]
            with progress_bar(ablated.numel(), self.progress, self.name) as bar:
                weights = [self._weights(i, layer, ablated[i], chosen, inputs, bar) for i in range(inputs.batch)]
            maps.append(LayerMap(ops.cam, grid, torch.stack(weights)))
        return maps

    def _weights(self, index: int, layer: int, ablated: Tensor, chosen: Chosen, inputs: Inputs, bar: Any) -> Tensor:
        """``[C]``, or ``[K, C]`` for K targets, of one image."""
        replay, view = self.replay(index, layer, inputs)
        grid = view(replay.activations)
        rows = _channels_first(view, replay.batch_dim) if self.all_tokens else view
        value = _ablation_value(rows(replay.activations))
        found = []
        for part in ablated.split(self.batch_size or batch_fitting(grid)):
            copies = replay.repeated(len(part))
            rows(copies)[torch.arange(len(part), device=part.device), part] = value
            found.append(chosen.values(index, replay.output(copies), len(part)))
            bar.update(len(part))
        ablated_scores = torch.cat(found)  # [channels, (K)]
        score = chosen.values(index, replay.recorded, 1)
        weights = ablated_scores.new_zeros(grid.shape[1], *ablated_scores.shape[1:])
        weights[ablated] = (score - ablated_scores) / score
        return weights.movedim(0, -1)


ablation_cam = register(AblationCAM)


class ReciproCAM(HeadExplainer):
    """Recipro-CAM: the class's probability when the head sees one position alone (Byun 2022, https://arxiv.org/abs/2209.14074).

    For each position of the map, activations are kept around it by a Gaussian of 3 positions a side (1/2 at the centre
    and 1/4 beside it, along each dimension) and are zero elsewhere; with ``gaussian=False`` that position alone stays.
    The map holds the softmax probability of the target there; a callable target is given the scores themselves. Extra
    tokens of a transformer stay as they are.
    """

    name: ClassVar[str] = "recipro_cam"
    smoothing: ClassVar[tuple[str, ...]] = ("aug_smooth",)

    def __init__(self, *args: Any, gaussian: bool = True, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gaussian = gaussian

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        maps = []
        for layer, (name, A) in enumerate(zip(self.layers, tap.activations, strict=True)):
            grid = self.to_grid(A, inputs, name)(A)
            masks = _spots(grid.shape[2:], self.gaussian).to(grid)
            with progress_bar(len(masks) * inputs.batch, self.progress, self.name) as bar:
                found = [self._map(i, layer, masks, chosen, inputs, bar) for i in range(inputs.batch)]
            maps.append(LayerMap(_finished, grid, torch.stack(found)))
        return maps

    def _map(self, index: int, layer: int, masks: Tensor, chosen: Chosen, inputs: Inputs, bar: Any) -> Tensor:
        """``[*map]``, or ``[K, *map]`` for K targets, of one image."""
        replay, view = self.replay(index, layer, inputs)
        grid = view(replay.activations)
        found = []
        for part in masks.split(self.batch_size or batch_fitting(grid)):
            copies = replay.repeated(len(part))
            view(copies).mul_(part.unsqueeze(1))
            output = replay.output(copies)
            if isinstance(chosen.targets, Tensor) and (scores := scores_of(output, len(part))).ndim > 1:
                output = (scores if scores.dtype == torch.float64 else scores.float()).softmax(1)
            found.append(chosen.values(index, output, len(part)))
            bar.update(len(part))
        return torch.cat(found).movedim(0, -1).unflatten(-1, grid.shape[2:])


recipro_cam = register(ReciproCAM)


def _channels_first(view: View, batch_dim: int) -> View:
    """A view of activations as ``[N, C, ...]``, with the channels of ``view`` but all positions there are."""

    def rows(activations: Tensor) -> Tensor:
        grid = view(activations)
        wanted = (grid.stride(1), grid.size(1))
        dims = [d for d in range(activations.ndim) if d != batch_dim]
        dim = next(d for d in dims if (activations.stride(d), activations.size(d)) == wanted)
        return activations.movedim((batch_dim, dim), (0, 1))

    return rows


def _ablation_value(grid: Tensor) -> float:
    least = float(grid.min())
    if least == 0:
        return 0.0
    # An eighth of the range leaves a head in half precision room to weigh it.
    return max(least - _ABLATION_DEPTH, torch.finfo(grid.dtype).min / 8)


def _spots(size: torch.Size, gaussian: bool) -> Tensor:
    """``[S, *size]``: for each position a mask around it."""
    sides = []
    for n in size:
        side = torch.eye(n)
        if gaussian:
            side = side / 2 + torch.diag(torch.full((n - 1,), 0.25), 1) + torch.diag(torch.full((n - 1,), 0.25), -1)
        sides.append(side)
    masks = [
        math.prod(
            side[place].reshape(-1, *(1,) * (len(size) - 1 - dim))
            for dim, (side, place) in enumerate(zip(sides, places, strict=True))
        )
        for places in itertools.product(*map(range, size))
    ]
    return torch.stack(masks)  # type: ignore[arg-type]


def _finished(_: Tensor, maps: Tensor, size: Any, normalize: bool) -> Tensor:
    own = tuple(maps.shape[-(_.ndim - 2) :])
    return ops.resize_normalize(maps, own if size is None else size, normalize, relu=normalize)
