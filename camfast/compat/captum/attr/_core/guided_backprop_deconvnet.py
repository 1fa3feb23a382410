"""Guided backpropagation by captum's conventions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .....model.restored import thread_kept
from .....model.untouched import quiet
from ...guided import guided_modules
from .._utils.attribution import GradientAttribution
from .._utils.common import as_arguments, as_given, as_inputs, chosen_scores, wrapped

__all__ = ["GuidedBackprop"]


class GuidedBackprop(GradientAttribution):
    """Guided backpropagation (Springenberg 2015), through ``nn.ReLU`` modules, as in captum.

    ``camfast.GuidedBackprop`` guides ReLU6 and ``torch.relu`` in the model's code as well.
    """

    def __init__(self, model: nn.Module) -> None:
        if not isinstance(model, nn.Module):
            raise AssertionError(
                f"Given model must be an instance of torch.nn.Module to properly hook ReLU layers, got {type(model).__name__}"
            )
        super().__init__(model)
        self.model = model

    @wrapped
    @thread_kept
    def attribute(
        self, inputs: Tensor | tuple[Tensor, ...], target: Any = None, additional_forward_args: Any = None
    ) -> Any:
        """Gradients of the inputs, in their shapes; arguments as in :meth:`LayerGradCam.attribute`."""
        leaves = []
        with quiet(self.model, eval_mode=False), torch.enable_grad():
            leaves = [tensor.detach().clone().requires_grad_() for tensor in as_inputs(inputs)]
            with guided_modules(self.model):
                output = self._run(tuple(leaf.clone() for leaf in leaves), _ordinary(additional_forward_args))
            found = torch.autograd.grad(chosen_scores(output, target).sum(), leaves)
        return as_given(list(found), isinstance(inputs, tuple))


def _ordinary(additional: Any) -> tuple[Any, ...]:
    """Further arguments without tensors of inference mode, which no graph may hold."""
    values = as_arguments(additional)
    return tuple(value.clone() if isinstance(value, Tensor) and value.is_inference() else value for value in values)
