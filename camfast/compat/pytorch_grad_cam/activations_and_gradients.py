"""Records what layers return, and the gradients there, during a pass of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from ...methods import LayerMap
from ...model.restored import Restored
from .strictness import is_strict

__all__ = ["ActivationsAndGradients"]


class ActivationsAndGradients:
    """Hooks on ``target_layers`` that record while this object is called, and not during the model's other passes.

    ``activations`` are in the order of execution, ``gradients`` too once a backward pass has run. After a call that
    camfast's engine has made they are those of its pass, moved to the CPU when they are first read.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None,
        detach: bool = True,
    ) -> None:
        self.model = model
        self.reshape_transform = reshape_transform
        self.detach = detach
        self.gradients = []
        self.activations = []
        self.ran: list[nn.Module] = []  # the layer of each activation
        self.taps: list[Tensor] = []  # what a backward pass must reach
        self._recording = False
        self._calls: dict[nn.Module, int] | None = None
        self.handles = [layer.register_forward_hook(self._record) for layer in target_layers]

    @property
    def activations(self) -> list[Any]:
        """What the layers returned, after ``reshape_transform``."""
        self._fetch()
        return self._activations

    @activations.setter
    def activations(self, value: list[Any]) -> None:
        self._maps: list[LayerMap] = []
        self._activations = value

    @property
    def gradients(self) -> list[Any]:
        """The gradients there."""
        self._fetch()
        return self._gradients

    @gradients.setter
    def gradients(self, value: list[Any]) -> None:
        self._gradients = value

    def keep(self, maps: Sequence[LayerMap], gradients: bool) -> None:
        """Takes activations (and gradients) from the maps that the engine has made of them."""
        self.clear()
        self._maps, self._with_gradients = list(maps), gradients

    def _fetch(self) -> None:
        if maps := getattr(self, "_maps", None):
            self._maps = []
            self._activations = [layer.activations.detach().cpu() for layer in maps]
            if self._with_gradients:
                own = [layer.weights if layer.gradients is None else layer.gradients for layer in maps]
                known = [
                    gradient
                    for gradient, layer in zip(own, maps, strict=True)
                    if gradient.shape == layer.activations.shape
                ]
                self._gradients = [gradient.detach().cpu() for gradient in known]

    def __call__(self, x: Any) -> Any:
        self.gradients, self.activations, self.ran, self.taps = [], [], [], []
        with Restored() as restored:
            restored.set(self, "_recording", True)
            return self.model(x)

    @contextlib.contextmanager
    def counting(self, model: nn.Module) -> Iterator[dict[nn.Module, int]]:
        """How often each layer runs in the first pass of ``model`` meanwhile."""
        calls: dict[nn.Module, int] = {}

        def end(*_: Any) -> None:
            self._calls = None

        with Restored() as restored:
            restored.hook(model, end)
            restored.set(self, "_calls", calls)
            yield calls

    def save_activation(self, module: nn.Module, input: Any, output: Any) -> None:
        self.activations.append(self._kept(output))
        self.ran.append(module)

    def save_gradient(self, module: nn.Module, input: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            self.taps.append(output)
            output.register_hook(lambda gradient: self.gradients.insert(0, self._kept(gradient)))

    def clear(self) -> None:
        self.activations, self.gradients, self.ran, self.taps = [], [], [], []

    def release(self) -> None:
        self.clear()
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def _record(self, module: nn.Module, input: Any, output: Any) -> Any:
        if self._calls is not None:
            self._calls[module] = self._calls.get(module, 0) + 1
        if not self._recording:
            return None
        self.save_activation(module, input, output)
        self.save_gradient(module, input, output)
        # A later operation in place must not change what was recorded.
        return output.clone() if isinstance(output, Tensor) and not is_strict() else None

    def _kept(self, value: Any) -> Any:
        value = value if self.reshape_transform is None else self.reshape_transform(value)
        return value.detach().cpu() if self.detach else value
