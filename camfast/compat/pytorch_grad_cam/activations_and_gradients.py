"""Records what layers return, and the gradients there, during a pass of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["ActivationsAndGradients"]


class ActivationsAndGradients:
    """Hooks on ``target_layers`` that record while this object is called, and not during the model's other passes.

    ``activations`` are in the order of execution, ``gradients`` too once a backward pass has run.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None,
        detach: bool = True,
    ) -> None:
        self.model = model
        self.gradients: list[Tensor] = []
        self.activations: list[Tensor] = []
        self.reshape_transform = reshape_transform
        self.detach = detach
        self.ran: list[nn.Module] = []  # the layer of each activation
        self.taps: list[Tensor] = []  # what a backward pass must reach
        self._recording = False
        self.handles = [layer.register_forward_hook(self._record) for layer in target_layers]

    def __call__(self, x: Any) -> Any:
        self.gradients, self.activations, self.ran, self.taps = [], [], [], []
        self._recording = True
        try:
            return self.model(x)
        finally:
            self._recording = False

    def save_activation(self, module: nn.Module, input: Any, output: Any) -> None:
        self.activations.append(self._kept(output))
        self.ran.append(module)

    def save_gradient(self, module: nn.Module, input: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            self.taps.append(output)
            output.register_hook(lambda gradient: self.gradients.insert(0, self._kept(gradient)))

    def clear(self) -> None:
        self.activations.clear()
        self.gradients.clear()
        self.ran.clear()
        self.taps.clear()

    def release(self) -> None:
        self.clear()
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def _record(self, module: nn.Module, input: Any, output: Any) -> Any:
        if not self._recording:
            return None
        self.save_activation(module, input, output)
        self.save_gradient(module, input, output)
        # A later operation in place must not change what was recorded.
        return output.clone() if isinstance(output, Tensor) else None

    def _kept(self, value: Any) -> Any:
        if not self.detach:
            return value
        return (value if self.reshape_transform is None else self.reshape_transform(value)).detach().cpu()
