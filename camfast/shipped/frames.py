"""What a file may hold around the network: the preparation of frames before it, the drawn picture behind it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import reference
from ..pictures.preparation import Preparation

__all__ = ["FrameNetwork"]


class FrameNetwork(nn.Module):
    """A network of frames, uint8 ``[N, H, W, 3]``, that returns scores, heat and, where asked for, a drawn picture.

    Frames are resized as :func:`camfast.ops.preprocess` does it, by the triangle as wide as two pixels, and the heat is
    drawn where the network looked: what a centre crop cuts away stays as it is.

    Args:
        network: of prepared images; returns ``(scores, heatmap)``.
        preparation: from a frame to an image.
        frame: ``(height, width)`` of the frames.
        table: colours, uint8 ``[256, 3]``; None draws nothing.
        alpha: the weight of the heat.
    """

    table: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        preparation: Preparation,
        frame: tuple[int, int],
        table: Tensor | None = None,
        alpha: float = 0.5,
    ) -> None:
        super().__init__()
        self.network = network
        self.size = preparation.crop
        self.mean, self.std = preparation.mean, preparation.std
        self.box = preparation.box(*frame)
        self.frame = frame
        self.alpha = alpha
        self.register_buffer("table", table, persistent=False)

    def prepared(self, frames: Tensor) -> Tensor:
        """The network's images of ``frames``."""
        if self.frame == self.size and self.box == (0.0, 0.0, float(self.size[1]), float(self.size[0])):
            mean, std = (
                torch.tensor(numbers, device=frames.device).view(1, 3, 1, 1) for numbers in (self.mean, self.std)
            )
            return (frames.permute(0, 3, 1, 2).to(torch.float32) / 255 - mean) / std
        return reference.preprocess(frames, self.size, self.mean, self.std, box=self.box)

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Scores, heat, and the picture uint8 ``[N, (K,) H, W, 3]``."""
        scores, heatmap = self.network(self.prepared(frames))
        if self.table is None:
            return scores, heatmap
        heat = self._on_frame(heatmap)
        shown = frames if heat.ndim == 3 else frames.unsqueeze(1)
        return scores, heatmap, reference.overlay(shown, heat, self.table, self.alpha)

    def _on_frame(self, heatmap: Tensor) -> Tensor:
        """The heat at the frames' size, NaN where the network did not look: the frame shows through there."""
        height, width = self.frame
        left, top, right, bottom = (round(edge) for edge in self.box)
        heat = heatmap if heatmap.ndim == 4 else heatmap.unsqueeze(1)
        if tuple(heat.shape[2:]) != (bottom - top, right - left):
            heat = F.interpolate(heat, size=(bottom - top, right - left), mode="bilinear", align_corners=False)
        sides = (-left, right - width, -top, bottom - height)  # beyond the frame: a margin, which is cut off
        cut = [max(side, 0) for side in sides]
        heat = heat[:, :, cut[2] : heat.shape[2] - cut[3], cut[0] : heat.shape[3] - cut[1]]
        pads = [max(left, 0), max(width - right, 0), max(top, 0), max(height - bottom, 0)]
        heat = F.pad(heat, pads, value=torch.nan) if any(pads) else heat
        return heat if heatmap.ndim == 4 else heat.squeeze(1)
