"""What a model is called with: one tensor, several, nested lists and dicts, keyword arguments; and which is the image."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

__all__ = ["Images", "Inputs", "default_dtype", "input_errors"]

Images = Tensor | Sequence[Any] | Mapping[str, Any]
"""A tensor ``[N, C, *size]``; a tuple or list, for ``model(*images)``; or a mapping, for ``model(**images)`` or, where the
model takes no such names, ``model(images)``. A list of images ``[C, H, W]`` of any sizes is one argument, as of detectors."""

_IMAGE = object()  # stands for the image in the items of an _ImageList


class _ImageList:
    """A list of images, each of its own size: what detectors take. ``items`` have ``_IMAGE`` where the tensor is."""

    def __init__(self, items: list[Any], sizes: list[tuple[int, ...]]) -> None:
        self.items, self.sizes = items, sizes

    def filled(self, images: Tensor) -> list[Any]:
        """The list itself, of ``images`` ``[N, C, *size]``, each cut to its own size."""
        own = [image[tuple(map(slice, (len(image), *size)))] for image, size in zip(images, self.sizes, strict=True)]
        return [_swapped(item, _IMAGE, image) for item, image in zip(self.items, own, strict=True)]


class Inputs(NamedTuple):
    """Arguments of one call of a model, and the image among them."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    image: Tensor  # [N, C, *size], the user's own tensor where there is one: what an overlay is drawn on
    shared: tuple[Tensor, ...] = ()  # tensors that are the same for every image, though they have as many rows

    @classmethod
    def of(cls, images: Images, model: nn.Module | None = None) -> Inputs:
        """Sorts ``images`` into arguments of ``model``.

        The image is the first floating tensor of three or more dimensions, however deep, ``"pixel_values"`` before
        others; else the first uint8 tensor of as many, for models that scale inside; else a signal ``[N, L]``. Raises
        ``TypeError`` when there is no tensor, or no image among them, and ``ValueError`` when the rank is too low or the
        batch is empty.
        """
        if isinstance(images, Inputs):
            return images
        if isinstance(images, Tensor):
            return cls((images,), {}, _image_among([images]))
        args: tuple[Any, ...]
        kwargs: dict[str, Any]
        if isinstance(images, Mapping):
            args, kwargs = _of_mapping(images, model)
        elif isinstance(images, Sequence) and not isinstance(images, str):
            args, kwargs = _of_sequence(images, model), {}
        else:
            raise TypeError(f"images must be a tensor, a sequence or a mapping of tensors, got {type(images).__name__}")
        listed = _first_list(args, _unbatched(model))
        if listed is not None:
            place, entries = listed
            image_list, image = _stacked(entries, _unbatched(model))
            return cls((*args[:place], image_list, *args[place + 1 :]), kwargs, image)
        named = [value for key, value in _named_leaves((args, kwargs)) if key == "pixel_values"]
        leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        return cls(args, kwargs, _image_among([*named, *leaves]))

    @property
    def batch(self) -> int:
        """Number of images."""
        return self.image.shape[0]

    @property
    def sizes(self) -> list[tuple[int, ...]] | None:
        """The size of each image, where they came as a list; None where they are one tensor."""
        return next((value.sizes for value in self.args if isinstance(value, _ImageList)), None)

    @property
    def is_image(self) -> bool:
        """Whether the image is the one argument: the usual call, which needs no look through trees of arguments."""
        return len(self.args) == 1 and self.args[0] is self.image and not self.kwargs

    def images(self) -> list[Tensor]:
        """Every tensor among the arguments that could be an image: as many dimensions and images as the image."""
        if self.is_image:
            return [self.image]
        fits = lambda t: t.dtype == self.image.dtype and t.ndim == self.image.ndim and len(t) == self.batch  # noqa: E731
        leaves = [
            leaf for leaf in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor) and fits(leaf)
        ]
        return [self.image] if self.sizes is not None else list({id(leaf): leaf for leaf in leaves}.values())

    def beside(self) -> list[Tensor]:
        """The tensors, besides the image, that have a row per image, as far as their shape tells."""
        if self.is_image:
            return []
        leaves = pytree.tree_leaves((self.args, self.kwargs))
        rows = [t for t in leaves if isinstance(t, Tensor) and t is not self.image and t.ndim and len(t) == self.batch]
        return list({id(leaf): leaf for leaf in rows}.values())

    def sharing(self, tensors: Sequence[Tensor]) -> Inputs:
        """The same call with ``tensors`` known to be the same for every image."""
        return self._replace(shared=tuple(tensors))

    def about(self, image: Tensor) -> Inputs:
        """The same call with another of its own tensors as the image."""
        return self._replace(image=image)

    def first(self) -> Inputs:
        """The same call for the first image alone."""
        return self.one(0)

    def one(self, index: int) -> Inputs:
        """The same call for one image alone."""
        image = self.image[index : index + 1]
        rows = self._mapped(
            lambda t: image if t is self.image else self._rows(t, index, index + 1),
            lambda items: _ImageList(items.items[index : index + 1], items.sizes[index : index + 1]),
        )
        return Inputs(*rows, image, self.shared)

    def with_image(self, image: Tensor) -> Inputs:
        """The same call with another image tensor. When it has more images than one, a batch of one is repeated."""
        count = image.shape[0]

        def change(tensor: Tensor) -> Tensor:
            if tensor is self.image:
                return image
            if count != self.batch == 1 and tensor.ndim and tensor.shape[0] == 1 and not self._is_shared(tensor):
                return tensor.expand(count, *tensor.shape[1:])
            return tensor

        def repeat(items: _ImageList) -> _ImageList:
            times = count if count != self.batch == 1 else 1
            return _ImageList(items.items * times, items.sizes * times)

        return Inputs(*self._mapped(change, repeat), image, self.shared)

    def _is_shared(self, tensor: Tensor) -> bool:
        return any(tensor is own for own in self.shared)

    def _rows(self, tensor: Tensor, start: int, end: int) -> Tensor:
        per_image = tensor.ndim and tensor.shape[0] == self.batch and not self._is_shared(tensor)
        return tensor[start:end] if per_image else tensor

    def cut(self) -> Inputs:
        """The call as the model takes it: lists of images as lists, tensors without a graph and of no inference mode."""
        plain = lambda t: t.clone() if t.is_inference() else t.detach()  # noqa: E731
        return Inputs(*self._mapped(plain, lambda items: items.filled(plain(self.image))), self.image)

    def whole(self) -> Inputs:
        """The call as the model takes it, tensors with the graph that they have."""
        return Inputs(*self._mapped(lambda t: t, lambda items: items.filled(self.image)), self.image)

    def _mapped(
        self, change: Callable[[Tensor], Tensor], listed: Callable[[_ImageList], Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self.is_image:
            return (change(self.image),), {}

        def leaf(value: Any) -> Any:
            if isinstance(value, Tensor):
                return change(value)
            return listed(value) if isinstance(value, _ImageList) else value

        return _replaced(self.args, leaf), _replaced(self.kwargs, leaf)


def _replaced(tree: Any, change: Callable[[Any], Any]) -> Any:
    return pytree.tree_map(change, tree)


def _swapped(tree: Any, old: Any, new: Any) -> Any:
    """``tree`` with ``new`` in place of ``old``."""
    return _replaced(tree, lambda leaf: new if leaf is old else leaf)


def _of_mapping(images: Mapping[str, Any], model: nn.Module | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """As keyword arguments where the model takes these names, else as its one argument."""
    parameters = _parameters(model)
    if parameters is None:
        return (), dict(images)
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if any_name or set(images) <= names:
        return (), dict(images)
    if len(_needed(parameters)) <= 1 and _positional(parameters) and not set(images) & names:
        return (images,), {}
    unknown = ", ".join(repr(name) for name in images if name not in names)
    raise TypeError(
        f"{type(model).__name__} takes {', '.join(map(repr, sorted(names))) or 'no named arguments'}, got {unknown}; pass "
        "(images,) if it takes one dict"
    )


def _of_sequence(images: Sequence[Any], model: nn.Module | None) -> tuple[Any, ...]:
    """As positional arguments, or, for a list of single images, as the one argument of a model that takes a list."""
    rank = _unbatched(model)
    unbatched = isinstance(images, list) and len(images) > 0 and all(_image_in(i, rank) is not None for i in images)
    if unbatched:
        parameters = _positional(_parameters(model) or [])
        wants_list = any(word in str(p.annotation).lower() for p in parameters[:1] for word in ("list", "sequence"))
        wants_list = wants_list or [p.name for p in parameters] == ["images", "targets"]  # torchvision's detectors
        needed = len(_needed(parameters))
        if (
            wants_list
            or isinstance(images[0], Mapping)
            or (model is not None and needed != len(images) and needed <= 1)
        ):
            return (images,)
    return tuple(images)


def _parameters(model: nn.Module | None) -> list[inspect.Parameter] | None:
    """The parameters of the model's forward, or of what it wraps; None where they cannot be told."""
    if model is None:
        return None
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return None
    inside = list(model.children())
    if len(inside) == 1 and {p.kind for p in parameters} == {
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.VAR_KEYWORD,
    }:
        return _parameters(inside[0])  # handed on as they are
    return parameters


def _positional(parameters: Sequence[inspect.Parameter]) -> list[inspect.Parameter]:
    return [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]


def _needed(parameters: Sequence[inspect.Parameter]) -> list[inspect.Parameter]:
    return [p for p in _positional(parameters) if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]


def _unbatched(model: nn.Module | None) -> int:
    """The dimensions of one image alone: those of the model's first convolution; 3 where there is none."""
    modules = () if model is None else model.modules()
    convolution = next((m for m in modules if isinstance(m, nn.modules.conv._ConvNd)), None)
    return 3 if convolution is None else convolution.weight.ndim - 1


def _image_in(item: Any, rank: int) -> Tensor | None:
    """The image ``[C, *size]`` of an entry of a list: the entry itself, or the first such tensor of a dict."""
    if isinstance(item, Tensor):
        return item if item.ndim == rank else None
    if isinstance(item, Mapping):
        return next((value for value in item.values() if isinstance(value, Tensor) and value.ndim == rank), None)
    return None


def _first_list(args: tuple[Any, ...], rank: int) -> tuple[int, list[Any]] | None:
    """Where a list of images is among the arguments, and the list."""
    for place, value in enumerate(args):
        if isinstance(value, list) and value and all(_image_in(item, rank) is not None for item in value):
            return place, value
    return None


def _stacked(entries: list[Any], rank: int) -> tuple[_ImageList, Tensor]:
    """A list of images as a template, and the images in one tensor, smaller ones with zeros behind them."""
    images = [_image_in(entry, rank) for entry in entries]
    found = [image for image in images if image is not None]
    if len({(image.shape[0], image.dtype, image.device) for image in found}) > 1:
        raise ValueError(
            "images of one list must have the same channels, dtype and device, got "
            + ", ".join(f"{list(image.shape)} of {image.dtype}" for image in found[:4])
        )
    items = [_swapped(entry, image, _IMAGE) for entry, image in zip(entries, found, strict=True)]
    sizes = [tuple(image.shape[1:]) for image in found]
    whole = [max(lengths) for lengths in zip(*sizes, strict=True)]
    padded = []
    for image, size in zip(found, sizes, strict=True):
        behind = [(0, most - own) for own, most in zip(size, whole, strict=True)]
        padded.append(F.pad(image, [pad for pair in reversed(behind) for pad in pair]))
    return _ImageList(items, sizes), torch.stack(padded)


def _named_leaves(tree: Any, name: Any = None) -> Iterator[tuple[Any, Tensor]]:
    """Tensors with the key under which they lie, outermost mappings first."""
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _named_leaves(value, key)
    elif isinstance(tree, (tuple, list)):
        for value in tree:
            yield from _named_leaves(value, name)


def _image_among(tensors: list[Tensor]) -> Tensor:
    if not tensors:
        raise TypeError("images must hold at least one tensor [N, C, ...], got none")
    fits: list[Callable[[Tensor], bool]] = [
        lambda t: t.is_floating_point() and t.ndim >= 3,
        lambda t: t.dtype == torch.uint8 and t.ndim >= 3,
        lambda t: not t.is_complex() and t.dtype != torch.bool and t.ndim >= 4,
        lambda t: t.is_floating_point() and t.ndim == 2 and t.shape[1] > 1,
    ]
    for fit in fits:
        image = next(filter(fit, tensors), None)
        if image is not None:
            if image.shape[0] == 0:
                raise ValueError(f"expected at least one image, got an empty batch {list(image.shape)}")
            return image
    raise ValueError(f"images must have shape [N, C, H, W], [N, C, L] or [N, C, D, H, W], got {list(tensors[0].shape)}")


def default_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype of the heatmaps made from ``tensor``: fp64 for fp64, fp32 for the rest."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


@contextlib.contextmanager
def input_errors(model: nn.Module, inputs: Inputs) -> Iterator[None]:
    """Errors of integer images, of images and weights of two dtypes, and of an image without a batch dimension, say so."""
    try:
        yield
    except Exception as error:
        if isinstance(error, RuntimeError) and not inputs.image.is_floating_point():
            kind = str(inputs.image.dtype).removeprefix("torch.")
            raise TypeError(f"float images expected, got {kind}; scale them as the model was trained") from error
        wanted = next((p.dtype for p in model.parameters() if p.is_floating_point()), inputs.image.dtype)
        if isinstance(error, RuntimeError) and wanted != inputs.image.dtype and "type" in str(error):
            came = str(inputs.image.dtype).removeprefix("torch.")
            raise TypeError(
                f"expected {str(wanted).removeprefix('torch.')} images, as the model's weights are, got {came}; "
                f"images.to({wanted}) converts them"
            ) from error
        convolution = next((m for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd)), None)
        if convolution is None or inputs.image.ndim != convolution.weight.ndim - 1:
            raise
        dims = ", ".join(["N", "C", "D", "H", "W"] if inputs.image.ndim == 4 else ["N", "C", "H", "W"])
        raise ValueError(
            f"expected a batch [{dims}], got {list(inputs.image.shape)}; add a dimension: images[None]"
        ) from error
