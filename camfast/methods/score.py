"""Score-CAM and its kin: each channel masks the image, and the score of what is left is its weight."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .. import ops
from ..errors import warn
from ..model.inputs import Inputs
from ..model.layouts import position_axes
from ..model.memory_format import laid_out, takes_channels_last
from ..model.precision import wide
from ..model.tap import Tap
from ..ops import reference
from .chosen import Chosen
from .explainer import Layers
from .layer_map import LayerMap
from .registry import register
from .scoring import ScoringExplainer, ScoringOptions, counted, images_fitting, progress_bar, strongest

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ISCAM", "SSCAM", "ScoreCAM", "is_cam", "score_cam", "ss_cam"]


class ScoreOptions(ScoringOptions, total=False):
    """Options of Score-CAM and its kin, as :class:`ScoreCAM` describes them."""

    channels: int | None
    autocast: bool | torch.dtype


class ScoreCAM(ScoringExplainer):
    """Score-CAM: each channel, scaled to [0, 1], masks the image; the scores go through a softmax (Wang 2020, https://arxiv.org/abs/1910.01279).

    Masks are resized with aligned corners and scaled at full resolution, as in pytorch-grad-cam. They are made for one
    batch of copies at a time (:func:`camfast.ops.mask_images`).

    Args:
        channels: limits the work to that many channels of largest variance an image, after Faster-Score-CAM; the others
            get weight 0. None scores all of them.
        autocast: score the copies in a lower precision: True for bfloat16 (on a GPU without it float16), or a dtype.
            On a processor without instructions for it True changes nothing, and says so. Results are then close to,
            not equal to those of the peers.
    """

    name: ClassVar[str] = "score_cam"
    rounds: int = 1  # how often each channel is scored

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = None,
        *,
        channels: int | None = None,
        autocast: bool | torch.dtype = False,
        **options: Unpack[ScoringOptions],
    ) -> None:
        super().__init__(model, layers, **options)
        self.channels = counted(channels, "channels")
        if not isinstance(autocast, bool) and autocast not in (torch.bfloat16, torch.float16):
            raise ValueError(f"autocast must be a bool, torch.bfloat16 or torch.float16, got {autocast!r}")
        self.autocast = autocast

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        maps = []
        for grid in self.grids(tap, inputs):
            if grid.ndim != inputs.image.ndim:
                raise ValueError(
                    f"{type(self).__name__} needs maps of as many dimensions as the images, "
                    f"{list(inputs.image.shape)}, got {list(grid.shape)}"
                )
            maps.append(LayerMap(ops.cam, grid, self.weights(grid, chosen, inputs)))
        return maps

    def weights(self, grid: Tensor, chosen: Chosen, inputs: Inputs) -> Tensor:
        """Weights ``[N, C]``, or ``[N, K, C]`` for K targets, of activations ``[N, C, *map]``, in a quiet model."""
        channels = strongest(grid, self.channels)
        with progress_bar(channels.numel() * self.rounds, self.progress, self.name) as bar, torch.no_grad():
            totals = self._scores(grid, channels, chosen, inputs, bar) / self.rounds  # [N, channels, (K)]
        shares = totals.softmax(1)
        weights = shares.new_zeros(*grid.shape[:2], *shares.shape[2:])
        index = channels.reshape(*channels.shape, *(1,) * (shares.ndim - 2)).expand_as(shares)
        weights.scatter_(1, index, shares)
        return weights.movedim(1, -1)

    def _scores(self, grid: Tensor, channels: Tensor, chosen: Chosen, inputs: Inputs, bar: Any) -> Tensor:
        """Sums over the rounds of the scores of every masked image, ``[N, channels, (K)]``."""
        total: Any = 0
        dtype = self._lower_precision(inputs.image.device)
        size = self.batch_size or images_fitting(inputs.image[:1])
        channels_last = takes_channels_last(
            self.model,
            inputs.one(0).image,
            lambda images: self._pass(inputs.one(0).with_image(images), dtype),
            min(size, channels.shape[1]),
            halves=dtype is not None,
        )
        for turn in range(self.rounds):
            rows = []
            for i in range(inputs.batch):
                one, found = inputs.one(i), []
                for part in channels[i].split(size):
                    output = self._run(one, grid[i : i + 1, part], turn, dtype, channels_last)
                    found.append(chosen.values(i, output, len(part)))
                    bar.update(len(part))
                rows.append(torch.cat(found))
            total = total + torch.stack(rows)
        return total

    def _run(self, one: Inputs, maps: Tensor, turn: int, dtype: torch.dtype | None, channels_last: bool) -> Any:
        """What the model returns for one image masked by ``maps`` ``[1, B, *map]``."""
        axes = self.image_axes(one, maps.ndim - 2) or position_axes(one.image.shape, self.model)
        channels = set(range(1, one.image.ndim)) - set(axes)
        # not always the second: videos with the frames first, pictures with the channels last
        axis = channels.pop() if len(channels) == 1 else 1
        image = one.image.detach()
        image = laid_out(image, True) if channels_last else image
        masked = self._masked(image.movedim(axis, 1), maps, turn).movedim(1, axis)
        return self._pass(one.with_image(masked if channels_last else masked.contiguous()), dtype)

    def _pass(self, inputs: Inputs, dtype: torch.dtype | None) -> Any:
        inputs = inputs.cut()
        with contextlib.nullcontext() if dtype is None else torch.autocast(inputs.image.device.type, dtype):
            return self.model(*inputs.args, **inputs.kwargs)

    def _masked(self, image: Tensor, maps: Tensor, turn: int) -> Tensor:
        """``image`` ``[1, P, *size]`` masked by some channels ``[1, B, *map]``: ``[B, P, *size]``."""
        return ops.mask_images(image, maps)

    def _lower_precision(self, device: torch.device) -> torch.dtype | None:
        """The dtype of autocast; None for full precision."""
        if isinstance(self.autocast, torch.dtype):
            return self.autocast
        if not self.autocast:
            return None
        if device.type == "cuda" and not torch.cuda.is_bf16_supported():
            return torch.float16
        if device.type == "cpu" and not _processor_has_bfloat16():
            warn("this processor has no bfloat16 instructions; autocast=True is left out")
            return None
        return torch.bfloat16


score_cam = register(ScoreCAM)


def _processor_has_bfloat16() -> bool:
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check is not None and check() for check in checks)


class SSCAM(ScoreCAM):
    """SS-CAM: Score-CAM with scores averaged over noisy masks (Wang 2020, https://arxiv.org/abs/2006.14255).

    As in torchcam, masks are scaled to [0, 1] at the map's resolution and resized; Gaussian noise of standard deviation
    ``std`` is added ``samples`` times. It comes from PyTorch's global generator of the CPU, or from one of its own with
    ``seed``.
    """

    name: ClassVar[str] = "ss_cam"

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = None,
        *,
        samples: int = 35,
        std: float = 2.0,
        seed: int | None = None,
        **options: Unpack[ScoreOptions],
    ) -> None:
        super().__init__(model, layers, **options)
        self.rounds = counted(samples, "samples") or 1
        if not std >= 0:
            raise ValueError(f"std must not be negative, got {std!r}")
        self.std, self.seed = float(std), seed
        self._own = threading.local()  # .generator: of the call that runs in this thread

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        self._own.generator = None if self.seed is None else torch.Generator().manual_seed(self.seed)
        return super().maps(tap, chosen, inputs)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_own"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _own=threading.local())

    def _masked(self, image: Tensor, maps: Tensor, turn: int) -> Tensor:
        masks = reference.score_masks(wide(maps), image.shape[2:], align_corners=False, scale_first=True)[0].unsqueeze(
            1
        )
        noise = torch.randn(masks.shape, dtype=masks.dtype, generator=self._own.generator) * self.std
        return (masks + noise.to(masks.device)).to(image.dtype) * image


ss_cam = register(SSCAM)


class ISCAM(ScoreCAM):
    """IS-CAM: Score-CAM with scores averaged over masks of growing strength (Naidu 2020, https://arxiv.org/abs/2010.03023).

    As in torchcam, masks are scaled to [0, 1] at the map's resolution and resized, and the mask of step i is multiplied
    by the sum of 1/n, 2/n, ..., i/n, for ``samples`` = n steps.
    """

    name: ClassVar[str] = "is_cam"

    def __init__(
        self, model: nn.Module, layers: Layers = None, *, samples: int = 10, **options: Unpack[ScoreOptions]
    ) -> None:
        super().__init__(model, layers, **options)
        self.rounds = counted(samples, "samples") or 1

    def _masked(self, image: Tensor, maps: Tensor, turn: int) -> Tensor:
        strength = sum((step + 1) / self.rounds for step in range(turn + 1))
        return ops.mask_images(image * strength, maps, align_corners=False, scale_first=True)


is_cam = register(ISCAM)
