"""The base of all extractors: hooks that record, checks, maps from weights, fusion of layers."""

from __future__ import annotations

import contextlib
import difflib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .... import ops
from ....model.restored import Restored, thread_kept
from ....model.tap import unwrapped
from ... import is_strict
from ._utils import _model_eval, locate_candidate_layer

__all__ = ["_CAM", "OutputTarget"]

logger = logging.getLogger(__name__)

OutputTarget = Callable[[Any], Tensor]
"""What is explained instead of a class: one sample's output to a scalar."""

Self = TypeVar("Self", bound="_CAM")

_MODES = {3: "bilinear", 4: "trilinear"}  # of resizing maps [N, *map], by their dimensions; else nearest


def _resolve_targets(targets: OutputTarget | list[OutputTarget], batch_size: int) -> list[OutputTarget]:
    if callable(targets):
        return [targets] * batch_size
    if not isinstance(targets, list) or not all(map(callable, targets)):
        raise TypeError(f"targets must be a callable or a list of callables, got {type(targets).__name__}")
    if len(targets) != batch_size:
        raise ValueError(f"per-sample targets must match the batch size, {batch_size}, got {len(targets)}")
    return targets


def _target_scores(output: Any, targets: OutputTarget | list[OutputTarget]) -> Tensor:
    """The scalars ``[N]`` that targets make of the samples of ``output``."""
    if isinstance(output, Tensor):
        if output.ndim == 0:
            raise ValueError("model output must have a batch dimension, got a scalar")
        samples: Sequence[Any] = output.unbind(0)
    elif isinstance(output, list):
        samples = output
    else:
        raise TypeError(f"model output must be a tensor or a per-sample list, got {type(output).__name__}")
    values = []
    for target, sample in zip(_resolve_targets(targets, len(samples)), samples, strict=True):
        value = target(sample)
        if not isinstance(value, Tensor):
            raise TypeError(f"each target must return a tensor, got {type(value).__name__}")
        if value.numel() != 1:
            raise ValueError(f"each target must return a scalar tensor, got shape {list(value.shape)}")
        values.append(value.reshape(()))
    return torch.stack(values)


