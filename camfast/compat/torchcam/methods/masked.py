"""Score-CAM and its kin, step by step: scores of the input masked by each channel.

The steps are torchcam's, so that a subclass may override any of them; each of them runs on the caller's model alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ....model.memory_format import laid_out, takes_channels_last
from .core import _CAM, OutputTarget, _resized, _resolve_targets, _target_scores

__all__ = ["ISCAM", "SSCAM", "ScoreCAM"]

_Classes = int | list[int] | None
_Targets = OutputTarget | list[OutputTarget] | None


class ScoreCAM(_CAM):
    """Score-CAM (Wang 2020): scores of the input masked by each channel.

    Args:
        batch_size: masked inputs scored at once.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        batch_size: int = 32,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, input_shape, **kwargs)
        self.hook_handles.append(model.register_forward_pre_hook(self._store_input))
        self.bs = batch_size
        self._relu = True
        self._targets_supported = True

    def _store_input(self, _: nn.Module, input_: tuple[Any, ...]) -> None:
        if self._hooks_enabled:
            self._input = input_[0].detach().clone()

    # The steps of one masked input

    def _upsample(self, activation: Tensor) -> Tensor:
        """Masks ``[N, C, *map]`` at the size of the input."""
        return _resized(activation, tuple(self._input.shape[2:]), channels=True)

    def _prepare_masked_inputs(self, activation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Masks ``[N * C, 1, *map]``, the sample of each, int64 ``[N * C]``, and memory for one batch of inputs."""
        batch, channels = activation.shape[:2]
        samples = torch.arange(batch).repeat_interleave(channels)
        room = self._input.new_empty((min(self.bs, batch * channels), *self._input.shape[1:]))
        return activation.flatten(0, 1).unsqueeze(1), samples, room

    def _masked_input_chunk(self, masks: Tensor, sample_indices: Tensor, buffer: Tensor, slice_: slice) -> Tensor:
        """The inputs masked by some of the masks, in ``buffer``."""
        own = self._input if self._input.shape[0] == 1 else self._input[sample_indices[slice_]]
        some = masks[slice_]
        if some.shape[2:] != self._input.shape[2:]:
            some = self._upsample(some)
        return torch.mul(some, own, out=buffer[: slice_.stop - slice_.start])

    @staticmethod
    def _select_scores(
        output: Any, sample_indices: Tensor, class_idx: _Classes, targets: list[OutputTarget] | None
    ) -> Tensor:
        """What is explained, ``[B]``, of the output for B inputs, each made of one of the samples."""
        if targets is not None:
            return _target_scores(output, [targets[sample] for sample in sample_indices.tolist()])
        if isinstance(class_idx, int):
            return output[:, class_idx]
        classes = torch.tensor(class_idx, device=output.device)[sample_indices]
        return output.gather(1, classes.view(-1, 1)).squeeze(1)

    def _score_input(
        self, input_tensor: Tensor, sample_indices: Tensor, class_idx: _Classes, targets: list[OutputTarget] | None
    ) -> Tensor:
        return self._select_scores(self.model(input_tensor), sample_indices, class_idx, targets)

    def _scored(
        self, sample_indices: Tensor, class_idx: _Classes, targets: list[OutputTarget] | None, input_tensor: Tensor
    ) -> Tensor:
        return self._score_input(input_tensor, sample_indices, class_idx, targets)

    # The steps of a call

    def _init_score_weights(
        self, activations: list[Tensor], class_idx: _Classes, targets: _Targets
    ) -> tuple[list[Tensor], list[OutputTarget] | None, Tensor]:
        """Weights of 0 for each layer ``[N * C]``, one target a sample, and the scores of the input as it is ``[N]``."""
        batch = activations[0].shape[0]
        each = None if targets is None else _resolve_targets(targets, batch)
        own = self._select_scores(self.model(self._input), torch.arange(batch), class_idx, each)
        return [A.new_zeros(A.shape[0] * A.shape[1]) for A in activations], each, own

    def _add_scores(
        self,
        weight: Tensor,
        prepared: tuple[Tensor, Tensor, Tensor],
        own: Tensor,
        class_idx: _Classes,
        targets: list[OutputTarget] | None,
        strength: float = 1,
    ) -> None:
        """Adds to ``weight`` ``[N * C]`` how far each masked input's score lies above its sample's own."""
        masks, samples, room = prepared
        channels_last = takes_channels_last(self.model, self._input[:1], self.model, min(self.bs, len(weight)))
        for start in range(0, len(weight), self.bs):
            part = slice(start, min(start + self.bs, len(weight)))
            inputs = self._masked_input_chunk(masks, samples, room, part)
            if strength != 1:
                inputs = strength * inputs
            inputs = laid_out(inputs, True) if channels_last else inputs
            found = self._scored(samples[part], class_idx, targets, inputs)
            weight[part] += found - own[samples[part]]

    @torch.no_grad()
    def _get_score_weights(
        self, activations: list[Tensor], class_idx: _Classes, targets: _Targets = None
    ) -> list[Tensor]:
        """Weights ``[N, C]`` of each layer, of activations from 0 to 1."""
        weights, each, own = self._init_score_weights(activations, class_idx, targets)
        for activation, weight in zip(activations, weights, strict=True):
            self._add_scores(weight, self._prepare_masked_inputs(activation), own, class_idx, each)
        return _shares(weights, activations)

    @torch.no_grad()
    def _get_weights(self, class_idx: Any, *_: Any, targets: _Targets = None) -> list[Tensor]:  # type: ignore[override]
        activations = [self._normalize(A.clone(), A.ndim - 2) for A in self.hook_a]
        with self._hooks_off(), self._eval_mode():
            return self._get_score_weights(activations, class_idx, targets)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_size={self.bs})"


class SSCAM(ScoreCAM):
    """SS-CAM (Wang 2020): Score-CAM over masks with noise of standard deviation ``std``, ``num_samples`` times."""

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        batch_size: int = 32,
        num_samples: int = 35,
        std: float = 2.0,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, batch_size, input_shape, **kwargs)
        self.num_samples, self.std = num_samples, std
        self._distrib = torch.distributions.normal.Normal(0, std)

    @torch.no_grad()
    def _get_score_weights(
        self, activations: list[Tensor], class_idx: _Classes, targets: _Targets = None
    ) -> list[Tensor]:
        activations = [self._upsample(A) for A in activations]  # noise is drawn at the size of the input
        weights, each, own = self._init_score_weights(activations, class_idx, targets)
        for activation, weight in zip(activations, weights, strict=True):
            for _ in range(self.num_samples):
                noisy = activation + self._distrib.sample(activation.size()).to(activation.device)
                self._add_scores(weight, self._prepare_masked_inputs(noisy), own, class_idx, each)
        return _shares([weight / self.num_samples for weight in weights], activations)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_size={self.bs}, num_samples={self.num_samples}, std={self.std})"


class ISCAM(ScoreCAM):
    """IS-CAM (Naidu 2020): Score-CAM over masks of growing strength, in ``num_samples`` steps."""

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        batch_size: int = 32,
        num_samples: int = 10,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, batch_size, input_shape, **kwargs)
        self.num_samples = num_samples

    @torch.no_grad()
    def _get_score_weights(
        self, activations: list[Tensor], class_idx: _Classes, targets: _Targets = None
    ) -> list[Tensor]:
        activations = [self._upsample(A) for A in activations]
        weights, each, own = self._init_score_weights(activations, class_idx, targets)
        for activation, weight in zip(activations, weights, strict=True):
            prepared, strength = self._prepare_masked_inputs(activation), 0.0
            for step in range(self.num_samples):
                strength += (step + 1) / self.num_samples
                self._add_scores(weight, prepared, own, class_idx, each, strength)
        return _shares([weight / self.num_samples for weight in weights], activations)


def _shares(weights: list[Tensor], activations: list[Tensor]) -> list[Tensor]:
    """Weights ``[N, C]`` that add up to 1 over the channels of each sample."""
    return [W.view(*A.shape[:2]).softmax(-1) for W, A in zip(weights, activations, strict=True)]
