"""FullGrad: what the input and every bias contribute to a score."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import ops
from ..model.inputs import Images, Inputs, default_dtype
from ..ops import reference
from ..targets import Targets
from .explainer import Explainer, LayerMap, Needs, Size
from .explanation import Explanation
from .image_pass import image_pass
from .registry import register

__all__ = ["FullGrad", "full_grad"]

_CONVOLUTIONS = (nn.modules.conv._ConvNd,)
_NORMS = (nn.modules.batchnorm._BatchNorm,)


class FullGrad(Explainer):
    """FullGrad: input times gradient and each bias times its gradient (Srinivas 2019, https://arxiv.org/abs/1905.00780).

    Biases are those of every convolution and batch norm that has one. The absolute value of each product is scaled
    to [0, 1] for each channel, resized to the image and summed over channels and layers. The bias of a batch norm
    is ``beta - mean * gamma / sqrt(variance + eps)``. All layers that run in the pass take part, so that none can
    be chosen; :attr:`layers` lists them. Gradients are reduced as the backward pass produces them, so that they are
    never all in memory.
    """

    name: ClassVar[str] = "full_grad"
    needs: ClassVar[Needs] = "image gradients"
    smoothing: ClassVar[tuple[str, ...]] = ("aug_smooth",)

    def __init__(self, model: nn.Module, layers: None = None, **options: Any) -> None:
        if layers is not None:
            raise ValueError(f"FullGrad explains by all layers with a bias, got layers={layers!r}; leave it out")
        super().__init__(model, None, **options)

    def prepare(self, images: Images, targets: Targets = None) -> Inputs:
        """Checks the images; layers are met during the pass."""
        if self._closed:
            raise RuntimeError(f"this {type(self).__name__} is closed")
        return Inputs.of(images, self.model)

    def explain(self, images: Images, targets: Targets, size: Size, normalize: bool) -> Explanation:
        """The call itself. ``size="map"`` is that of the images, and the raw map is not negative."""
        inputs = self.prepare(images)
        biases = _Biases(inputs.image)
        with biases.of(self.model), image_pass(self.model, inputs, targets, self.class_names, self.eval_mode) as run:
            maps = []
            for gradient in run.gradients():
                biases.add(run.image.detach() * gradient)
                maps.append(biases.collected())
        self._names = [name for name, module in self.model.named_modules() if module in biases.seen]
        stacked = maps[0] if run.chosen.per_image is None else torch.stack(maps, 1)
        if size == "map":
            size = None
        layer = LayerMap(_resized, inputs.image, stacked)
        return Explanation(
            heatmap=layer(self.output_size(size, [layer], inputs), normalize),
            scores=run.scores.detach(),
            targets=run.chosen.targets,
            layers=self.layers,
            method=self.name,
            images=inputs.image,
            class_names=self.class_names,
        )


full_grad = register(FullGrad)


class _Biases:
    """Sums the contributions of biases, as gradients of the layers' outputs come by in a backward pass."""

    def __init__(self, image: Tensor) -> None:
        self.image = image
        self.seen: set[nn.Module] = set()
        self._thread = threading.get_ident()
        self._sums: dict[torch.Size, Tensor] = {}  # by the size of the map

    @contextlib.contextmanager
    def of(self, model: nn.Module) -> Iterator[None]:
        """Watches the layers of ``model`` during one pass."""
        with contextlib.ExitStack() as stack:
            for module in model.modules():
                if has_bias(module):
                    stack.callback(module.register_forward_hook(self._watch).remove)
            yield

    def collected(self) -> Tensor:
        """The sum ``[N, *size]`` of the last backward pass."""
        size = self.image.shape[2:]
        total = torch.zeros(self.image.shape[0], *size, dtype=default_dtype(self.image), device=self.image.device)
        for own in self._sums.values():  # resizing is linear, so that one resize serves all maps of a size
            total = total + reference.resize(own, size)
        self._sums.clear()
        return total

    def add(self, product: Tensor, scale: Tensor | None = None) -> None:
        """Adds ``scale`` ``[C]`` times ``product`` ``[N, C, *map]``, each channel's absolute value from 0 to 1."""
        wide = product if product.dtype == torch.float64 else product.float()
        own = _scaled_sum(wide.abs(), None if scale is None else scale.to(wide).abs())
        size = own.shape[1:]
        self._sums[size] = own if size not in self._sums else self._sums[size] + own

    def _watch(self, module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() != self._thread or not isinstance(output, Tensor) or not output.requires_grad:
            return
        if output.ndim != self.image.ndim:
            return
        self.seen.add(module)
        bias = bias_of(module).detach()
        # Called with the gradient of what the layer returned, even when an operation in place follows.
        output.register_hook(lambda gradient: self.add(gradient.detach(), bias))


def has_bias(module: nn.Module) -> bool:
    """Whether ``module`` is a convolution or batch norm that adds something."""
    if isinstance(module, _NORMS) and module.running_mean is None:
        return False
    return isinstance(module, (*_CONVOLUTIONS, *_NORMS)) and module._parameters.get("bias") is not None


def bias_of(module: nn.Module) -> Tensor:
    """What a convolution adds to its output ``[C]``; what a batch norm adds to the scaled input."""
    bias = module.get_parameter("bias")
    if not isinstance(module, _NORMS):
        return bias
    assert module.running_mean is not None and module.running_var is not None
    return bias - module.running_mean * module.weight / torch.sqrt(module.running_var + module.eps)


def _scaled_sum(values: Tensor, scale: Tensor | None) -> Tensor:
    """``[N, *map]``: channels of ``scale * values`` ``[N, C, *map]``, each from 0 to 1, summed. Changes ``values``."""
    low, high = torch.aminmax(values.flatten(2), dim=2)
    factor = torch.ones_like(low) if scale is None else scale.expand_as(low)
    top = factor * (high - low)
    weights = torch.where(top.isfinite(), factor / (reference.RANGE_EPS + top), torch.nan)
    # The least value goes first: where a channel is nearly constant its weight is large and would magnify rounding.
    values -= low.reshape(*low.shape, *(1,) * (values.ndim - 2))
    return ops.cam(values, weights, normalize=False)


def _resized(_: Tensor, maps: Tensor, size: Any, normalize: bool) -> Tensor:
    return ops.resize_normalize(maps, tuple(maps.shape[-(_.ndim - 2) :]) if size is None else size, normalize)
