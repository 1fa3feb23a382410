"""One frame in, one explained frame out, as fast as the network runs.

    frame uint8 -> preprocess -> network -> low-resolution map -> (smoothed over time) -> drawn over the frame, once

The map stays at the layer's own resolution until it is drawn; nothing of the frame's size is computed besides the result.
"""

from __future__ import annotations

import dataclasses
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ... import ops
from ...errors import reason
from ...methods import METHODS, Explainer
from ...model.layers import Layer
from ...model.tap import unwrapped
from ...pictures.frames import Box, draw, rgb_frames
from ...pictures.preparation import Preparation
from .compiled import compiled
from .graphs import Captured, pieces
from .network import faster_in_channels_last, in_channels_last, placed, prepared_by
from .result import RealtimeResult
from .settings import Adjustable, Settings, policy
from .temporal import Smoother, Top
from .transfers import overlapped

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Realtime"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Frames = Tensor | np.ndarray


class _Shown(NamedTuple):
    """The outcome of a step, everything with N as its first dimension and on the device."""

    overlay: Tensor
    heat: Tensor
    scores: Tensor
    targets: Any
    explained: bool


class Realtime(Adjustable):
    """Explains the frames of a stream: ``engine(frame)`` gives the frame with the heat drawn over it.

    The model is left as it is; a copy is made where another device, dtype or memory layout is asked for. Frames of one
    call are consecutive frames of one stream (:attr:`smooth`, :attr:`sticky` and :attr:`every` look back along them).
    Use it from one thread at a time; its settings, the attributes below, may be changed from others at any time.

    Args:
        model: a classifier, ``[N, 3, h, w]`` to scores.
        method: a name of :data:`camfast.METHODS`.
        layers: names or modules; None finds the last layer with a spatial map.
        targets: None for each frame's top class, a class (number or name), a list of classes or ``TopK(k)`` for several
            maps a frame, or a callable ``scores_of_one_image -> scalar``.
        frame_size: ``(height, width)`` of the frames expected; others are taken as well.
        input_size: the network's input, an int or ``(height, width)``.
        mean, std: of values in [0, 1], a number a channel; default ImageNet's.
        dtype: the network's; None: as it is.
        colormap, alpha: of the overlay, as in :func:`camfast.ops.overlay`.
        smooth: share of the past in the map and its range, 0 (off) to below 1; a scene cut starts anew.
        device: where to run; None: where the model is.
        every: explain each n-th frame, and draw its map over those between.
        sticky: how much likelier, in probability, another class must be before it takes the place of the last frame's.
        fit: ``"stretch"`` squeezes the whole frame into the input; ``"crop"`` takes the largest part from its middle that
            has the input's proportions.
        preparation: the network's own, as in :class:`camfast.zoo.Network`; it replaces input size, mean, std and fit.
        class_names: names of the classes, in the order of the scores.
        channels_last: True runs a copy of the network in this memory layout, the faster one for half precision on CUDA,
            False one in the usual layout. None takes the network as it is, and its input in the layout of its weights;
            on the CPU, where these are in the usual one, in whichever layout is faster in a few passes before the first
            frame. :attr:`channels_last` says which.
        compile: run the network compiled, with the weights it has at the first frame: on the CPU by oneDNN Graph, in some
            seconds, elsewhere and where that is not faster by ``torch.compile``, in a minute. Where it cannot be compiled,
            :attr:`compile_problem` says why, and there is a warning. "auto": by oneDNN Graph or not at all.
        graph: on CUDA, capture the whole step in a CUDA graph; where it cannot be, :attr:`graph_problem` says why.
        options: further arguments of the method's class.

    Raises ``TypeError`` and ``ValueError`` for arguments that do not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        method: str = "grad_cam",
        layers: Layer | Sequence[Layer] | None = None,
        targets: Any = None,
        *,
        frame_size: tuple[int, int] = (1080, 1920),
        input_size: int | tuple[int, int] = 224,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        dtype: torch.dtype | None = None,
        colormap: str | Tensor = "jet",
        alpha: float = 0.5,
        smooth: float = 0.0,
        device: torch.device | str | None = None,
        every: int = 1,
        sticky: float = 0.0,
        fit: Literal["stretch", "crop"] = "stretch",
        preparation: Preparation | None = None,
        class_names: Sequence[str] | None = None,
        channels_last: bool | None = None,
        compile: bool | Literal["auto"] = False,
        graph: bool = True,
        options: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        self.preparation = preparation or prepared_by(input_size, mean, std, fit)
        self.frame_size = tuple(frame_size)
        self.class_names = class_names
        self.options = dict(options or {})
        self._original = unwrapped(model)
        self._model = placed(self._original, device, dtype, channels_last)
        some = next(self._model.parameters(), torch.zeros(0))
        self.device, self.dtype = some.device, some.dtype if some.is_floating_point() else torch.float32
        lies = in_channels_last(self._model)
        self.channels_last = channels_last  # of the input; None: not measured yet
        if channels_last is None and (lies or self.device.type != "cpu"):
            self.channels_last = lies or compile is True  # what torch.compile is fastest with, on CUDA
        self._settings_lock, self._running = threading.Lock(), threading.Lock()
        self._settings = Settings(
            self._checked_method(method),
            self._checked_layers(layers),
            self._checked_targets(targets),
            self._checked_colormap(colormap),
            self._checked_alpha(alpha),
            self._checked_smooth(smooth),
            self._checked_sticky(sticky),
            self._checked_every(every),
        )
        self._explainer: Explainer | None = None
        self._explains: tuple[Any, ...] | None = None  # method and layers of the explainer
        self._policy: Any = None
        self._picks: tuple[Any, ...] | None = None  # targets and stickiness of the policy
        self._smoother = Smoother()
        self._count = 0  # of frames since the last explained one
        self._latest: tuple[Tensor, Tensor, Any] | None = None  # its map, scores and targets
        self._shown: _Shown | None = None
        self._smooths = False
        if compile not in (True, False, "auto"):
            raise ValueError(f"compile must be True, False or 'auto', got {compile!r}")
        self.compile, self.graph = compile, graph
        self.compile_problem: str | None = None  # why the network runs uncompiled, where it was to be compiled
        self.graph_problem: str | None = None  # why steps run without a CUDA graph, where they were to have one
        self._compiled: dict[tuple[int, ...], Explainer] = {}
        self._splits: dict[Any, Any] = {}  # what they are compiled from, of the latest layers alone
        self._captured: Captured | None = None
        self._captured_for: Any = None
        self._captured_colors: Any = None
        self._closed = False

    @property
    def layers_in_use(self) -> list[str]:
        """Names of the layers; empty until the first frame has found one."""
        return [] if self._explainer is None else self._explainer.layers

    def box(self, height: int, width: int) -> Box:
        """``(left, top, right, bottom)``: the part of a frame of this size that the network sees."""
        return self.preparation.box(height, width)

    def __call__(self, frames: Frames) -> RealtimeResult:
        """Explains ``frames``: RGB, uint8 ``[H, W, 3]``, or ``[N, H, W, 3]`` of consecutive ones; tensor or array.

        Raises ``TypeError`` and ``ValueError`` for other frames and for targets that do not fit the network's scores.
        """
        start = time.perf_counter()
        given = rgb_frames(frames)
        batch = given if given.ndim == 4 else given[None]
        with self._running:
            shown = self._advance(batch.to(self.device))
            overlay = shown.overlay.to(given.device)
            if overlay.is_cuda:
                torch.cuda.current_stream(self.device).synchronize()
        return self._result(shown, overlay, given, start)

    def stream(self, frames: Iterable[Frames]) -> Iterator[RealtimeResult]:
        """The results of ``frames``, in order: more of them a second on CUDA, each a little later.

        There a frame is uploaded while the one before is computed and the picture before that comes down, and two more
        frames are taken from ``frames`` than results have been given. Frames that are on the device, and their overlays, stay
        there. Elsewhere this is a call for each frame.
        """
        if self.device.type != "cuda":
            for frame in frames:
                yield self(frame)
            return
        started: deque[tuple[Tensor, float]] = deque()

        def given() -> Iterator[Tensor]:
            for frame in frames:
                started.append((rgb_frames(frame), time.perf_counter()))
                yield started[-1][0]

        def compute(frame: Tensor) -> tuple[Tensor, _Shown]:
            with self._running:
                shown = self._advance(frame if frame.ndim == 4 else frame[None])
            return shown.overlay, shown

        for overlay, shown in overlapped(given(), compute, self.device):
            yield self._result(shown, overlay, *started.popleft())

    def _result(self, shown: _Shown, overlay: Tensor, given: Tensor, start: float) -> RealtimeResult:
        heat, scores, targets = shown.heat, shown.scores, shown.targets
        if given.ndim == 3:
            overlay, heat, scores = overlay[-1], heat[-1], scores[-1]
            targets = targets[-1] if isinstance(targets, Tensor) else targets
        milliseconds = (time.perf_counter() - start) * 1000
        box = self.box(*given.shape[-3:-1])
        return RealtimeResult(overlay, heat, scores, targets, milliseconds, box, shown.explained, self.class_names)

    def reset(self) -> None:
        """Forgets the frames before: for another stream, or after a jump in this one."""
        with self._running:
            self._forget()

    def close(self) -> None:
        """Ends the use of this engine and lets go of the model."""
        with self._running:
            self._closed = True
            self._forget()
            self._explainer = self._policy = self._shown = self._captured = None
            self._compiled.clear()
            self._splits.clear()
            self._model = self._original = nn.Module()
            self._smoother = Smoother()

    def __enter__(self) -> Realtime:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # One step: which frames are explained, their maps, and the picture.

    def _advance(self, frames: Tensor) -> _Shown:
        """What is shown for ``frames`` ``[N, H, W, 3]`` on the device."""
        if self._closed:
            raise RuntimeError("this Realtime is closed")
        settings = self._settings
        if settings.paused and self._shown is not None:
            return self._shown._replace(explained=False)
        self._prepare(settings)
        N = len(frames)
        if self.channels_last is None:
            self.channels_last = faster_in_channels_last(
                self._model, torch.ones(N, 3, *self.preparation.crop, dtype=self.dtype)
            )
        due = [n for n in range(N) if (self._latest is None and n == 0) or (self._count + n) % settings.every == 0]
        if len(due) == N:
            overlay, *explained = self._explain_and_draw(frames, settings)
        else:
            fresh = self._explain(frames[due], settings) if due else None
            explained = list(self._spread(N, due, fresh))
            overlay = self._draw(frames, explained[0], settings)
        heat, scores, targets = explained
        self._count = (self._count + N) % settings.every
        self._latest = (heat[-1:], scores[-1:], targets[-1:])
        self._shown = _Shown(overlay, heat, scores, targets, bool(due))
        return self._shown

    def _explain_and_draw(self, frames: Tensor, settings: Settings) -> Any:
        """Overlays, maps, scores and targets; replayed from a CUDA graph where that is possible."""

        def step(frames: Tensor) -> Any:
            explained = self._explain(frames, settings)
            return self._draw(frames, explained[0], settings), *explained

        if not (frames.is_cuda and self.graph) or callable(settings.targets):
            return step(frames)
        key = (
            frames.shape,
            dataclasses.replace(settings, smooth=bool(settings.smooth), colormap="", every=1, paused=False),
        )
        if self._captured is None or self._captured_for != key or self._captured_colors is not settings.colormap:
            # One at a time: another's state may have been given up since.
            self._captured, self._captured_for, self._captured_colors = None, key, settings.colormap
            try:
                captured = Captured(step, frames)
            except (ValueError, TypeError):  # the frames or the settings are wrong, not the graph
                self._captured_for = None
                raise
            except RuntimeError as error:
                why = reason(error)
                if self.graph_problem is None:
                    warnings.warn(f"the step runs without a CUDA graph, which is slower: {why}", stacklevel=4)
                self.graph, self.graph_problem = False, why
                torch.cuda.synchronize(frames.device)
                return step(frames)
            finally:
                self._forget()  # the frames of the warm-up
            self._captured = captured
        return pieces(self._captured(frames))

    def _spread(self, N: int, due: list[int], fresh: tuple[Tensor, Tensor, Any] | None) -> tuple[Tensor, Tensor, Any]:
        """Each frame gets what belongs to the last explained one up to it."""
        rows = [part for part in (self._latest, fresh) if part is not None]
        offset = len(rows[0][0]) if self._latest is not None else 0
        at = [offset - 1 + sum(d <= n for d in due) for n in range(N)]
        heat, scores = (torch.cat([row[i] for row in rows])[at] for i in (0, 1))
        if isinstance(rows[0][2], Tensor):
            return heat, scores, torch.cat([row[2] for row in rows])[at]
        listed = [target for row in rows for target in row[2]]
        return heat, scores, [listed[i] for i in at]

    def _explain(self, frames: Tensor, settings: Settings) -> tuple[Tensor, Tensor, Any]:
        """Maps ``[N, (K,) h, w]``, scores ``[N, classes]`` and targets of ``frames``."""
        prepared, box = self.preparation, self.box(*frames.shape[1:3])
        images = ops.preprocess(
            frames,
            prepared.crop,
            prepared.mean,
            prepared.std,
            self.dtype,
            box=box,
            channels_last=bool(self.channels_last),
        )
        result = self._explainer_for(images)(images, self._policy, "map", not settings.smooth)
        heat = self._smoother(result.heatmap, images) if settings.smooth else result.heatmap
        if heat.ndim not in (3, 4):
            raise ValueError(f"expected a layer with a map of two dimensions, got heatmaps {list(heat.shape)}")
        return heat.float(), result.scores, result.targets

    def _explainer_for(self, images: Tensor) -> Explainer:
        """The explainer of images of this shape: compiled once for each shape, where asked for and possible."""
        assert self._explainer is not None
        if not self.compile:
            return self._explainer
        shape = tuple(images.shape)
        if shape not in self._compiled:
            quick = self.compile == "auto"
            try:
                self._compiled[shape] = compiled(self._explainer, images, quick, self._splits)
            except ValueError as error:
                self.compile_problem = str(error)
                if not quick:
                    warnings.warn(f"the network runs uncompiled, which is slower: {error}", stacklevel=2)
                self._compiled[shape] = self._explainer
        return self._compiled[shape]

    def _draw(self, frames: Tensor, heat: Tensor, settings: Settings) -> Tensor:
        box = self.box(*frames.shape[1:3])
        if heat.ndim == 3:
            return draw(frames, heat, box, settings.colormap, settings.alpha)
        each = [draw(frames, heat[:, k], box, settings.colormap, settings.alpha) for k in range(heat.shape[1])]
        return torch.stack(each, 1)

    def _prepare(self, settings: Settings) -> None:
        """Brings explainer and targets up to the settings; what changed is explained anew."""
        explains = (settings.method, settings.layers)
        if explains != self._explains or self._explainer is None:
            self._explainer = METHODS[settings.method](
                self._model,
                None if settings.layers is None else list(settings.layers),
                class_names=self.class_names,
                **self.options,
            )
            if self._explains is None or self._explains[1] != explains[1]:
                self._splits.clear()
            self._explains, self.compile_problem = explains, None
            self._compiled.clear()
            self._forget()
        picks = (settings.targets, settings.sticky)
        if picks != self._picks or self._policy is None:
            self._policy = policy(settings.targets, settings.sticky)
            self._picks = picks
            self._forget()
        if settings.smooth:
            self._smoother.set_share(settings.smooth, self.device)
        elif self._smooths:
            self._smoother.reset()
        self._smooths = bool(settings.smooth)

    def _forget(self) -> None:
        self._smoother.reset()
        if isinstance(self._policy, Top):
            self._policy.reset()
        self._latest, self._count = None, 0
