"""What a model is called with: one tensor, several, or keyword arguments; and which of them is the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["Images", "Inputs"]

Images = Tensor | Sequence[Any] | Mapping[str, Any]
"""A tensor ``[N, C, *size]``; a tuple or list, for ``model(*images)``; or a mapping, for ``model(**images)``."""


class Inputs(NamedTuple):
    """Arguments of one call of a model, and the image among them."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    image: Tensor  # [N, C, *size], the user's own tensor: what an overlay is drawn on

    @classmethod
    def of(cls, images: Images) -> Inputs:
        """Sorts ``images`` into arguments. The image is the first floating tensor of three or more dimensions.

        In a mapping, ``"pixel_values"`` is looked at first. Raises ``TypeError`` when there is no tensor, or only
        integer images, and ``ValueError`` when the rank is too low or the batch is empty.
        """
        if isinstance(images, Inputs):
            return images
        args: tuple[Any, ...]
        kwargs: dict[str, Any]
        if isinstance(images, Tensor):
            args, kwargs = (images,), {}
        elif isinstance(images, Mapping):
            args, kwargs = (), dict(images)
        elif isinstance(images, Sequence) and not isinstance(images, str):
            args, kwargs = tuple(images), {}
        else:
            raise TypeError(f"images must be a tensor, a sequence or a mapping of tensors, got {type(images).__name__}")
        named = [kwargs["pixel_values"]] if "pixel_values" in kwargs else []
        image = _image_among([value for value in (*named, *args, *kwargs.values()) if isinstance(value, Tensor)])
        return cls(args, kwargs, image)

    @property
    def batch(self) -> int:
        """Number of images."""
        return self.image.shape[0]

    def first(self) -> Inputs:
        """The same call for the first image alone."""
        return self.one(0)

    def one(self, index: int) -> Inputs:
        """The same call for one image alone."""
        image = self.image[index : index + 1]
        return Inputs(*self._mapped(lambda t: image if t is self.image else self._rows(t, index, index + 1)), image)

    def with_image(self, image: Tensor) -> Inputs:
        """The same call with another image tensor. When it has more images than one, a batch of one is repeated."""
        count = image.shape[0]

        def change(tensor: Tensor) -> Tensor:
            if tensor is self.image:
                return image
            if count != self.batch == 1 and tensor.ndim and tensor.shape[0] == 1:
                return tensor.expand(count, *tensor.shape[1:])
            return tensor

        return Inputs(*self._mapped(change), image)

    def _rows(self, tensor: Tensor, start: int, end: int) -> Tensor:
        return tensor[start:end] if tensor.ndim and tensor.shape[0] == self.batch else tensor

    def cut(self) -> Inputs:
        """The same call with tensors that carry no graph and were not made in inference mode."""
        return Inputs(*self._mapped(lambda t: t.clone() if t.is_inference() else t.detach()), self.image)

    def _mapped(self, change: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args = tuple(change(value) if isinstance(value, Tensor) else value for value in self.args)
        return args, {key: change(value) if isinstance(value, Tensor) else value for key, value in self.kwargs.items()}


def _image_among(tensors: list[Tensor]) -> Tensor:
    if not tensors:
        raise TypeError("images must hold at least one tensor [N, C, ...], got none")
    for tensor in tensors:
        if tensor.is_floating_point() and tensor.ndim >= 3:
            if tensor.shape[0] == 0:
                raise ValueError(f"expected at least one image, got an empty batch {list(tensor.shape)}")
            return tensor
    for tensor in tensors:
        if tensor.ndim >= 3:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise TypeError(f"float images expected, got {kind}; scale them as the model was trained")
    raise ValueError(f"images must have shape [N, C, H, W], [N, C, L] or [N, C, D, H, W], got {list(tensors[0].shape)}")
