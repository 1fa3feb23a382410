"""One frame in, one explained frame out, as fast as the network runs.

    frame uint8 -> preprocess -> network -> low-resolution map -> (smoothed over time) -> drawn over the frame, once

The map stays at the layer's own resolution until it is drawn; nothing of the frame's size is computed besides the result.
"""

from __future__ import annotations

import copy
import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from . import colormaps, ops
from .frame_drawing import Box, draw
from .layers import Layer, resolve
from .methods import METHODS, Explainer
from .methods.base import unwrapped
from .preparation import Preparation
from .targets import Policy, TopK
from .temporal import Fixed, Smoother, Top
from .zoo import find_class

__all__ = ["Realtime", "RealtimeResult"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Frames = Tensor | np.ndarray


@dataclass(eq=False)
class RealtimeResult:
    """What :class:`Realtime` returns for a frame, or for N of them (then everything has N as its first dimension).

    Attributes:
        overlay: uint8 ``[H, W, 3]``, or ``[K, H, W, 3]`` for K classes; where the frames came from: memory or a device.
        heatmap: float32 ``[(K,) h, w]`` in [0, 1], at the layer's own resolution; it covers :attr:`box` of the frame.
        scores: the network's output, ``[classes]``, of the last frame that was explained.
        targets: the classes explained, int64 scalar or ``[K]``; a list of callables where these were asked for.
        milliseconds: from the call to the finished overlay.
        box: ``(left, top, right, bottom)``: the part of the frame that the network saw, in pixels.
        explained: False where an earlier map was drawn again (``every``, ``paused``).
        class_names: names of the classes where they are known.
    """

    overlay: Tensor
    heatmap: Tensor
    scores: Tensor
    targets: Tensor | list[Any]
    milliseconds: float
    box: Box
    explained: bool = True
    class_names: Sequence[str] | None = None

    def ranking(self, count: int = 5) -> list[tuple[str, float]]:
        """The ``count`` likeliest classes, names (or numbers) and softmax probabilities; of N frames, the last one's."""
        values, ids = self._probabilities().sort(descending=True)
        return [(self._name(i), p) for p, i in zip(values[:count].tolist(), ids[:count].tolist(), strict=True)]

    def labels(self) -> list[tuple[str, float]]:
        """Name and probability of each class that is explained, in the order of the maps; of N frames, the last one's."""
        if not isinstance(self.targets, Tensor):
            return [(getattr(t, "__name__", type(t).__name__), float("nan")) for t in self.targets[-1:]]
        probabilities = self._probabilities()
        last = self.targets if self.scores.ndim == 1 else self.targets[-1]
        return [(self._name(i), probabilities[i].item()) for i in last.reshape(-1).tolist()]

    def _probabilities(self) -> Tensor:
        scores = self.scores if self.scores.ndim == 1 else self.scores[-1]
        return scores.float().cpu().softmax(0)

    def _name(self, number: int) -> str:
        return f"class {number}" if self.class_names is None else str(self.class_names[number])


@dataclass(frozen=True)
class _Settings:
    """What may change between two frames; one frame sees one of these, whole."""

    method: str
    layers: tuple[str, ...] | None
    targets: Any
    colormap: str | Tensor
    alpha: float
    smooth: float
    sticky: float
    every: int
    paused: bool = False


class _Setting:
    """An attribute that any thread may set while another runs frames: checked at once, used from the next frame on."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, engine: Any, owner: Any = None) -> Any:
        return self if engine is None else getattr(engine._settings, self.name)

    def __set__(self, engine: Any, value: Any) -> None:
        value = getattr(engine, f"_checked_{self.name}")(value)
        with engine._settings_lock:
            engine._settings = dataclasses.replace(engine._settings, **{self.name: value})


class Realtime:
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
        options: further arguments of the method's class.

    Raises ``TypeError`` and ``ValueError`` for arguments that do not fit.
    """

    targets = _Setting("What to explain; a name needs ``class_names``.")
    method = _Setting("The method's name.")
    layers = _Setting("The layers asked for: a list, or None; :attr:`layers_in_use` says which were found.")
    colormap = _Setting("Name of a colour table, or the table.")
    alpha = _Setting("The heat's share of the picture, 0 to 1.")
    smooth = _Setting("Share of the past, from 0 to below 1.")
    sticky = _Setting("Lead in probability that another class needs.")
    every = _Setting("Each how manieth frame is explained.")
    paused = _Setting("True returns the last result again, whatever the frame.")

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
        options: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        self.preparation = preparation or _preparation(input_size, mean, std, fit)
        self.frame_size = tuple(frame_size)
        self.class_names = class_names
        self.options = dict(options or {})
        self._original = unwrapped(model)
        self._model = _placed(self._original, device, dtype)
        some = next(self._model.parameters(), torch.zeros(0))
        self.device, self.dtype = some.device, some.dtype if some.is_floating_point() else torch.float32
        self._settings_lock, self._running = threading.Lock(), threading.Lock()
        self._settings = _Settings(
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
        self._result: RealtimeResult | None = None
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
        given = _as_tensor(frames)
        batch = given if given.ndim == 4 else given[None]
        with self._running:
            if self._closed:
                raise RuntimeError("this Realtime is closed")
            settings = self._settings
            if settings.paused and self._result is not None:
                return dataclasses.replace(self._result, explained=False)
            on_device = batch.to(self.device, non_blocking=True)
            overlay, heat, scores, targets, explained = self._step(on_device, settings)
            overlay = overlay.to(given.device)
            if given.ndim == 3:
                overlay, heat, scores = overlay[0], heat[0], scores[0]
                targets = targets[0] if isinstance(targets, Tensor) else targets
            result = RealtimeResult(
                overlay,
                heat,
                scores,
                targets,
                (time.perf_counter() - start) * 1000,
                self.box(*given.shape[-3:-1]),
                explained,
                self.class_names,
            )
            self._result = result
            return result

    def stream(self, frames: Iterable[Frames]) -> Iterator[RealtimeResult]:
        """The results of ``frames``, in order."""
        for frame in frames:
            yield self(frame)

    def reset(self) -> None:
        """Forgets the frames before: for another stream, or after a jump in this one."""
        with self._running:
            self._forget()

    def close(self) -> None:
        """Ends the use of this engine and lets go of the model."""
        with self._running:
            self._closed = True
            self._forget()
            self._explainer = self._policy = self._result = None
            self._model = self._original = nn.Module()
            self._smoother = Smoother()

    def __enter__(self) -> Realtime:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # One step: which frames are explained, their maps, and the picture.

    def _step(self, frames: Tensor, settings: _Settings) -> tuple[Tensor, Tensor, Tensor, Any, bool]:
        self._prepare(settings)
        N, H, W, _ = frames.shape
        box = self.box(H, W)
        due = [n for n in range(N) if (self._latest is None and n == 0) or (self._count + n) % settings.every == 0]
        if due:
            heat, scores, targets = self._explain(frames if len(due) == N else frames[due], box, settings)
            self._count = (self._count + N) % settings.every
            if len(due) < N:
                heat, scores, targets = self._spread(N, due, (heat, scores, targets))
            self._latest = (heat[-1:], scores[-1:], targets[-1:])
        else:
            self._count = (self._count + N) % settings.every
            assert self._latest is not None
            heat, scores, targets = self._spread(N, [], None)
        return self._draw(frames, heat, box, settings), heat, scores, targets, bool(due)

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

    def _explain(self, frames: Tensor, box: Box, settings: _Settings) -> tuple[Tensor, Tensor, Any]:
        """Maps ``[N, (K,) h, w]``, scores ``[N, classes]`` and targets of ``frames``."""
        assert self._explainer is not None
        prepared = self.preparation
        images = ops.preprocess(
            frames, prepared.crop, prepared.mean, prepared.std, self.dtype, box=box, channels_last=True
        )
        if not settings.smooth:
            result = self._explainer(images, self._policy, "map")
            heat = result.heatmap
        else:
            result = self._explainer(images, self._policy, "map", normalize=False)
            self._smoother.set_share(settings.smooth, images.device)
            heat = self._smoother(result.heatmap, images)
        if heat.ndim not in (3, 4):
            raise ValueError(f"expected a layer with a map of two dimensions, got heatmaps {list(heat.shape)}")
        return heat.float(), result.scores, result.targets

    def _draw(self, frames: Tensor, heat: Tensor, box: Box, settings: _Settings) -> Tensor:
        if heat.ndim == 3:
            return draw(frames, heat, box, settings.colormap, settings.alpha)
        each = [draw(frames, heat[:, k], box, settings.colormap, settings.alpha) for k in range(heat.shape[1])]
        return torch.stack(each, 1)

    def _prepare(self, settings: _Settings) -> None:
        """Brings explainer and targets up to the settings; what changed is explained anew."""
        explains = (settings.method, settings.layers)
        if explains != self._explains or self._explainer is None:
            self._explainer = METHODS[settings.method](
                self._model,
                None if settings.layers is None else list(settings.layers),
                class_names=self.class_names,
                **self.options,
            )
            self._explains = explains
            self._forget()
        picks = (settings.targets, settings.sticky)
        if picks != self._picks or self._policy is None:
            self._policy = _policy(settings.targets, settings.sticky)
            self._picks = picks
            self._forget()
        if not settings.smooth:
            self._smoother.reset()

    def _forget(self) -> None:
        self._smoother.reset()
        if isinstance(self._policy, Top):
            self._policy.reset()
        self._latest, self._count = None, 0

    # The settings' checks: what was given, in the form in which it is kept.

    def _checked_method(self, method: str) -> str:
        if method not in METHODS:
            raise ValueError(f"expected a method of {', '.join(METHODS)}, got {method!r}")
        return method

    def _checked_layers(self, layers: Layer | Sequence[Layer] | None) -> tuple[str, ...] | None:
        # By name, since a copy of the model may be in use.
        return None if layers is None else tuple(resolve(self._original, layers)[0])

    def _checked_targets(self, targets: Any) -> Any:
        if targets is None or isinstance(targets, (TopK, Policy)) or callable(targets):
            return targets
        if isinstance(targets, (Tensor, np.ndarray)):
            targets = targets.tolist()
        if isinstance(targets, (list, tuple)):
            if not targets:
                raise ValueError("targets must be a class or several, got an empty list")
            return tuple(self._class_number(target) for target in targets)
        return self._class_number(targets)

    def _class_number(self, target: Any) -> int:
        if isinstance(target, bool) or not isinstance(target, (int, np.integer, str)):
            raise TypeError(f"targets must be classes, names, TopK or a callable, got {type(target).__name__}")
        number = find_class(target, self.class_names) if isinstance(target, str) else int(target)
        known = None if self.class_names is None else len(self.class_names)
        if number < 0 or (known is not None and number >= known):
            raise ValueError(
                f"targets must be classes from 0{'' if known is None else f' to {known - 1}'}, got {number}"
            )
        return number

    def _checked_colormap(self, colormap: str | Tensor) -> str | Tensor:
        colormaps.table(colormap)
        return colormap

    def _checked_alpha(self, alpha: float) -> float:
        return _between("alpha", alpha, 0, 1)

    def _checked_smooth(self, smooth: float) -> float:
        if smooth == 1:
            raise ValueError("smooth must be below 1, where no frame would ever be seen, got 1")
        return _between("smooth", smooth, 0, 1)

    def _checked_sticky(self, sticky: float) -> float:
        return _between("sticky", sticky, 0, 1)

    def _checked_every(self, every: int) -> int:
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise ValueError(f"every must be a positive int, got {every!r}")
        return every

    def _checked_paused(self, paused: bool) -> bool:
        return bool(paused)


def _policy(targets: Any, sticky: float) -> Policy | Callable[[Tensor], Tensor]:
    if targets is None:
        return Top(sticky=sticky)
    if isinstance(targets, TopK):
        return Top(targets.k)
    if isinstance(targets, tuple):
        return Fixed(list(targets))
    return Fixed(targets) if isinstance(targets, int) else targets


def _preparation(
    input_size: int | tuple[int, int], mean: Sequence[float], std: Sequence[float], fit: str
) -> Preparation:
    size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    if len(size) != 2 or any(not isinstance(n, int) or n < 1 for n in size):
        raise ValueError(f"input_size must be a positive int or (height, width), got {input_size!r}")
    if fit not in ("stretch", "crop"):
        raise ValueError(f"fit must be 'stretch' or 'crop', got {fit!r}")
    if fit == "crop" and size[0] != size[1]:
        raise ValueError(f"fit='crop' needs a square input, got {size}; pass preparation=")
    resize = size if fit == "stretch" else size[0]
    return Preparation(resize, size, tuple(mean), tuple(std))


def _placed(model: nn.Module, device: torch.device | str | None, dtype: torch.dtype | None) -> nn.Module:
    """``model``, or a copy of it where it must be changed."""
    some = next((p for p in model.parameters() if p.is_floating_point()), None)
    if some is None:
        return model
    moves = device is not None and torch.device(device) != some.device
    if not moves and dtype in (None, some.dtype):
        return model
    return copy.deepcopy(model).to(device=device, dtype=dtype)


def _as_tensor(frames: Any) -> Tensor:
    if isinstance(frames, np.ndarray):
        if frames.dtype != np.uint8:
            raise TypeError(f"frames must be uint8, got {frames.dtype}")
        # Mirrored and read-only arrays are copied; others are looked at where they are.
        usable = frames.flags.writeable and all(step >= 0 for step in frames.strides)
        frames = torch.from_numpy(frames if usable else frames.copy())
    if not isinstance(frames, Tensor) or frames.dtype != torch.uint8:
        got = frames.dtype if isinstance(frames, Tensor) else type(frames).__name__
        raise TypeError(f"frames must be a uint8 tensor or array, got {got}")
    if frames.ndim not in (3, 4) or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"frames must have shape [H, W, 3] or [N, H, W, 3], RGB, got {list(frames.shape)}")
    return frames


def _between(name: str, value: float, low: float, high: float) -> float:
    if not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{name} must be between {low} and {high}, got {value!r}")
    return float(value)
