"""LeGrad as an extractor: the caller's own pass keeps each block's attention and the scores that its tokens make.

``nn.MultiheadAttention`` does not hand out the probabilities that it used, but a view of them. So what it returns is made
again of probabilities that the gradient reaches, for the blocks that are named and while hooks are enabled.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .core import _CAM, OutputTarget

__all__ = ["LeGrad"]

_NOT_FORWARDED = "Inputs need to be forwarded through every LeGrad target block"
_NEED_WEIGHTS, _AVERAGED = 4, 6  # places of these among the arguments of nn.MultiheadAttention


class LeGrad(_CAM):
    """LeGrad (Bousselham 2024): positive gradients with respect to attention, averaged over blocks.

    Args:
        target_layer: transformer blocks, by name or module, each with a batch-first ``nn.MultiheadAttention`` named
            ``self_attention``.
        score_projection: a block's tokens ``[N, T, C]`` to scores ``[N, classes]``; None takes the norm and the heads of
            torchvision's ViT.
        prefix_tokens: tokens before those of the image. grid_shape: of the image's tokens; None takes a square.

    ``camfast.LeGrad`` explains transformers of any make, and needs no such names.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str],
        *,
        score_projection: Callable[[Tensor], Tensor] | None = None,
        prefix_tokens: int = 1,
        grid_shape: tuple[int, int] | None = None,
        enable_hooks: bool = True,
    ) -> None:
        if target_layer is None or target_layer == []:
            raise ValueError("LeGrad requires at least one explicit target block")
        self._validate_init_args(prefix_tokens, grid_shape, score_projection)
        self._score_projection = _head_of(model) if score_projection is None else score_projection
        self.prefix_tokens, self.grid_shape = prefix_tokens, grid_shape
        super().__init__(model, target_layer, enable_hooks=enable_hooks)
        try:
            self._register_attention_hooks()
        except BaseException:
            self.remove_hooks()
            raise

    @staticmethod
    def _validate_init_args(prefix_tokens: Any, grid_shape: Any, score_projection: Any) -> None:
        if not isinstance(prefix_tokens, int):
            raise TypeError(f"`prefix_tokens` must be an integer, got {type(prefix_tokens).__name__}")
        if prefix_tokens < 0:
            raise ValueError(f"`prefix_tokens` must be non-negative, got {prefix_tokens}")
        if grid_shape is not None:
            if not (
                isinstance(grid_shape, tuple) and len(grid_shape) == 2 and all(isinstance(n, int) for n in grid_shape)
            ):
                raise TypeError(f"`grid_shape` must be a tuple of two integers, got {grid_shape!r}")
            if min(grid_shape) <= 0:
                raise ValueError(f"`grid_shape` dimensions must be positive, got {grid_shape}")
        if score_projection is not None and not callable(score_projection):
            raise TypeError(f"`score_projection` must be callable, got {type(score_projection).__name__}")

    def _register_attention_hooks(self) -> None:
        for idx, name in enumerate(self.target_names):
            attention = getattr(self.submodule_dict[name], "self_attention", None)
            if not isinstance(attention, nn.MultiheadAttention):
                raise TypeError(
                    f"target block '{name}' must expose `self_attention: nn.MultiheadAttention`, got "
                    f"{type(attention).__name__}; camfast.LeGrad takes any attention"
                )
            self._validate_attention(attention, name)
            before = functools.partial(self._prepare_attention, idx=idx)
            after = functools.partial(self._capture_attention, idx=idx)
            self.hook_handles.append(attention.register_forward_pre_hook(before, with_kwargs=True))
            self.hook_handles.append(attention.register_forward_hook(after, with_kwargs=True))

    @staticmethod
    def _validate_attention(attention: nn.MultiheadAttention, name: str) -> None:
        if not attention.batch_first:
            raise ValueError(f"target block '{name}' requires batch-first attention")
        width = attention.embed_dim
        if (attention.kdim, attention.vdim) != (width, width) or attention.in_proj_weight is None:
            raise ValueError(f"target block '{name}' requires shared-dimension Q/K/V projections")
        if attention.bias_k is not None or attention.bias_v is not None or attention.add_zero_attn:
            raise ValueError(f"target block '{name}' does not support added attention tokens")

    def reset_hooks(self) -> None:
        """Forget what was recorded."""
        super().reset_hooks()
        self.hook_attn: list[Any] = [None] * len(self.target_names)
        self._token_counts: list[int | None] = [None] * len(self.target_names)
        self._weight_options: list[tuple[bool, bool] | None] = [None] * len(self.target_names)

    # Hooks

    def _prepare_attention(
        self, module: nn.MultiheadAttention, input_: tuple[Any, ...], kwargs: dict[str, Any], idx: int = 0
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Has the probabilities of each head returned, and notes what the caller had asked for."""
        if not self._hooks_enabled:
            return None
        if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            raise RuntimeError("LeGrad requires a forward pass with gradient tracking enabled")
        if module.training and module.dropout > 0:
            raise ValueError("LeGrad does not support active attention dropout: put the model in evaluation mode")
        if len(input_) < 3 or not all(isinstance(tensor, Tensor) for tensor in input_[:3]):
            raise ValueError("LeGrad requires tensor query, key, and value inputs, by position")
        query, key, value = input_[:3]
        if query is not key or query is not value:
            raise ValueError("LeGrad only supports self-attention, got different query, key and value")
        if query.ndim != 3:
            raise ValueError(
                f"LeGrad requires attention inputs shaped (batch, tokens, embedding), got {list(query.shape)}"
            )
        args, kwargs = list(input_), dict(kwargs)
        projections = (query, module.in_proj_weight, module.in_proj_bias)
        if not any(tensor is not None and tensor.requires_grad for tensor in projections):
            args[:3] = [query.detach().requires_grad_()] * 3  # a frozen model: the graph starts here
        asked = [
            bool(_exchange(args, kwargs, place, name, wanted))
            for place, name, wanted in (
                (_NEED_WEIGHTS, "need_weights", True),
                (_AVERAGED, "average_attn_weights", False),
            )
        ]
        self._weight_options[idx] = (asked[0], asked[1])
        return tuple(args), kwargs

    def _capture_attention(
        self, module: nn.MultiheadAttention, input_: tuple[Any, ...], _kwargs: dict[str, Any], output: Any, idx: int = 0
    ) -> tuple[Tensor, Tensor | None] | None:
        """Keeps the probabilities ``[N, heads, T, T]``, and returns what the module would, made of them."""
        if not self._hooks_enabled:
            return None
        if not (isinstance(output, tuple) and len(output) == 2 and isinstance(output[1], Tensor)):
            raise ValueError("LeGrad requires per-head attention probabilities from `nn.MultiheadAttention`")
        attention, value = output[1], input_[2]
        if not isinstance(value, Tensor) or attention.ndim != 4:
            raise ValueError(
                f"LeGrad requires attention probabilities shaped (batch, heads, queries, keys), got {list(attention.shape)}"
            )
        batch, keys, width = value.shape
        if (*attention.shape[:2], attention.shape[-1]) != (batch, module.num_heads, keys):
            raise ValueError(
                f"incompatible attention probability shape: expected {[batch, module.num_heads, keys, keys]}, got "
                f"{list(attention.shape)}"
            )
        bias = module.in_proj_bias
        value = F.linear(value, module.in_proj_weight[2 * width :], None if bias is None else bias[2 * width :])
        mixed = attention @ value.unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        result = module.out_proj(mixed.transpose(1, 2).flatten(2))
        self.hook_attn[idx] = attention
        options = self._weight_options[idx]
        if options is None:
            raise RuntimeError("missing original attention return options: `_prepare_attention` has not run")
        wanted, averaged = options
        if not wanted:
            return result, None
        return result, attention.mean(1) if averaged else attention

    def _hook_a(self, _: nn.Module, _input: tuple[Tensor, ...], output: Any, idx: int = 0) -> None:
        if not self._hooks_enabled:
            return
        if not isinstance(output, Tensor) or output.ndim != 3:
            got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"LeGrad target blocks must return tokens shaped (batch, tokens, embedding), got {got}")
        scores = self._score_projection(output)
        if not isinstance(scores, Tensor) or scores.ndim != 2 or scores.shape[0] != output.shape[0]:
            got = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(f"`score_projection` must return class logits shaped (batch, classes), got {got}")
        self.hook_a[idx] = scores  # in the place of activations, as in torchcam
        self._token_counts[idx] = output.shape[1]

    # Maps

    def _precheck(
        self,
        class_idx: int | list[int] | None,
        scores: Any = None,
        targets: OutputTarget | list[OutputTarget] | None = None,
    ) -> None:
        super()._precheck(class_idx, scores, targets)
        if not all(isinstance(attention, Tensor) for attention in self.hook_attn):
            raise AssertionError(_NOT_FORWARDED)

    def _get_weights(  # type: ignore[override]
        self, class_idx: int | list[int], _scores: Any = None, retain_graph: bool = False, **_: Any
    ) -> list[Tensor]:
        """Each block's relevance of the image's tokens, ``[N, T]``."""
        found = []
        for idx, (scores, attention) in enumerate(zip(self.hook_a, self.hook_attn, strict=True)):
            if not isinstance(scores, Tensor) or not isinstance(attention, Tensor):
                raise AssertionError(_NOT_FORWARDED)
            if isinstance(class_idx, int):
                chosen = scores[:, class_idx]
            else:
                chosen = scores.gather(1, torch.tensor(class_idx, device=scores.device).view(-1, 1))
            keep = retain_graph or idx < len(self.target_names) - 1
            try:
                (gradient,) = torch.autograd.grad(chosen.sum(), attention, retain_graph=keep)
            except RuntimeError as error:
                raise RuntimeError(
                    f"layer-specific score for '{self.target_names[idx]}' is not connected to its attention: {error}"
                ) from error
            found.append(gradient.clamp(min=0).mean((1, 2))[:, self.prefix_tokens :])
        return found

    def _resolve_grid_shape(self, patch_count: int) -> tuple[int, int]:
        if patch_count <= 0:
            raise ValueError(f"`prefix_tokens` must leave at least one patch token, got {self.prefix_tokens}")
        if self.grid_shape is not None:
            if math.prod(self.grid_shape) != patch_count:
                raise ValueError(
                    f"`grid_shape` does not match the number of patch tokens, {patch_count}, got {self.grid_shape}"
                )
            return self.grid_shape
        side = math.isqrt(patch_count)
        if side * side != patch_count:
            raise ValueError(f"unable to infer a square patch grid of {patch_count} tokens; specify `grid_shape`")
        return side, side

    def compute_cams(
        self,
        class_idx: int | list[int] | None = None,
        scores: Any = None,
        normalized: bool = True,
        retain_graph: bool = False,
        *,
        targets: OutputTarget | list[OutputTarget] | None = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        """One map ``[N, h, w]``, of all blocks."""
        if targets is not None:
            raise ValueError("LeGrad does not support arbitrary output targets")
        maps = []
        found = self._get_weights(class_idx, scores, retain_graph=retain_graph, **kwargs)  # type: ignore[arg-type]
        for relevance, tokens in zip(found, self._token_counts, strict=True):
            if tokens is None or tokens != relevance.shape[-1] + self.prefix_tokens:
                raise ValueError(
                    "attention keys and target-block tokens must have matching lengths, got "
                    f"{relevance.shape[-1] + self.prefix_tokens} and {tokens}"
                )
            maps.append(relevance.unflatten(-1, self._resolve_grid_shape(relevance.shape[-1])))
        cam = torch.stack(maps).mean(0)
        return [self._normalize(cam) if normalized else cam]


def _head_of(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """From tokens to scores, as torchvision's ViT does it of its class token."""
    norm, heads = getattr(getattr(model, "encoder", None), "ln", None), getattr(model, "heads", None)
    if not isinstance(norm, nn.Module) or not isinstance(heads, nn.Module):
        raise ValueError("`score_projection` is required for models other than torchvision VisionTransformer")
    return lambda tokens: heads(norm(tokens.mean(1)))


def _exchange(args: list[Any], kwargs: dict[str, Any], place: int, name: str, wanted: bool) -> Any:
    """Sets an argument to ``wanted``; what it was, True where it was not given."""
    if len(args) > place:
        before, args[place] = args[place], wanted
        return before
    before = kwargs.get(name, True)
    kwargs[name] = wanted
    return before