class _CAM:
    """Records the activations of layers during passes of ``model``, and makes maps of them.

    Args:
        model: the model to explain.
        target_layer: names or modules; None takes the last with a map, found by a pass over zeros.
        input_shape: of that pass, without the batch dimension.
        enable_hooks: record from the beginning.
        reshape_transform: turns a layer's output into ``[N, C, *map]``.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        input_shape: tuple[int, ...] = (3, 224, 224),
        enable_hooks: bool = True,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if reshape_transform is not None and not callable(reshape_transform):
            raise TypeError(f"`reshape_transform` must be callable, got {type(reshape_transform).__name__}")
        if reshape_transform is not None and target_layer is None:
            raise ValueError("`target_layer` must be specified when using `reshape_transform`")
        self.model = model
        self.submodule_dict = dict(unwrapped(model, data_parallel=False).named_modules())
        self.target_names = self._resolve_layers(target_layer, input_shape)
        self._reshape_transform = reshape_transform
        self.reset_hooks()
        self.hook_handles: list[torch.utils.hooks.RemovableHandle] = []
        for idx, name in enumerate(self.target_names):
            hook = functools.partial(self._hook_a, idx=idx)
            self.hook_handles.append(self.submodule_dict[name].register_forward_hook(hook))
        self._hooks_enabled = enable_hooks
        # What a subclass sets: whether maps are cut off at 0, scores are needed, callables may stand for classes.
        self._relu = False
        self._score_used = False
        self._targets_supported = False

    def _resolve_layers(self, target_layer: Any, input_shape: tuple[int, ...]) -> list[str]:
        if target_layer is None:
            name = locate_candidate_layer(unwrapped(self.model, data_parallel=False), input_shape)
            if name is None:
                raise ValueError(
                    "found no layer with a map: specify `target_layer` (see `model.named_modules()`) or fix `input_shape`"
                )
            logger.warning("no value was provided for `target_layer`, thus set to '%s'.", name)
            return [name]
        layers = target_layer if isinstance(target_layer, list) else [target_layer]
        if not all(isinstance(layer, (str, nn.Module)) for layer in layers):
            raise TypeError("invalid argument type for `target_layer`: expected modules, names, or a list of them")
        names = [
            layer.removeprefix("_orig_mod.") if isinstance(layer, str) else self._resolve_layer_name(layer)
            for layer in layers
        ]
        missing = [name for name in names if name not in self.submodule_dict]
        if missing:
            close = {name: difflib.get_close_matches(name, self.submodule_dict) for name in missing}
            hints = {name: matches for name, matches in close.items() if matches}
            raise ValueError(
                f"unknown `target_layer` names: {missing}"
                + (f", closest matches: {hints}" if hints else "")
                + "; see `model.named_modules()`"
            )
        return names

    def _resolve_layer_name(self, target_layer: nn.Module) -> str:
        for name, module in self.submodule_dict.items():
            if module is target_layer:
                return name
        raise ValueError("unable to locate module inside the specified model.")

    # Hooks

    def _hook_a(self, _: nn.Module, _input: tuple[Tensor, ...], output: Tensor, idx: int = 0) -> Tensor | None:
        if not self._hooks_enabled:
            return None
        self.hook_a[idx] = self._grid(output).detach()
        return self._passed_on(output)

    def _passed_on(self, output: Tensor) -> Tensor | None:
        """What goes on through the model in place of a layer's output that is kept: a copy, None for itself.

        torchcam lets an operation in place that follows (``nn.ReLU(inplace=True)``) overwrite what it keeps, so that the
        map is not the layer's; ``strict`` does so too.
        """
        return None if is_strict("torchcam") or not isinstance(output, Tensor) else output.clone()

    def _grid(self, tensor: Tensor) -> Tensor:
        return tensor if self._reshape_transform is None else self._reshape_transform(tensor)

    def enable_hooks(self) -> None:
        """Record passes."""
        self._hooks_enabled = True

    def disable_hooks(self) -> None:
        """Let passes go by."""
        self._hooks_enabled = False

    @contextlib.contextmanager
    def _hooks_off(self) -> Iterator[None]:
        with Restored() as restored:
            restored.set(self, "_hooks_enabled", False)
            yield

    def _eval_mode(self) -> contextlib.AbstractContextManager[None]:
        return _model_eval(self.model)

    def reset_hooks(self) -> None:
        """Forget what was recorded."""
        self.hook_a: list[Any] = [None] * len(self.target_names)
        self.hook_g: list[Any] = [None] * len(self.target_names)

    def remove_hooks(self) -> None:
        """Take the hooks off the model."""
        for handle in self.hook_handles:
            handle.remove()
        self.hook_handles.clear()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, exct_type: Any, exce_value: Any, traceback: Any) -> None:
        try:
            self.remove_hooks()
        finally:
            self.reset_hooks()

    # Maps

    @staticmethod
    @torch.no_grad()
    def _normalize(cams: Tensor, spatial_dims: int | None = None, eps: float = 1e-8) -> Tensor:
        """Min-max over the last ``spatial_dims`` dimensions (all but the first), in place."""
        rank = cams.ndim - 1 if spatial_dims is None else spatial_dims
        dims = tuple(range(-rank, 0))
        cams -= cams.amin(dims, keepdim=True)
        cams /= cams.amax(dims, keepdim=True) + eps
        return cams

    def _get_weights(self, class_idx: int | list[int], *args: Any, **kwargs: Any) -> list[Tensor]:
        """Weights ``[N, C]`` or ``[N, C, *map]`` of each layer's activations."""
        raise NotImplementedError

    def _precheck(
        self,
        class_idx: int | list[int] | None,
        scores: Any = None,
        targets: OutputTarget | list[OutputTarget] | None = None,
    ) -> None:
        if (class_idx is None) == (targets is None):
            raise ValueError("provide exactly one of class_idx or targets")
        if targets is not None and not self._targets_supported:
            raise ValueError(f"{type(self).__name__} does not support arbitrary output targets")
        for recorded in self.hook_a:
            if not isinstance(recorded, Tensor):
                raise AssertionError("Inputs need to be forwarded in the model for the conv features to be hooked")
            if isinstance(class_idx, list) and len(class_idx) != recorded.shape[0]:
                raise ValueError("expected batch size and length of `class_idx` to be the same.")
        if targets is not None:
            _resolve_targets(targets, self.hook_a[0].shape[0])
        else:
            classes = class_idx if isinstance(class_idx, list) else [class_idx]
            if not all(isinstance(idx, int) and idx >= 0 for idx in classes):
                raise ValueError(f"Incorrect `class_idx` argument value: expected non-negative ints, got {class_idx!r}")
        if self._score_used and scores is None:
            raise ValueError("model output scores is required to be passed to compute CAMs")
        if self._score_used and targets is None and not isinstance(scores, Tensor):
            raise TypeError(f"model output scores must be a tensor when using class_idx, got {type(scores).__name__}")

    @thread_kept
    def __call__(
        self,
        class_idx: int | list[int] | None = None,
        scores: Any = None,
        normalized: bool = True,
        *,
        targets: OutputTarget | list[OutputTarget] | None = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        """Maps ``[N, *map]`` of each layer, of the pass recorded last.

        Args:
            class_idx: a class for all samples, or a list of one a sample.
            scores: what that pass returned, for the methods of gradients.
            normalized: min-max to [0, 1].
            targets: in place of ``class_idx``: a callable from a sample's output to a scalar, or a list of them.
        """
        self._precheck(class_idx, scores, targets)
        return self.compute_cams(class_idx, scores, normalized, targets=targets, **kwargs)

    def compute_cams(
        self,
        class_idx: int | list[int] | None = None,
        scores: Any = None,
        normalized: bool = True,
        *,
        targets: OutputTarget | list[OutputTarget] | None = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        """The same without checks."""
        if targets is not None:
            kwargs["targets"] = targets
        weights = self._get_weights(class_idx, scores, **kwargs)  # type: ignore[arg-type]
        cams = []
        for W, A in zip(weights, self.hook_a, strict=True):
            cam = _weighted(A, W)
            if self._relu:
                cam = cam.clamp_(min=0)
            cams.append(self._normalize(cam) if normalized else cam)
        return cams

    def _extra_repr(self) -> str:
        return f"target_layer={self.target_names}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._extra_repr()})"

    # Several layers

    @classmethod
    def fuse_cams(cls, cams: list[Tensor], target_shape: tuple[int, ...] | None = None) -> Tensor:
        """One map ``[N, *target_shape]`` of those of several layers: resized, then the maximum."""
        _check_cams(cams)
        if len(cams) == 1:
            return cams[0]
        return cls._fuse_cams(cls._scale_cams(cams), _shared_shape(cams, target_shape))

    @staticmethod
    def _scale_cams(cams: list[Tensor]) -> list[Tensor]:
        return cams

    @staticmethod
    def _fuse_cams(cams: list[Tensor], target_shape: tuple[int, ...]) -> Tensor:
        return (
            torch.stack([_resized(cam, target_shape) for cam in cams]).max(0).values
        )  # a tie's gradient is the first's


def _weighted(A: Tensor, W: Tensor) -> Tensor:
    """Sum over channels of weight times activation, ``[N, *map]``; what is NaN does not count, as in torchcam."""
    if 3 <= A.ndim <= 5 and A.is_floating_point():
        if W.shape[0] != A.shape[0]:
            W = W.expand(A.shape[0], *W.shape[1:])
        op = ops.cam if W.ndim == 2 else ops.hires_cam
        cam = op(A, W, None, normalize=False).to(A.dtype)
        if bool(cam.isfinite().all()):
            return cam
    return torch.nansum(W[(...,) + (None,) * (A.ndim - W.ndim)] * A, 1)


def _check_cams(cams: Any) -> None:
    if not isinstance(cams, list) or not all(isinstance(cam, Tensor) for cam in cams):
        raise TypeError("invalid argument type for `cams`: expected a list of tensors")
    if not cams:
        raise ValueError("argument `cams` cannot be an empty list")


def _shared_shape(cams: list[Tensor], wanted: tuple[int, ...] | None) -> tuple[int, ...]:
    """``wanted``, or where that is no tuple the largest of the maps' sides."""
    return wanted if isinstance(wanted, tuple) else tuple(map(max, zip(*(cam.shape[1:] for cam in cams), strict=True)))


def _resized(cam: Tensor, shape: tuple[int, ...], channels: bool = False) -> Tensor:
    """Maps ``[N, *map]``, or ``[N, C, *map]`` with ``channels``, at another size."""
    maps = cam if channels else cam.unsqueeze(1)
    mode = _MODES.get(maps.ndim - 1, "nearest")
    resized = F.interpolate(maps, shape, mode=mode, align_corners=None if mode == "nearest" else False)
    return resized if channels else resized.squeeze(1)
