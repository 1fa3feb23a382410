"""Guided backpropagation through modules put in place of a model's ``nn.ReLU`` for the time of a call.

Unlike :class:`camfast.GuidedBackprop` it leaves ReLUs that the model's code calls, and ReLU6, as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function

from ...model.restored import Restored, thread_kept
from ...model.untouched import quiet

__all__ = ["GuidedBackpropReLU", "GuidedBackpropReLUModel", "GuidedBackpropReLUasModule"]


class GuidedBackpropReLU(Function):
    """ReLU whose gradient has no negative part."""

    @staticmethod
    def forward(ctx: Any, input_img: Tensor) -> Tensor:
        ctx.save_for_backward(input_img > 0)
        return input_img.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (on,) = ctx.saved_tensors
        return torch.where(on, grad_output.clamp(min=0), 0)


class GuidedBackpropReLUasModule(nn.Module):
    """:class:`GuidedBackpropReLU` as a module."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, input_img: Tensor) -> Tensor:
        return GuidedBackpropReLU.apply(input_img)


class GuidedBackpropReLUModel:
    """Guided backpropagation of ``model``, moved to ``device`` if one is given."""

    def __init__(self, model: nn.Module, device: Any = None) -> None:
        self.device = next(model.parameters()).device if device is None else torch.device(device)
        self.model = model if device is None else model.to(self.device)

    def forward(self, input_img: Tensor) -> Any:
        return self.model(input_img)

    def recursive_replace_relu_with_guidedrelu(self, module_top: nn.Module) -> None:
        """Puts guided modules in place of every ReLU below ``module_top``."""
        for name, module in module_top._modules.items():
            if module is not None and type(module).__name__ == "ReLU":
                module_top._modules[name] = _Guided(module)
            elif module is not None:
                self.recursive_replace_relu_with_guidedrelu(module)

    def recursive_replace_guidedrelu_with_relu(self, module_top: nn.Module) -> None:
        """Puts the ReLUs back."""
        for name, module in module_top._modules.items():
            if isinstance(module, _Guided):
                module_top._modules[name] = module.replaced
            elif module is not None:
                self.recursive_replace_guidedrelu_with_relu(module)

    @thread_kept
    def __call__(self, input_img: Tensor, target_category: int | None = None) -> np.ndarray:
        """The gradient of the first image's score of a class, its top one for None: float32 ``[H, W, C]``."""
        leaf = input_img.detach().to(self.device).clone().requires_grad_()
        with quiet(self.model), torch.enable_grad():
            with Restored() as restored:
                restored.back(lambda: self.recursive_replace_guidedrelu_with_relu(self.model))
                self.recursive_replace_relu_with_guidedrelu(self.model)
                scores = self.forward(leaf)[0]
            category = int(scores.argmax()) if target_category is None else target_category
            (gradient,) = torch.autograd.grad(scores[category], leaf)
        return gradient[0].float().movedim(0, -1).cpu().numpy()


class _Guided(GuidedBackpropReLUasModule):
    """A guided module that knows what it stands for."""

    replaced: nn.Module

    def __init__(self, replaced: nn.Module) -> None:
        super().__init__()
        self.__dict__["replaced"] = replaced  # no child: it is not part of the model now
