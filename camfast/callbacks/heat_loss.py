"""A loss on heat as a term of a training step, of the one pass that the step takes anyway."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..losses.heat import check_finite
from ..methods import METHODS, Explanation, LayerExplainer
from ..methods.explainer import Size
from ..methods.ranges import Normalize, check_normalize
from ..model.inputs import Images
from ..model.layers import Layer
from ..model.restored import Restored
from ..ops.colormaps import ALPHA, COLORMAP
from ..pictures.tensorboard import opened
from ..targets import Targets
from ..threads import Behind

__all__ = ["HeatLoss"]

_WAITING = 8  # logs that may wait for the disk before training waits for them


class HeatLoss:
    """Adds a loss on heat to a training step, and logs both to TensorBoard::

        heat_loss = camfast.callbacks.HeatLoss(
            model, lambda result, masks: camfast.losses.energy_outside(result.heatmap, masks), weight=0.5, writer="runs/heat"
        )
        for images, labels, masks in loader:
            result, term = heat_loss(images, labels, masks)
            loss = F.cross_entropy(result.scores, labels) + term
            ...
        heat_loss.close()

    The scores come from the same pass as the heat: the step takes no other.

    Args:
        model: the network in training.
        loss: ``loss(result, batch) -> scalar``: a ``camfast.Explanation`` with a graph, and what the call was given
            beside images and targets. Those of ``camfast.losses`` take ``result.heatmap``.
        layers: the layer that is explained; None: the last with a spatial map.
        weight: of the term, a number, or a function of the step's number, to begin gently.
        method: a name of ``camfast.METHODS`` or an explainer class, one with a derivative.
        size: of the heat, as in ``camfast.Explainer.__call__``; ``"map"`` is the layer's own, and cheapest.
        normalize: of the heat, as there.
        every: steps between two logs; the first step is logged.
        writer: a ``SummaryWriter``, or the path of a log directory; None: nothing is logged.
        shown: how many images of a batch the log shows.
        colormap: of the heat there.
        alpha: of the heat there.
        options: further ones of the method, such as ``class_names`` or ``reshape``.

    Tags: ``heat loss`` and ``heat loss weighted`` (the term), ``training loss`` (what a trainer's step gave, without the term),
    and ``heat on training images`` (a labelled figure). Errors of the writing thread are raised by the next call or by
    ``close``.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Explanation, Any], Tensor],
        layers: Layer | Sequence[Layer] | None = None,
        *,
        weight: float | Callable[[int], float] = 1.0,
        method: str | type[LayerExplainer] = "grad_cam",
        size: Size = None,
        normalize: Normalize = True,
        every: int = 100,
        writer: Any = None,
        shown: int = 4,
        colormap: str = COLORMAP,
        alpha: float = ALPHA,
        **options: Any,
    ) -> None:
        if not callable(loss):
            raise TypeError(f"loss must be a function loss(result, batch), got {type(loss).__name__}")
        if not callable(weight) and not (isinstance(weight, (int, float)) and math.isfinite(weight)):
            raise ValueError(f"weight must be a finite number or a function of the step, got {weight!r}")
        if every < 1:
            raise ValueError(f"every must be 1 step or more, got {every}")
        if isinstance(method, str) and method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
        check_normalize(normalize)
        made = METHODS[method] if isinstance(method, str) else method
        explainer = made(model, layers, **options)
        if not isinstance(explainer, LayerExplainer):
            raise ValueError(f"method must explain a layer, got {explainer.name!r}; grad_cam does")
        self.explainer = explainer
        self.weight = weight
        self.every = every
        self.steps = 0  # the next step's number
        self._loss = loss
        self._size, self._normalize = size, normalize
        self._shown, self._colormap, self._alpha = shown, colormap, alpha
        self._writer = None if writer is None else opened(writer)
        self._log = None if self._writer is None else self._writer.__enter__()
        self._jobs: Behind[Callable[[], None]] | None = None
        if self._log is not None:
            self._jobs = Behind(lambda job: job(), _WAITING, "heat-loss")
        self._closed = False

    def __enter__(self) -> HeatLoss:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __call__(
        self, images: Images, targets: Targets = None, batch: Any = None, step: int | None = None
    ) -> tuple[Explanation, Tensor]:
        """One pass of the model: its explanation, with scores to train on, and the term to add to the loss.

        Args:
            images: as in ``camfast.Explainer.__call__``.
            targets: as there.
            batch: what the loss needs beside the explanation, such as masks.
            step: the number of the step; None counts the calls, from 0.
        """
        result = self._explained(images, targets)
        return result, self._term(result, batch, step, None)

    def within(
        self,
        run: Callable[[], Any],
        images: Images,
        targets: Targets,
        batch: Any,
        step: int | None = None,
        called: nn.Module | None = None,
    ) -> tuple[Any, Tensor]:
        """The same of a step that calls the model by itself: what ``run()`` returned, and the term.

        ``run`` must call the model once with what becomes of ``images``; of several calls the last one counts. What it
        returns is a loss, something that holds one under ``"loss"``, or any other thing, whose loss is not logged. A step that
        returns None without a call of the model has no term: 0. ``called`` is the module that ``run`` calls, where that is
        something around the model, as what ``torch.compile`` makes of it.
        """
        step_of = _Step(self.explainer.model, run, called)
        try:
            with Restored() as restored:
                restored.set(self.explainer, "_wrapper", step_of)
                result = self._explained(images, targets)
        except _Skipped:
            return None, torch.zeros(())
        return step_of.returned, self._term(result, batch, step, step_of.returned)

    def close(self) -> None:
        """Waits until everything is written, and closes the log where it was opened here."""
        if self._closed:
            return
        self._closed = True
        jobs, self._jobs = self._jobs, None
        try:
            if jobs is not None:
                jobs.close()
        finally:
            if self._writer is not None:
                self._writer.__exit__(None, None, None)

    def _explained(self, images: Images, targets: Targets) -> Explanation:
        if self._closed:
            raise RuntimeError("expected an open HeatLoss, got one that was closed")
        return self.explainer(images, targets, self._size, self._normalize, differentiable=True)

    def _term(self, result: Explanation, batch: Any, step: int | None, returned: Any) -> Tensor:
        step = self.steps if step is None else step
        self.steps = step + 1
        value = self._loss(result, batch)
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss(result, batch) must return a scalar tensor, got {got}")
        weight = float(self.weight(step)) if callable(self.weight) else float(self.weight)
        term = weight * value.reshape(())
        if step % self.every == 0:
            self._look(step, result, float(value.detach()), weight, _loss_in(returned))
        return term

    def _look(self, step: int, result: Explanation, value: float, weight: float, other: Tensor | None) -> None:
        """Logs a step that is due. Its numbers are read here, so that this is where NaN is met on a device."""
        if not math.isfinite(value):
            check_finite(result.heatmap.detach().cpu())
            raise ValueError(f"the heat loss must be finite, got {value} of finite heat at step {step}")
        if self._log is None or self._jobs is None:
            return
        self._jobs.raise_error()
        curves = {"heat loss": value, "heat loss weighted": weight * value}
        if other is not None:
            curves["training loss"] = float(other.detach())
        shown = result.detach()[: self._shown]
        shown = dataclasses.replace(shown, images=None if shown.images is None else shown.images.detach().clone())
        log, colormap, alpha = self._log, self._colormap, self._alpha

        def draw() -> None:
            for tag, number in curves.items():
                log.add_scalar(tag, number, step)
            page = shown.figure(None, colormap, alpha, title=f"Step {step}")
            log.add_picture("heat on training images", torch.from_numpy(np.array(page)), step)

        self._jobs.put(draw)


class _Skipped(Exception):
    """A step that returned None and called no model."""


class _Step(nn.Module):
    """Stands where the explained model is called: runs a training step, in which the model's own call is."""

    def __init__(self, model: nn.Module, run: Callable[[], Any], called: nn.Module | None) -> None:
        super().__init__()
        self.model = model
        self.called = called  # so that its compiled parts are seen
        self.run = run
        self.returned: Any = None
        self._outputs: list[Any] = []

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the step, whatever is passed; returns what the model returned in it."""
        with Restored() as restored:
            restored.hook(self.model, lambda module, inputs, output: self._outputs.append(output))
            self.returned = self.run()
        if not self._outputs and self.returned is None:
            raise _Skipped
        if not self._outputs:
            raise ValueError(
                f"the training step must call the explained {type(self.model).__name__} itself, got no call of it; name the "
                "module that it calls by model="
            )
        return self._outputs[-1]


def _loss_in(returned: Any) -> Tensor | None:
    """The loss in what a training step returned; None where there is none."""
    if isinstance(returned, tuple) and returned:  # a loss, and outputs
        returned = returned[0]
    if isinstance(returned, dict):
        returned = returned.get("loss")
    return returned if isinstance(returned, Tensor) and returned.numel() == 1 else None
