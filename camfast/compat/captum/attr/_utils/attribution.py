"""The bases of captum's attributions."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import as_arguments, as_inputs, select_targets

__all__ = ["Attribution", "GradientAttribution", "LayerAttribution"]


class Attribution:
    """Attributes what ``forward_func`` returns.

    Args:
        forward_func: a model, or a function that runs one.
    """

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        self.forward_func = forward_func

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether attributions are multiplied by the inputs."""
        return False

    def has_convergence_delta(self) -> bool:
        """Whether attributions add up to a difference of outputs."""
        return False

    @classmethod
    def get_name(cls) -> str:
        """The class's name in words."""
        return " ".join(re.findall("[A-Z][^A-Z]*", cls.__name__))

    def _run(self, inputs: tuple[Tensor, ...], additional_forward_args: Any) -> Any:
        return self.forward_func(*inputs, *as_arguments(additional_forward_args))


class GradientAttribution(Attribution):
    """Attributions by gradients."""

    @torch.no_grad()
    def compute_convergence_delta(
        self,
        attributions: Tensor | tuple[Tensor, ...],
        start_point: Any,
        end_point: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """Each sample's sum of ``attributions`` minus the difference of its outputs at both points, ``[N]``.

        ``start_point`` holds tensors or numbers, one a tensor of ``end_point``; None is zero.
        """
        found, end = as_inputs(attributions), as_inputs(end_point)
        given = start_point if isinstance(start_point, tuple) else (start_point,) * len(end)
        start = tuple(
            torch.zeros_like(at) + (0 if value is None else value) for value, at in zip(given, end, strict=True)
        )
        for values in found:
            if len(values) != len(end[0]):
                raise AssertionError(
                    "Attributions tensor and the end_point must match on the first dimension, got "
                    f"{len(values)} and {len(end[0])}"
                )

        def total(point: tuple[Tensor, ...]) -> Tensor:
            return _row_sums(select_targets(self._run(point, additional_forward_args), target))

        return sum(map(_row_sums, found)) - (total(end) - total(start))  # type: ignore[return-value]


class LayerAttribution(Attribution):
    """Attributions to what a layer takes in or gives out.

    Args:
        layer: a module that runs in ``forward_func``. device_ids: taken as captum takes it; every device is found.
    """

    def __init__(self, forward_func: Callable[..., Any], layer: nn.Module, device_ids: list[int] | None = None) -> None:
        super().__init__(forward_func)
        self.layer = layer
        self.device_ids = device_ids

    @staticmethod
    def interpolate(
        layer_attribution: Tensor, interpolate_dims: int | tuple[int, ...], interpolate_mode: str = "nearest"
    ) -> Tensor:
        """``layer_attribution`` ``[N, C, *map]`` resized to ``interpolate_dims``, by ``torch.nn.functional.interpolate``."""
        return F.interpolate(layer_attribution, interpolate_dims, mode=interpolate_mode)


def _row_sums(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1).sum(1)
