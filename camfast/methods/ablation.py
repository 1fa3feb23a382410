"""Ablation-CAM: each channel is taken out, and the head alone scores what is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .. import ops
from ..model.inputs import Inputs
from ..model.tap import Tap
from .chosen import Chosen
from .explainer import Layers
from .layer_map import LayerMap
from .registry import register
from .scoring import HeadExplainer, ScoringOptions, View, batch_fitting, counted, progress_bar, strongest

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["AblationCAM", "ablation_cam"]

_ABLATION_DEPTH = 1e7  # how far below the least activation an ablated one lies, where the least is not 0


class AblationCAM(HeadExplainer):
    """Ablation-CAM: a channel's weight is the share of the score that is lost without it (Desai 2020, https://doi.org/10.1109/WACV45572.2020.9093360).

    ``w_c = (s - s_c) / s``, the score s_c taken with channel c at 0, or, where an image's least activation is not 0,
    far below that. Where s is exactly 0, ``w_c = -s_c``: nothing can be lost of it. The head alone runs for each channel.
    ``channels`` limits the work to that many channels of largest variance an image; the others get weight 0. None ablates
    all of them. With ``all_tokens`` a channel goes in a transformer's extra tokens too, such as the class token, and not in
    the map's alone.
    """

    name: ClassVar[str] = "ablation_cam"

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = None,
        *,
        channels: int | None = None,
        all_tokens: bool = False,
        **options: Unpack[ScoringOptions],
    ) -> None:
        super().__init__(model, layers, **options)
        self.channels = counted(channels, "channels")
        self.all_tokens = all_tokens

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        maps = []
        for layer, grid in enumerate(self.grids(tap, inputs)):
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
        weights[ablated] = (score - ablated_scores) / torch.where(score == 0, 1, score)
        return weights.movedim(0, -1)


ablation_cam = register(AblationCAM)


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
