"""What every metric that asks the model begins with: heat that belongs to targets, and scores of changed images."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..methods.chosen import choose, scores_for
from ..methods.explanation import Explanation
from ..methods.scoring import counted, images_fitting
from ..model.class_axis import Classes
from ..model.inputs import Images, Inputs, input_errors
from ..model.outputs import scores_of
from ..model.tap import unwrapped
from ..model.untouched import quiet
from ..targets import ClassNames, Targets
from .heat import Heat, planes_of

__all__ = ["Score", "Scored"]

Score = Literal["probability", "output"]
"""What counts of a class: its softmax probability, or the score as the model gives it. A callable target counts as it is."""


class Scored:
    """A model, its images, what is explained of them and the heat; scores changed images in batches.

    A *pair* is an image and one of its targets: P = N, or N * K for K targets an image. The model is left as it was.

    Args:
        model: as explainers take it.
        images: ``[N, C, *size]``, or what else explainers take.
        heat: an :class:`~camfast.Explanation`, or a tensor ``[N, *size]`` or ``[N, K, *size]``.
        targets: as explainers take them; None: the explanation's own, or each image's top class.
        score: what counts of a class.
        batch_size: changed images per pass; None: as many as fit.
        class_names: for targets by name; None: the explanation's.

    Raises:
        TypeError: for images, heat or targets of a wrong type.
        ValueError: for what does not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        heat: Heat,
        targets: Targets = None,
        *,
        score: Score = "probability",
        batch_size: int | None = None,
        class_names: ClassNames | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        if score not in get_args(Score):
            raise ValueError(f"score must be 'probability' or 'output', got {score!r}")
        self.model, self.score = unwrapped(model), score
        self.inputs = Inputs.of(images, self.model)
        self.images = self.inputs.image.detach()
        if isinstance(heat, Explanation):
            targets = heat.targets if targets is None else targets
            class_names = heat.class_names if class_names is None else class_names  # type: ignore[assignment]
        self.heat, self.known, self.per_image = planes_of(heat, self.images)
        if self.per_image is not None and targets is None:
            raise ValueError(f"targets must say what the {self.per_image} maps of each image explain, got none")
        self.batch_size = counted(batch_size, "batch_size") or images_fitting(self.images[:1])
        output = self._outputs()
        scores = scores_for(targets, output, len(self.images))
        self.chosen = choose(targets, scores, class_names, output, Classes(None, self.model, self.inputs))
        if self.chosen.per_image != self.per_image:
            wanted = "one target" if self.per_image is None else f"{self.per_image} targets"
            got = "one" if self.chosen.per_image is None else str(self.chosen.per_image)
            raise ValueError(f"expected {wanted} an image for heat {list(self.shape_of(self.heat))}, got {got}")
        K = self.per_image or 1
        every = torch.arange(len(self.images) * K, device=self.images.device)
        self.image_of, self.column_of = every // K, every % K
        every = torch.arange(len(self.images), device=self.images.device)
        own = [self._values(output, every, torch.full_like(every, k)) for k in range(K)]
        self.own = torch.stack(own, 1).flatten()

    @property
    def pairs(self) -> int:
        """How many pairs of an image and a target there are."""
        return len(self.image_of)

    def shape_of(self, values: Tensor) -> torch.Size:
        """The shape of ``values`` ``[P, ...]`` as ``[N, ...]`` or ``[N, K, ...]``."""
        return values.shape if self.per_image is None else values.unflatten(0, (-1, self.per_image)).shape

    def shaped(self, values: Tensor) -> Tensor:
        """``values`` ``[P, ...]`` as ``[N, ...]`` or ``[N, K, ...]``, NaN where the heat is not finite."""
        known = self.known.reshape(-1, *(1,) * (values.ndim - 1))
        return values.where(known, torch.nan).reshape(self.shape_of(values))

    def scores(self, pairs: Tensor, changed: Callable[[Tensor], Tensor]) -> Tensor:
        """Scores of changed images, ``[B]``.

        Args:
            pairs: int64 ``[B]``, the pair that each changed image belongs to.
            changed: gives those images of which it is given the indices into ``pairs``, ``[b, C, *size]``.
        """
        found = pairs.new_empty(len(pairs), dtype=self.own.dtype)
        for part in self._parts(pairs):
            own = pairs[part]
            images, columns = self.image_of[own], self.column_of[own]
            output = self._outputs(self._laid_out(changed(part)), None if self.inputs.is_image else int(images[0]))
            found[part] = self._values(output, images, columns)
        return found

    @functools.cached_property
    def masked(self) -> Tensor:
        """Scores ``[P]`` of the images times their heat."""
        heat = self.heat.unsqueeze(1).to(self.images.dtype)
        every = torch.arange(self.pairs, device=self.images.device)
        return self.scores(every, lambda part: self.images[self.image_of[part]] * heat[part])

    def _parts(self, pairs: Tensor) -> Iterator[Tensor]:
        """Indices into ``pairs`` of one pass each: of one image where the model takes more than images."""
        every = torch.arange(len(pairs), device=pairs.device)
        if self.inputs.is_image:
            yield from every.split(self.batch_size)
            return
        images = self.image_of[pairs]
        for image in images.unique():
            yield from every[images == image].split(self.batch_size)

    def _outputs(self, images: Tensor | None = None, of: int | None = None) -> Any:
        """What the model returns for changed ``images``, those of the image ``of``; without any for the call itself."""
        inputs = self.inputs if of is None else self.inputs.one(of)
        inputs = inputs if images is None else inputs.with_image(images)
        inputs = inputs.cut()
        with quiet(self.model), torch.no_grad(), input_errors(self.model, inputs):
            return self.model(*inputs.args, **inputs.kwargs)

    def _values(self, output: Any, images: Tensor, columns: Tensor) -> Tensor:
        """Of each row of ``output``, that of an image and one of its targets, the target's score: ``[B]``."""
        count = len(images)
        if self.score == "probability" and isinstance(self.chosen.targets, Tensor):
            if scores_of(output, count).shape[1:2] == (1,):
                raise ValueError("a single score has no softmax probability; score='output' takes it as it is")
            output = self.chosen.softmax(output, count)
        return self.chosen.values_of(images, columns, output)

    def _laid_out(self, images: Tensor) -> Tensor:
        """In the memory format in which convolutions are fastest on the CPU."""
        convolves = images.ndim == 4 and images.device.type == "cpu" and self._convolves
        return images.contiguous(memory_format=torch.channels_last) if convolves else images

    @functools.cached_property
    def _convolves(self) -> bool:
        return any(isinstance(module, nn.Conv2d) for module in self.model.modules())
