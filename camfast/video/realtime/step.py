"""One step: frames -> preprocess -> network -> map -> drawn over the frames; compiled, or captured in a CUDA graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ... import ops
from ...errors import NothingFound, reason, warn
from ...methods import METHODS, Explainer
from ...methods.compiled import compiled
from ...model.cuda_graphs import Captured, pieces
from ...pictures.frames import Box, draw
from ...pictures.preparation import Preparation
from .network import faster_in_channels_last, fastest_threads, in_channels_last
from .rows import Rows
from .settings import Settings, policy
from .state import Explained, StreamState

__all__ = ["Step"]


class Step:
    """What is done with each frame that is explained, by one network.

    Attributes:
        explainer: of the latest settings; None before the first frame.
        rows: makes a row of classes of the scores, whatever axes they have.
        channels_last: the layout of the network's input; None: not measured yet.
        threads: how many the CPU uses; None: PyTorch's number; "auto": not measured yet.
        compile_problem: why the network runs uncompiled, where it was to be compiled.
        graph_problem: why steps run without a CUDA graph, where they were to have one.
    """

    def __init__(
        self,
        model: nn.Module,
        preparation: Preparation,
        *,
        class_names: Sequence[str] | None,
        channels_last: bool | None,
        compile: bool | Literal["auto"],
        graph: bool,
        options: dict[str, Any],
    ) -> None:
        if compile not in (True, False, "auto"):
            raise ValueError(f"compile must be True, False or 'auto', got {compile!r}")
        self.model = model
        self.preparation = preparation
        self.class_names = class_names
        self.options = options
        self.compile, self.graph = compile, graph
        some = next(model.parameters(), torch.zeros(0))
        self.device, self.dtype = some.device, some.dtype if some.is_floating_point() else torch.float32
        lies = in_channels_last(model)
        self.channels_last = channels_last
        if channels_last is None and (lies or self.device.type != "cpu"):
            self.channels_last = lies or compile is True  # what torch.compile is fastest with, on CUDA
        self.threads: int | Literal["auto"] | None = None
        self.explainer: Explainer | None = None
        self.rows = Rows()
        self.compile_problem: str | None = None
        self.graph_problem: str | None = None
        self._explains: tuple[Any, ...] | None = None  # method and layers of the explainer
        self._compiled: dict[tuple[int, ...], Explainer] = {}
        self._splits: dict[Any, Any] = {}  # what they are compiled from, of the latest layers alone
        self._captured: Captured | None = None
        self._captured_for: Any = None
        self._captured_colors: Any = None

    def adopt(self, settings: Settings) -> bool:
        """Brings the explainer up to ``settings``; True where it is another one."""
        explains = (settings.method, settings.layers)
        if explains == self._explains and self.explainer is not None:
            return False
        self.explainer = METHODS[settings.method](
            self.model,
            None if settings.layers is None else list(settings.layers),
            class_names=self.class_names,
            **self.options,
        )
        if self._explains is None or self._explains[1] != explains[1]:
            self._splits.clear()
        self._explains, self.compile_problem = explains, None
        self._compiled.clear()
        return True

    def choose_threads(self, frames: Tensor) -> int | None:
        """How many threads ``frames`` run with; measured once where :attr:`threads` is "auto". None: as they are."""
        if self.threads == "auto":
            images = self.prepared(frames)
            self.threads = fastest_threads(self.model, images) if self.device.type == "cpu" else None
        return self.threads

    def choose_layout(self, count: int) -> None:
        """Measures the faster memory layout for ``count`` images, once, where none was asked for."""
        if self.channels_last is None:
            images = torch.ones(count, 3, *self.preparation.crop, dtype=self.dtype)
            self.channels_last = faster_in_channels_last(self.model, images)

    def __call__(self, frames: Tensor, settings: Settings, state: StreamState) -> tuple[Tensor, Tensor, Tensor, Any]:
        """Overlays, maps, scores and targets; replayed from a CUDA graph where that is possible."""

        def step(frames: Tensor) -> Any:
            explained = self.explain(frames, settings, state)
            return self.draw(frames, explained, settings), *explained

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
                    warn(f"the step runs without a CUDA graph, which is slower: {why}")
                self.graph, self.graph_problem = False, why
                torch.cuda.synchronize(frames.device)
                return step(frames)
            finally:
                state.forget()  # the frames of the warm-up
            self._captured = captured
        return pieces(self._captured(frames))

    def explain(self, frames: Tensor, settings: Settings, state: StreamState) -> Explained:
        """Maps ``[N, (K,) h, w]``, scores ``[N, classes]`` and targets of ``frames``."""
        images = self.prepared(frames)
        explainer = self._explainer_for(images)
        try:
            with self.rows.watching(self.model):
                result = explainer(images, state.policy, "map", not settings.smooth)
        except NothingFound:
            return state.nothing(len(images), images)
        scores, targets = self.rows(explainer, images, result.scores, result.targets)
        heat = state.smoother(result.heatmap, images) if settings.smooth else result.heatmap
        if heat.ndim not in (3, 4):
            raise ValueError(f"expected a layer with a map of two dimensions, got heatmaps {list(heat.shape)}")
        return heat.float(), scores, targets

    def attempt(self, frames: Tensor, settings: Settings) -> None:
        """Explains ``frames`` as another stream would, and raises what is raised; nothing of it is kept."""
        explainer = METHODS[settings.method](
            self.model,
            None if settings.layers is None else list(settings.layers),
            class_names=self.class_names,
            **self.options,
        )
        try:
            heat = explainer(self.prepared(frames), policy(settings.targets, 0.0), "map").heatmap
        except NothingFound:  # a frame without objects says nothing against the method
            return
        if heat.ndim not in (3, 4):
            raise ValueError(f"expected a layer with a map of two dimensions, got heatmaps {list(heat.shape)}")

    @property
    def layers(self) -> list[str]:
        """Names of the layers; empty until the first frame has found one."""
        return [] if self.explainer is None else self.explainer.layers

    def box(self, height: int, width: int) -> Box:
        """``(left, top, right, bottom)``: the part of a frame of this size that the network sees."""
        return self.preparation.box(height, width)

    def prepared(self, frames: Tensor) -> Tensor:
        """The network's input for uint8 ``[N, H, W, 3]``."""
        steps, last = self.preparation, bool(self.channels_last)
        box = self.box(*frames.shape[1:3])
        return ops.preprocess(frames, steps.crop, steps.mean, steps.std, self.dtype, box=box, channels_last=last)

    def draw(self, frames: Tensor, explained: Sequence[Any], settings: Settings) -> Tensor:
        """The heat, ``explained[0]``, over the frames, uint8 ``[N, (K,) H, W, 3]``."""
        heat, box = explained[0], self.box(*frames.shape[1:3])
        if heat.ndim == 3:
            return draw(frames, heat, box, settings.colormap, settings.alpha)
        each = [draw(frames, heat[:, k], box, settings.colormap, settings.alpha) for k in range(heat.shape[1])]
        return torch.stack(each, 1)

    def close(self) -> None:
        """Lets go of the model and of all that was made of it."""
        self.model, self.explainer, self._captured = nn.Module(), None, None
        self._compiled.clear()
        self._splits.clear()

    def _explainer_for(self, images: Tensor) -> Explainer:
        """The explainer of images of this shape: compiled once for each shape, where asked for and possible."""
        assert self.explainer is not None
        if not self.compile:
            return self.explainer
        shape = tuple(images.shape)
        if shape not in self._compiled:
            quick = self.compile == "auto"
            try:
                self._compiled[shape] = compiled(self.explainer, images, quick, self._splits)
            except ValueError as error:
                self.compile_problem = str(error)
                if not quick:
                    warn(f"the network runs uncompiled, which is slower: {error}")
                self._compiled[shape] = self.explainer
        return self._compiled[shape]
