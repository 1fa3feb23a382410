"""FullGrad: what the input and every bias contribute to a score."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .. import ops
from ..model.inputs import Images
from ..model.precision import wide, wide_dtype
from ..model.restored import Restored
from ..ops import reference
from ..targets import Targets
from .explainer import Explainer, Needs, Options, Size
from .explanation import Explanation
from .image_pass import image_pass
from .layer_map import LayerMaps, SummedMap
from .ranges import Normalize
from .registry import register

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["FullGrad", "bias_of", "full_grad", "has_bias"]

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

    def __init__(self, model: nn.Module, layers: None = None, **options: Unpack[Options]) -> None:
        super().__init__(model, layers, **options)

    def explain(self, images: Images, targets: Targets, size: Size, normalize: Normalize) -> Explanation:
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
        found = LayerMaps(inputs, run.chosen, [SummedMap.of(inputs.image, stacked)])
        return self.result(found, None if size == "map" else size, normalize)


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
        with Restored() as restored:
            for module in model.modules():
                if has_bias(module):
                    restored.hook(module, self._watch)
            yield

    def collected(self) -> Tensor:
        """The sum ``[N, *size]`` of the last backward pass."""
        size = self.image.shape[2:]
        total = torch.zeros(self.image.shape[0], *size, dtype=wide_dtype(self.image), device=self.image.device)
        for own in self._sums.values():  # resizing is linear, so that one resize serves all maps of a size
            total = total + reference.resize(own, size)
        self._sums.clear()
        return total

    def add(self, product: Tensor, scale: Tensor | None = None) -> None:
        """Adds ``scale`` ``[C]`` times ``product`` ``[N, C, *map]``, each channel's absolute value from 0 to 1."""
        values = wide(product)
        own = _scaled_sum(values.abs(), None if scale is None else scale.to(values).abs())
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
