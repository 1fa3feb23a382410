"""What methods that score many changed copies of each image share: batch sizes, channel budgets, progress, the head."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ..model.inputs import Inputs
from ..model.layers import call_of
from ..model.replay import HeadReplay, Mode
from .explainer import Layers, Needs
from .layer_explainer import LayerExplainer, LayerOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "HeadExplainer",
    "ScoringExplainer",
    "ScoringOptions",
    "View",
    "batch_fitting",
    "counted",
    "images_fitting",
    "progress_bar",
    "strongest",
]

_BATCH_ELEMENTS = 2**24  # 64 MB in fp32
_LARGEST_BATCH = 64
_CACHED_ELEMENTS = 5 * 2**18  # of a batch of images whose first feature maps stay in a processor's last cache

View = Callable[[Tensor], Tensor]


class ScoringOptions(LayerOptions, total=False):
    """Options of every method that scores changed copies, as :class:`ScoringExplainer` describes them."""

    batch_size: int | None
    progress: bool


class ScoringExplainer(LayerExplainer):
    """A method that scores changed activations or images, in batches, without gradients.

    Args:
        batch_size: how many changed copies are scored at once; None takes as many as fit in about 64 MB.
        progress: show a progress bar (needs tqdm; without it none is shown).

    The other arguments are those of :class:`camfast.Explainer`.
    """

    needs: ClassVar[Needs] = "images"
    uses_gradients: ClassVar[bool] = False
    takes_frames: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = None,
        *,
        batch_size: int | None = None,
        progress: bool = False,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(model, layers, **options)
        self.batch_size = counted(batch_size, "batch_size")
        self.progress = progress


class HeadExplainer(ScoringExplainer):
    """A method that scores changed activations of each image by the head (see :mod:`camfast.model.replay`)."""

    needs: ClassVar[Needs] = "head"

    def __init__(self, model: nn.Module, layers: Layers = None, **options: Unpack[ScoringOptions]) -> None:
        super().__init__(model, layers, **options)
        self._modes: dict[str, Mode] = {}

    def replay(self, index: int, layer: int, inputs: Inputs) -> tuple[HeadReplay, View]:
        """The head after one of the layers for one image, and the view of its activations as ``[N, C, *map]``."""
        name = self._names[layer]
        call = call_of(name)[1]
        number = call if isinstance(call, int) else None
        mode = self._modes.get(name)
        replay = HeadReplay(self.model, self._modules[layer], inputs.one(index), mode, call=number)
        self._modes[name] = replay.mode
        view = self.to_grid(replay.activations, inputs.one(index), name)
        copy = replay.repeated(1)
        if view(copy).untyped_storage().data_ptr() != copy.untyped_storage().data_ptr():
            raise ValueError(f"{type(self).__name__} needs a reshape= that returns a view of its input, got a copy")
        return replay, view


def batch_fitting(example: Tensor) -> int:
    """How many copies of ``example`` ``[1, ...]`` are scored at once where nothing was asked for."""
    return max(1, min(_LARGEST_BATCH, _BATCH_ELEMENTS // max(1, example.numel())))


def images_fitting(image: Tensor) -> int:
    """How many changed copies of ``image`` ``[1, ...]`` the whole model scores at once where nothing was asked for."""
    most = batch_fitting(image)
    return most if image.device.type != "cpu" else max(1, min(most, _CACHED_ELEMENTS // image.numel()))


def strongest(activations: Tensor, budget: int | None) -> Tensor:
    """Channels of each image ``[N, budget]``, in their order: those of largest variance over positions, or all."""
    batch, channels = activations.shape[:2]
    if budget is None or budget >= channels:
        return torch.arange(channels, device=activations.device).expand(batch, -1)
    variance = activations.flatten(2).float().var(2, correction=0)
    return variance.topk(budget, 1).indices.sort(1).values


def counted(value: int | None, name: str) -> int | None:
    """``value``, checked to be a positive int or None."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"{name} must be a positive int or None, got {value!r}")
    return value


class _NoBar:
    def update(self, _: int) -> None:
        pass


@contextlib.contextmanager
def progress_bar(total: int, wanted: bool, title: str) -> Iterator[Any]:
    """A tqdm bar, or something of its shape where none is wanted or tqdm is not installed."""
    if wanted:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            pass
        else:
            with tqdm(total=total, desc=title) as bar:
                yield bar
            return
    yield _NoBar()
