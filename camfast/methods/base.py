"""What all methods share: one pass, targets, maps of the layers, one heatmap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from .. import layers as layers_
from .. import ops, reference
from ..explanation import Explanation
from ..inputs import Images, Inputs
from ..targets import Chosen, Targets, choose, scores_of
from ..taps import Quirks, Tap

__all__ = ["Explainer", "unwrapped"]

Size = int | Sequence[int] | Literal["map"] | None
Rule = Callable[..., Tensor]


class Explainer:
    """Explains ``model``: heatmaps of what in each image raised a score.

    The model is left as it was after each call: no hooks, no graph, no changed flags or buffers. Between calls nothing
    is registered on it, so several explainers, in several threads, may share one model.

    Args:
        model: any module that returns scores. ``torch.compile``d models are explained eagerly, data-parallel ones by
            the module they wrap.
        layers: the layer whose activations are explained: a dotted name, a module, or a list of either; None takes the
            last layer with a spatial map, found in a first pass over one image (see :attr:`layers`).
        reshape: turns the layer's output into ``[N, C, *map]``, for token layouts that are not recognised. It is
            applied to the gradients too, so it must only slice, reshape and permute.
        eval_mode: run in evaluation mode. False explains the model in the mode it is in.
        class_names: names of the classes, in the order of the scores: targets may then be names.
        fuse: how the maps of several layers become one: ``"mean"`` or ``"max"``.

    Raises ``TypeError`` for something that is no module, and ``ValueError`` for layers it does not have.
    """

    name: ClassVar[str]
    uses_gradients: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        layers: layers_.Layer | Sequence[layers_.Layer] | None = None,
        *,
        reshape: Callable[[Tensor], Tensor] | None = None,
        eval_mode: bool = True,
        class_names: Sequence[str] | None = None,
        fuse: Literal["mean", "max"] = "mean",
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        if reshape is not None and not callable(reshape):
            raise TypeError(f"reshape must be a callable, got {type(reshape).__name__}")
        if fuse not in ("mean", "max"):
            raise ValueError(f"fuse must be 'mean' or 'max', got {fuse!r}")
        self.model: nn.Module | None = unwrapped(model)
        self.reshape = reshape
        self.eval_mode = eval_mode
        self.class_names = class_names
        self.fuse = fuse
        self.quirks = Quirks()
        self._names = [] if layers is None else layers_.resolve(self.model, layers)[0]

    @property
    def layers(self) -> list[str]:
        """Names of the layers in use; empty until the first call has found one."""
        return list(self._names)

    def __call__(
        self, images: Images, targets: Targets = None, size: Size = None, normalize: bool = True
    ) -> Explanation:
        """Scores and heatmaps of ``images``.

        Args:
            images: float ``[N, C, H, W]`` (or ``[N, C, L]``, ``[N, C, D, H, W]``), scaled as the model was trained; a
                tuple for a model of several inputs, a dict for keyword arguments.
            targets: what to explain: None for each image's top class, a class for all images, one an image, a tensor
                ``[N]`` or ``[N, K]``, ``TopK(k)``, class names, or callables ``scores_of_one_image -> scalar``. A class
                of a segmentation model ``[N, classes, H, W]`` counts by the mean of its plane.
            size: size of the heatmap: None for that of the images, ``"map"`` for the layer's own (the largest of
                several), an int or a tuple.
            normalize: True gives values in [0, 1]: ReLU and min-max; False the raw map, signed where the method is.

        Returns an :class:`Explanation` whose heatmap is float32 (float64 for a model in float64) ``[N, H, W]``, or
        ``[N, K, H, W]`` for K targets an image, on the images' device. Where an image's activations or gradients are
        not finite its heatmap is NaN; the other images' are not affected.
        """
        inputs = Inputs.of(images)
        model = self._open_model()
        if not self._names:
            self._names = layers_.find_layers(model, inputs)
        names, modules = layers_.resolve(model, self._names)
        tap = Tap(
            model, modules, names=names, graph=self.uses_gradients, eval_mode=self.eval_mode, quirks=self.quirks
        )
        with tap:
            scores = scores_of(tap.run(inputs), inputs.batch)
            chosen = choose(targets, scores, self.class_names)
            maps = self.explain(tap, chosen, inputs)
        heatmap = self.finish(maps, size, normalize, inputs)
        return Explanation(
            heatmap=heatmap,
            scores=scores.detach(),
            targets=chosen.targets,
            layers=names,
            method=self.name,
            images=inputs.image,
            class_names=self.class_names,
        )

    def explain(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        """Each layer's map, still to be computed; the tap is open, so a method may run more passes."""
        raise NotImplementedError

    def to_grid(self, tensor: Tensor, inputs: Inputs) -> Tensor:
        if self.reshape is None:
            return tensor
        return self.reshape(tensor)

    def finish(self, maps, size, normalize, inputs):
        rank = maps[0].rank
        size = tuple(inputs.image.shape[-rank:]) if size is None else None if size == "map" else size
        return maps[0](size, normalize)

    def close(self) -> None:
        """Lets go of the model. Nothing is registered on it between calls, so this only drops references."""
        self.model = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__}, layers={self._names})"

    def _open_model(self) -> nn.Module:
        if self.model is None:
            raise RuntimeError("this explainer is closed")
        return self.model


class LayerMap:
    """The map of one layer: a rule of :mod:`camfast.ops` and its arguments."""

    def __init__(self, rule: Rule, activations: Tensor, weights: Tensor) -> None:
        self.rule = rule
        self.activations = activations
        self.weights = weights

    @property
    def rank(self) -> int:
        return self.activations.ndim - 2

    def __call__(self, size: Any, normalize: bool) -> Tensor:
        return self.rule(self.activations, self.weights, size, normalize)


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside ``torch.compile`` and data-parallel wrappers."""
    while True:
        if "_orig_mod" in model._modules:
            model = model._modules["_orig_mod"]
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model
