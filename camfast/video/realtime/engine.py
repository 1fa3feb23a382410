"""One frame in, one explained frame out, as fast as the network runs.

    frame uint8 -> preprocess -> network -> low-resolution map -> (smoothed over time) -> drawn over the frame, once

The map stays at the layer's own resolution until it is drawn; nothing of the frame's size is computed besides the result.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ...model.layers import Layer
from ...model.tap import unwrapped
from ...ops.colormaps import ALPHA, COLORMAP
from ...pictures.frames import Box, rgb_frames
from .detector import DetectorStep
from .network import placed, prepared_by, threads
from .result import RealtimeResult
from .settings import Adjustable, Settings
from .state import Shown, StreamState
from .step import Step
from .transfers import overlapped

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Realtime"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Frames = Tensor | np.ndarray


T = TypeVar("T")


class _OfTheStep(Generic[T]):
    """An attribute of the engine that its step holds."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, engine: Any, owner: Any = None) -> T:
        return self if engine is None else getattr(engine._step, self.name)  # type: ignore[return-value]

    def __set__(self, engine: Any, value: T) -> None:
        setattr(engine._step, self.name, value)


class Realtime(Adjustable):
    """Explains the frames of a stream: ``engine(frame)`` gives the frame with the heat drawn over it.

    The model is left as it is; a copy is made where another device, dtype or memory layout is asked for. Frames of one
    call are consecutive frames of one stream (:attr:`smooth`, :attr:`sticky` and :attr:`every` look back along them).
    Use it from one thread at a time; its settings, the attributes below, may be changed from others at any time.

    Args:
        model: ``[N, 3, h, w]`` to scores ``[N, classes]``, or with further axes: a detector's boxes or queries, positions.
        method: a name of :data:`camfast.METHODS`; None: "grad_cam", or "layer_cam" with ``detect``.
        layers: names or modules; None finds the last layer with a spatial map.
        targets: None for each frame's top class, a class (number or name), a list of classes or ``TopK(k)`` for several
            maps a frame, or a callable ``scores_of_one_image -> scalar``. With ``detect`` the classes whose boxes are kept.
        frame_size: ``(height, width)`` of the frames expected; others are taken as well.
        input_size: the network's input, an int or ``(height, width)``; None: 224. With ``detect`` an int, the longer
            side: the frame keeps its proportions, and None is the size that the detector was made for.
        mean, std: of values in [0, 1], a number a channel; default ImageNet's. With ``detect`` those of the detector's kind.
        dtype: the network's; None: as it is.
        colormap, alpha: of the overlay, as in :func:`camfast.ops.overlay`.
        smooth: share of the past in the map and its range, 0 (off) to below 1; a scene cut starts anew.
        device: where to run; None: where the model is.
        every: explain each n-th frame, and draw its map over those between.
        sticky: how much likelier, in probability, another class must be before it takes the place of the last frame's; with
            ``detect``, how far below ``min_score`` a box may fall that the frame before had, so that boxes do not flicker.
        fit: ``"stretch"`` squeezes the whole frame into the input; ``"crop"`` takes the largest part from its middle that
            has the input's proportions.
        preparation: the network's own, as in :class:`camfast.zoo.Network`; it replaces input size, mean, std and fit. With
            ``detect`` a function or an image processor, as ``prepare`` of :class:`camfast.DetectionExplainer`.
        class_names: names of the classes, in the order of the scores.
        channels_last: True runs a copy of the network in this memory layout, the faster one for half precision on CUDA,
            False one in the usual layout. None takes the network as it is, and its input in the layout of its weights;
            on the CPU, where these are in the usual one, in whichever layout is faster in a few passes before the first
            frame. :attr:`channels_last` says which.
        compile: run the network compiled, with the weights it has at the first frame: on the CPU by oneDNN Graph, in some
            seconds, elsewhere and where that is not faster by ``torch.compile``, in a minute. Where it cannot be compiled,
            :attr:`compile_problem` says why, and there is a warning. "auto": by oneDNN Graph or not at all.
        graph: on CUDA, capture the whole step in a CUDA graph; where it cannot be, :attr:`graph_problem` says why.
        detect: True explains the boxes that a detector keeps, each by what raised its score, and draws them with their names;
            "quality" and "mask" as in :class:`camfast.DetectionExplainer`. Compiling and graphs are not for it.
        min_score: with ``detect``, the least score of a box.
        top: with ``detect``, the most boxes of a frame.
        options: further arguments of the method's class.

    Raises ``TypeError`` and ``ValueError`` for arguments that do not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        method: str | None = None,
        layers: Layer | Sequence[Layer] | None = None,
        targets: Any = None,
        *,
        frame_size: tuple[int, int] = (1080, 1920),
        input_size: int | tuple[int, int] | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        dtype: torch.dtype | None = None,
        colormap: str | Tensor = COLORMAP,
        alpha: float = ALPHA,
        smooth: float = 0.0,
        device: torch.device | str | None = None,
        every: int = 1,
        sticky: float = 0.0,
        fit: Literal["stretch", "crop"] = "stretch",
        preparation: Any = None,
        class_names: Sequence[str] | None = None,
        channels_last: bool | None = None,
        compile: bool | Literal["auto"] = False,
        graph: bool = True,
        detect: bool | Literal["score", "quality", "mask"] = False,
        min_score: float = 0.25,
        top: int = 16,
        options: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        self.frame_size = tuple(frame_size)
        self._original = unwrapped(model)
        self.detects = bool(detect)
        given: dict[str, Any] = {"class_names": class_names, "options": dict(options or {})}
        network = placed(self._original, device, dtype, channels_last)
        if detect:
            what = "score" if detect is True else detect
            self._step: Step = DetectorStep(network, preparation, side=input_size, what=what, top=top, **given)
        else:
            given |= {"channels_last": channels_last, "compile": compile, "graph": graph}
            steps = preparation or prepared_by(224 if input_size is None else input_size, mean, std, fit)
            self._step = Step(network, steps, **given)
        self._state = StreamState()
        self._closed = False
        self._settings_lock, self._running = threading.Lock(), threading.Lock()
        self._settings = Settings(
            self._checked_method(method or ("layer_cam" if detect else "grad_cam")),
            self._checked_layers(layers),
            self._checked_targets(targets),
            self._checked_colormap(colormap),
            self._checked_alpha(alpha),
            self._checked_smooth(smooth),
            self._checked_sticky(sticky),
            self._checked_every(every),
            self._checked_min_score(min_score),
        )

    # What the step is made of, and what it found out.
    preparation = _OfTheStep[Any]("The network's own steps from a frame to its input.")
    class_names = _OfTheStep["Sequence[str] | None"]("Names of the classes, in the order of the scores.")
    options = _OfTheStep[dict[str, Any]]("Further arguments of the method's class.")
    device = _OfTheStep[torch.device]("Where the network runs.")
    dtype = _OfTheStep[torch.dtype]("The network's.")
    channels_last = _OfTheStep["bool | None"]("Whether its input lies in channels_last; None: not measured yet.")
    compile = _OfTheStep['bool | Literal["auto"]']("Whether the network is to be compiled.")
    graph = _OfTheStep[bool]("Whether steps are captured in a CUDA graph where they can be.")
    threads = _OfTheStep['int | None | Literal["auto"]'](
        "How many threads a frame takes on the CPU; None: PyTorch's number; 'auto': measured before the first frame."
    )
    compile_problem = _OfTheStep["str | None"]("Why the network runs uncompiled, where it was to be compiled.")
    graph_problem = _OfTheStep["str | None"]("Why steps run without a CUDA graph, where they were to have one.")

    @property
    def layers_in_use(self) -> list[str]:
        """Names of the layers; empty until the first frame has found one."""
        return self._step.layers

    def layer_names(self) -> list[str]:
        """Names of all layers that :attr:`layers` may be set to, whether they give a map or not."""
        return [name for name, _ in self._original.named_modules() if name]

    def box(self, height: int, width: int) -> Box:
        """``(left, top, right, bottom)``: the part of a frame of this size that the network sees."""
        return self._step.box(height, width)

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

        def compute(frame: Tensor) -> tuple[Tensor, Shown]:
            with self._running:
                shown = self._advance(frame if frame.ndim == 4 else frame[None])
            return shown.overlay, shown

        for overlay, shown in overlapped(given(), compute, self.device):
            yield self._result(shown, overlay, *started.popleft())

    def _result(self, shown: Shown, overlay: Tensor, given: Tensor, start: float) -> RealtimeResult:
        heat, scores, targets = shown.heat, shown.scores, shown.targets
        if given.ndim == 3:
            overlay, heat, scores = overlay[-1], heat[-1], scores[-1]
            targets = targets[-1] if isinstance(targets, Tensor) else targets
        milliseconds = (time.perf_counter() - start) * 1000
        box = self.box(*given.shape[-3:-1])
        exclusive = self._step.rows.exclusive
        found = None
        if self.detects:  # a detector's targets are what it found
            found = targets[-1] if given.ndim == 3 else targets
            targets = found.labels if given.ndim == 3 else [one.labels for one in found]
        return RealtimeResult(
            overlay, heat, scores, targets, milliseconds, box, shown.explained, self.class_names, exclusive, found
        )

    def attempt(self, frames: Frames, method: str) -> None:
        """Explains ``frames`` once by ``method`` with the other settings as they are, to see whether it works.

        The stream's past and settings are as before. Raises what a frame would raise with that method.
        """
        given = rgb_frames(frames)
        with self._running:
            settings = dataclasses.replace(self._settings, method=self._checked_method(method))
            self._step.attempt((given if given.ndim == 4 else given[None]).to(self.device), settings)

    def reset(self) -> None:
        """Forgets the frames before: for another stream, or after a jump in this one."""
        with self._running:
            self._state.forget()

    def close(self) -> None:
        """Ends the use of this engine and lets go of the model."""
        with self._running:
            self._closed = True
            self._original = nn.Module()
            self._step.close()
            self._state = StreamState()

    def __enter__(self) -> Realtime:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            "a Realtime holds a stream's past, threads and compiled steps, and cannot be copied or pickled; make one of the "
            "same arguments for each stream or process"
        )

    def _advance(self, frames: Tensor) -> Shown:
        """What is shown for ``frames`` ``[N, H, W, 3]`` on the device."""
        if self._closed:
            raise RuntimeError("this Realtime is closed")
        settings, step, state = self._settings, self._step, self._state
        if settings.paused and state.shown is not None:
            return state.shown._replace(explained=False)
        if step.adopt(settings):
            state.forget()
        state.adopt(settings, self.device)
        with threads(step.choose_threads(frames)):
            return self._explained(frames, settings)

    def _explained(self, frames: Tensor, settings: Settings) -> Shown:
        step, state, N = self._step, self._state, len(frames)
        step.choose_layout(N)
        due = state.due(N, settings.every)
        if len(due) == N:
            overlay, *explained = step(frames, settings, state)
        else:
            fresh = step.explain(frames[due], settings, state) if due else None
            explained = list(state.spread(N, due, fresh))
            overlay = step.draw(frames, explained, settings)
        heat, scores, targets = explained
        shown = Shown(overlay, heat, scores, targets, bool(due))
        state.keep(shown, settings.every)
        return shown
