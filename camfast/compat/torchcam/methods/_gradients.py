"""Extractors of gradients: the weights are the engine's, the pass and the scores the caller's."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from ....methods.weights import plus_plus_weights, xgrad_weights
from ....model.restored import Restored
from ... import is_strict
from .core import _CAM, OutputTarget, _target_scores

__all__ = ["GradCAM", "GradCAMpp", "LayerCAM", "SmoothGradCAMpp", "XGradCAM"]


class _GradCAM(_CAM):
    """Keeps the layers' outputs in the caller's graph, for gradients of the scores that it is given."""

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, input_shape, **kwargs)
        self._relu = True
        self._score_used = True
        self._targets_supported = True
        for idx, name in enumerate(self.target_names):
            hook = functools.partial(self._hook_g, idx=idx)
            self.hook_handles.append(self.submodule_dict[name].register_forward_hook(hook))

    def reset_hooks(self) -> None:
        """Forget what was recorded."""
        super().reset_hooks()
        self._hook_outputs: list[Any] = [None] * len(self.target_names)

    def _hook_a(self, module: nn.Module, _input: tuple[Tensor, ...], output: Tensor, idx: int = 0) -> None:
        super()._hook_a(module, _input, output, idx)  # the hook below sees the same output, and passes on another

    def _hook_g(self, _: nn.Module, _input: tuple[Tensor, ...], output: Tensor, idx: int = 0) -> Tensor | None:
        if not self._hooks_enabled:
            return None
        if torch.is_grad_enabled() and isinstance(output, Tensor) and not output.requires_grad:
            output = output.detach().requires_grad_()  # nothing before the layer has a gradient: the graph starts here
            self._hook_outputs[idx] = output
            return output.clone()
        self._hook_outputs[idx] = output
        return self._passed_on(output)

    def _backprop(
        self,
        scores: Any,
        class_idx: int | list[int] | None,
        retain_graph: bool = False,
        targets: OutputTarget | list[OutputTarget] | None = None,
    ) -> None:
        """Gradients of the summed scores of class or targets, into ``hook_g``."""
        if targets is not None:
            chosen = _target_scores(scores, targets)
        elif isinstance(class_idx, int):
            chosen = scores[:, class_idx]
        else:
            chosen = scores.gather(1, torch.tensor(class_idx, device=scores.device).view(-1, 1))
        try:
            found = torch.autograd.grad(chosen.sum(), self._hook_outputs, retain_graph=retain_graph)
        except RuntimeError as error:
            raise RuntimeError(f"target score is not connected to every target layer: {error}") from error
        self.hook_g = [self._grid(gradient).detach() for gradient in found]

    def _recorded(self) -> list[tuple[Tensor, Tensor]]:
        """Activations and gradients of each layer, positions in one dimension."""
        return [(A.flatten(2), G.flatten(2)) for A, G in zip(self.hook_a, self.hook_g, strict=True)]


class GradCAM(_GradCAM):
    """Grad-CAM (Selvaraju 2017): a channel's weight is the mean of its gradient."""

    def _get_weights(self, class_idx: int | list[int], scores: Any, **kwargs: Any) -> list[Tensor]:  # type: ignore[override]
        self._backprop(scores, class_idx, **kwargs)
        return [G.flatten(2).mean(-1) for G in self.hook_g]


class GradCAMpp(_GradCAM):
    """Grad-CAM++ (Chattopadhay 2018, eq. 19).

    torchcam's own division changes a copy, so that its weights are ``sum(g^2 relu(g))``; ``strict`` gives these.
    """

    def _get_weights(  # type: ignore[override]
        self, class_idx: int | list[int], scores: Any, eps: float = 1e-8, **kwargs: Any
    ) -> list[Tensor]:
        self._backprop(scores, class_idx, **kwargs)
        if is_strict("torchcam"):
            return [(G * G * G.clamp(min=0)).sum(-1) for _, G in self._recorded()]
        return [plus_plus_weights(A, G, eps) for A, G in self._recorded()]


class XGradCAM(_GradCAM):
    """XGrad-CAM (Fu 2020, eq. 8): gradients weighted by their share of the channel's activation."""

    def _get_weights(  # type: ignore[override]
        self, class_idx: int | list[int], scores: Any, eps: float = 1e-8, **kwargs: Any
    ) -> list[Tensor]:
        self._backprop(scores, class_idx, **kwargs)
        return [xgrad_weights(A, G, eps) for A, G in self._recorded()]


class LayerCAM(_GradCAM):
    """LayerCAM (Jiang 2021): positive gradients weigh each position; layers are fused after ``tanh(2 * map)``."""

    def _get_weights(self, class_idx: int | list[int], scores: Any, **kwargs: Any) -> list[Tensor]:  # type: ignore[override]
        self._backprop(scores, class_idx, **kwargs)
        return [G.clamp(min=0) for G in self.hook_g]

    @staticmethod
    def _scale_cams(cams: list[Tensor], gamma: float = 2.0) -> list[Tensor]:
        return [torch.tanh(gamma * cam) for cam in cams]


class SmoothGradCAMpp(_GradCAM):
    """Smooth Grad-CAM++ (Omeiza 2019): passes over noisy copies of the input recorded last.

    Args:
        num_samples: how many copies. std: of the noise, from PyTorch's global generator of the CPU.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        num_samples: int = 4,
        std: float = 0.3,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, input_shape, **kwargs)
        self._score_used = False
        self.hook_handles.append(model.register_forward_pre_hook(self._store_input))
        self.num_samples, self.std = num_samples, std
        self._distrib = torch.distributions.normal.Normal(0, std)
        self._ihook_enabled = True

    def _store_input(self, _: nn.Module, input_: tuple[Any, ...]) -> None:
        if self._ihook_enabled:
            self._input = input_[0].detach().clone()

    def _get_weights(  # type: ignore[override]
        self, class_idx: int | list[int], _: Any = None, eps: float = 1e-8, **kwargs: Any
    ) -> list[Tensor]:
        with Restored() as restored:
            restored.set(self, "_ihook_enabled", False)
            return self._compute_smoothgrad_weights(class_idx, eps, **kwargs)

    def _compute_smoothgrad_weights(self, class_idx: int | list[int], eps: float, **kwargs: Any) -> list[Tensor]:
        """Weights ``[N, C]``; what is recorded afterwards is the pass over the last noisy copy, as in torchcam."""
        clean = [A.clone() for A in self.hook_a]
        squares = [torch.zeros_like(A) for A in clean]
        cubes = [torch.zeros_like(A) for A in clean]
        for _ in range(self.num_samples):
            noise = self._distrib.sample(self._input.size()).to(self._input.device)
            self._backprop(self.model((self._input + noise).requires_grad_()), class_idx, **kwargs)
            for m2, m3, G in zip(squares, cubes, self.hook_g, strict=True):
                power = G * G
                m2 += power
                m3 += power.mul_(G)
        weights = []
        for m2, m3, A, G in zip(squares, cubes, clean, self.hook_g, strict=True):
            m2, m3 = m2 / self.num_samples, m3 / self.num_samples
            total = (m3 * A).flatten(2).sum(-1)[(...,) + (None,) * (A.ndim - 2)]
            weights.append((m2 / (2 * m2 + total + eps) * G.clamp(min=0)).flatten(2).sum(-1))
        return weights

    def _extra_repr(self) -> str:
        return f"{super()._extra_repr()}, num_samples={self.num_samples}, std={self.std}"
