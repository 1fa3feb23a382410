"""The heat loss in Lightning and Hugging Face trainers, by one line each."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import require
from ..methods import Explanation
from ..model.layers import Layer
from .heat_loss import HeatLoss
from .watch import lightning_package, lightning_writer

__all__ = ["huggingface_heat_loss", "lightning_heat_loss"]

Part = int | str | Callable[[Any], Any] | None


def lightning_heat_loss(
    loss: Callable[[Explanation, Any], Tensor],
    layers: Layer | Sequence[Layer] | None = None,
    *,
    model: str | None = None,
    images: Part = 0,
    targets: Part = 1,
    **options: Any,
) -> Any:
    """A Lightning ``Callback`` that adds a loss on heat to what ``training_step`` returns::

        trainer = Trainer(callbacks=[lightning_heat_loss(lambda result, batch: energy_outside(result.heatmap, batch[2]))])

    While ``fit`` runs, the module's ``training_step`` is wrapped, so that the term is there before Lightning scales the loss,
    divides it for gradient accumulation and goes back. The heat is of the step's own pass. ``loss`` gets the explanation and the
    batch. Steps that return None are skipped. ``heat_loss`` is logged by the module too, for every logger. Needs ``lightning``
    or ``pytorch_lightning``; ``callback.heat_loss`` is the ``HeatLoss``.

    Args:
        loss: as in ``HeatLoss``; ``batch`` is the training step's.
        layers: as in ``HeatLoss``, names in the explained model.
        model: the name of the part that ``training_step`` calls, such as ``"net"``; None: the module, by ``self(...)``.
        images: which part of the batch they are: a number, a key, or a function of the batch.
        targets: likewise; None: each image's top class.
        options: as in ``HeatLoss``; ``writer`` may be left out where the trainer logs to TensorBoard.

    Raises:
        ValueError: where a module optimises by hand, or does not call the explained model.
    """
    package = lightning_package()

    class HeatLossCallback(package.Callback):  # type: ignore[misc, name-defined]
        heat_loss: HeatLoss | None = None
        _restore: Callable[[], None] | None = None

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            if not pl_module.automatic_optimization:
                raise ValueError(
                    "expected a module that Lightning optimises, got automatic_optimization=False; call HeatLoss in its "
                    "training_step"
                )
            explained = pl_module if model is None else pl_module.get_submodule(model)
            writer = options.get("writer", lightning_writer(trainer)) if trainer.is_global_zero else None
            self.heat_loss = HeatLoss(explained, loss, layers, **{**options, "writer": writer})
            self._restore = _wrapped_step(trainer, pl_module, self.heat_loss, images, targets)

        def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
            self._end()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            self._end()

        def _end(self) -> None:
            restore, self._restore = self._restore, None
            if restore is not None:
                restore()
            if self.heat_loss is not None:
                self.heat_loss.close()

    return HeatLossCallback()


def _wrapped_step(trainer: Any, module: Any, heat_loss: HeatLoss, images: Part, targets: Part) -> Callable[[], None]:
    """Wraps ``module.training_step``; returns what takes the wrapper off."""
    own = vars(module).get("training_step")
    original = module.training_step
    compiled = getattr(module, "_compiler_ctx", None) is not None  # compiled steps skip hooks

    @functools.wraps(original)
    def training_step(*args: Any, **kwargs: Any) -> Any:
        batch = args[0] if args else kwargs["batch"]

        def run() -> Any:
            with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
                return original(*args, **kwargs)

        returned, term = heat_loss.within(
            run,
            _part(batch, images, "images"),
            _part(batch, targets, "targets"),
            batch,
            trainer.global_step,
        )
        if returned is None:
            return None
        module.log("heat_loss", term.detach())
        if isinstance(returned, Mapping):
            return {**returned, "loss": returned["loss"] + term}
        return returned + term

    def restore() -> None:
        if own is None:
            del module.training_step
        else:
            module.training_step = own

    module.training_step = training_step
    return restore


def huggingface_heat_loss(
    trainer: Any,
    loss: Callable[[Explanation, Any], Tensor],
    layers: Layer | Sequence[Layer] | None = None,
    *,
    images: str = "pixel_values",
    targets: Part = "labels",
    extra: Sequence[str] = (),
    **options: Any,
) -> HeatLoss:
    """Adds a loss on heat to a Hugging Face ``Trainer``, before ``trainer.train()``::

        huggingface_heat_loss(trainer, lambda result, batch: energy_outside(result.heatmap, batch["mask"]), extra=["mask"])

    The trainer's ``compute_loss`` is wrapped, its own or a subclass's; the heat is of the pass that it takes. The term is divided
    for gradient accumulation as the loss is. Evaluation stays as it was. Needs ``transformers``.

    Args:
        trainer: the trainer, whose model is explained.
        loss: as in ``HeatLoss``; ``batch`` is the dict of inputs.
        layers: as in ``HeatLoss``.
        images: the key of the images in a batch.
        targets: the key of the targets, or a function of the batch; None: each image's top class.
        extra: keys that the loss needs and the model does not take. They are kept in the batch, and from the model.
        options: as in ``HeatLoss``; without ``writer`` the log goes to the trainer's ``logging_dir`` or ``output_dir``.

    Returns:
        The ``HeatLoss``, closed at the end of training.
    """
    package = require("transformers", "huggingface")
    arguments = trainer.args
    folder = getattr(arguments, "logging_dir", None) or arguments.output_dir
    writer = options.get("writer", folder) if trainer.is_world_process_zero() else None
    heat_loss = HeatLoss(trainer.model, loss, layers, **{**options, "writer": writer})
    _keep_columns(trainer, extra)
    original = trainer.compute_loss

    @functools.wraps(original)
    def compute_loss(model: Any, inputs: Any, return_outputs: bool = False, **others: Any) -> Any:
        own = {key: value for key, value in inputs.items() if key not in extra}
        if not model.training or not torch.is_grad_enabled():
            return original(model, own, return_outputs=return_outputs, **others)
        missing = [key for key in (images, *extra) if key not in inputs]
        if missing:
            raise ValueError(
                f"a batch must hold {', '.join(map(repr, (images, *extra)))}, got {', '.join(map(repr, inputs))}; "
                "TrainingArguments(remove_unused_columns=False) keeps columns that the model does not take"
            )
        (value, outputs), term = heat_loss.within(
            lambda: original(model, own, return_outputs=True, **others),
            {images: inputs[images]},
            _part(inputs, targets, "targets"),
            inputs,
            trainer.state.global_step,
            model,
        )
        value = value + term / _accumulated(trainer, others.get("num_items_in_batch"))
        return (value, outputs) if return_outputs else value

    class Closing(package.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            heat_loss.close()

    trainer.compute_loss = compute_loss
    trainer.add_callback(Closing())
    return heat_loss


def _keep_columns(trainer: Any, extra: Sequence[str]) -> None:
    """Lets ``extra`` columns of a data set reach the batch: a trainer drops those that its model does not take."""
    if not extra or not hasattr(trainer, "_set_signature_columns_if_needed"):
        return
    trainer._set_signature_columns_if_needed()
    trainer._signature_columns = [*trainer._signature_columns, *extra]


def _accumulated(trainer: Any, items: Any) -> float:
    """What the term is divided by: the steps of accumulation, where the trainer does not divide the loss by them itself."""
    scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
    if scaled is None:
        by_model = getattr(trainer, "model_accepts_loss_kwargs", False) and items is not None
        scaled = by_model or getattr(trainer, "compute_loss_func", None) is not None
    return float(getattr(trainer, "current_gradient_accumulation_steps", 1)) if scaled else 1.0


def _part(batch: Any, which: Part, name: str) -> Any:
    if which is None:
        return None
    if callable(which):
        return which(batch)
    try:
        return batch[which]
    except (KeyError, IndexError, TypeError) as error:
        got = f"keys {', '.join(map(repr, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
        raise ValueError(f"{name}={which!r} must be a part of the batch, got a batch of {got}") from error
