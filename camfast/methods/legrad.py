"""LeGrad: what a transformer's attention would do for a score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from .. import ops
from ..model.attention import blocks_with_attention, watch_attention
from ..model.inputs import Images, Inputs, input_errors
from ..model.layers import resolve
from ..model.outputs import replace_first, tensors_in
from ..model.replay import HeadReplay
from ..model.restored import Restored
from ..model.tap import is_map
from ..model.untouched import quiet
from ..targets import Targets
from .chosen import Chosen, choose
from .differentiable import check_differentiable
from .explainer import Explainer, Layers, largest
from .layer_explainer import LayerExplainer, LayerOptions
from .layer_map import LayerMap, LayerMaps, SummedMap
from .registry import register

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["LeGrad", "legrad"]


class LeGrad(LayerExplainer):
    """LeGrad: the positive gradient of a score with respect to each block's attention (Bousselham 2024, https://arxiv.org/abs/2404.03214).

    For each block, the mean of its output tokens goes through the model's own head; the gradient of that score with
    respect to the block's attention probabilities is cut off at 0 and averaged over heads and queries, and the blocks'
    maps are averaged. Equal to torchcam's where that has the model (torchvision's ViT). Attention is met wherever it
    runs, in fused kernels too, so that the ViTs of torchvision, timm and Hugging Face work as they are.

    ``layers`` are blocks; None takes every block that attends over all tokens of an image. ``score_projection``, a
    callable from a block's tokens ``[N, T, C]`` to scores ``[N, classes]``, may stand in for the model's own head.

    Raises ``ValueError`` for a model without such attention (a CNN, Swin's windows), and a layer that has none.
    """

    name: ClassVar[str] = "legrad"
    repeats: ClassVar[tuple[str, ...]] = ("graph",)
    smoothing: ClassVar[tuple[str, ...]] = ("aug_smooth",)

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = None,
        *,
        score_projection: Callable[[Tensor], Tensor] | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(model, layers, **options)
        if score_projection is not None and not callable(score_projection):
            raise TypeError(
                f"score_projection must be a callable [N, T, C] -> [N, classes], got {type(score_projection).__name__}"
            )
        self.score_projection = score_projection
        self._blocks: list[str] = []  # every block of the model
        self._checked = False

    def prepare(self, images: Images, targets: Targets = None) -> Inputs:
        """Checks the images and finds the blocks."""
        inputs = Explainer.prepare(self, images, targets)
        if not self._blocks:
            with quiet(self.model), input_errors(self.model, inputs):
                blocks = blocks_with_attention(self.model, inputs.first())
            if not blocks:
                raise ValueError(
                    f"LeGrad needs attention over all tokens of an image, got none in {type(self.model).__name__}"
                )
            if not self._names:
                self._names, self._modules = resolve(self.model, blocks)
            self._blocks = blocks
        return inputs

    def known_layers(self, targets: Targets) -> tuple[str, ...]:
        """Names of the blocks; empty where they are not found yet."""
        return tuple(self._names) if self._blocks else ()

    def layer_maps(self, images: Images, targets: Targets = None, *, differentiable: bool = False) -> LayerMaps:
        """The map of each block, which is not negative."""
        if differentiable:
            check_differentiable(self)
        inputs = self.prepare(images)
        with quiet(self.model, self.eval_mode):
            calls, head = self._recorded(inputs)
            chosen = choose(targets, head.scores, self.class_names, head.recorded, self.classes(inputs))
            maps: list[LayerMap] = []
            for call in calls:
                tokens, relevance = self._relevance(call, head, chosen, inputs)
                view = self.to_grid(tokens, inputs, call.name)
                each = [view(row.unsqueeze(-1)).squeeze(1) for row in relevance]
                maps.append(SummedMap.of(view(tokens), each[0] if chosen.per_image is None else torch.stack(each, 1)))
        return LayerMaps(inputs, chosen, maps)

    def combine(self, maps: Sequence[LayerMap], size: tuple[int, ...], normalize: bool) -> Tensor:
        """The blocks' maps as one, before it is resized and scaled."""
        own = largest(maps)
        return ops.resize_normalize(self.fused([layer(own, normalize=False) for layer in maps]), size, normalize)

    def _recorded(self, inputs: Inputs) -> tuple[list[_Call], HeadReplay]:
        """The calls of the blocks in one pass, and the head after the last of all blocks."""
        calls: list[_Call] = []
        with Restored() as restored:
            for name, module in zip(self._names, self._modules, strict=True):

                def note(module: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                    calls.append(_Call(name, module, args, kwargs))

                restored.hook(module, note, before=True, with_kwargs=True)
            (last,) = resolve(self.model, self._blocks[-1:])[1]
            head = HeadReplay(self.model, last, inputs, mode="single", graph=True)
        ran = {call.name for call in calls}
        idle = [name for name in self._names if name not in ran]
        if idle:
            raise ValueError(f"every layer must run in the model's forward pass, got no call of {idle[0]!r}")
        if not self._checked and self.eval_mode and self.score_projection is None:
            with torch.no_grad():
                again = head(head.activations)
            scale = float(head.scores.abs().nan_to_num(0, 0, 0).amax())
            if again.shape != head.scores.shape or not torch.allclose(
                again, head.scores, rtol=0, atol=2e-2 * max(scale, 1e-6), equal_nan=True
            ):
                raise ValueError(
                    f"LeGrad needs a head that runs alone after {self._blocks[-1]!r}, got other scores from it; pass "
                    "score_projection="
                )
            self._checked = True
        return calls, head

    def _relevance(self, call: _Call, head: HeadReplay, chosen: Chosen, inputs: Inputs) -> tuple[Tensor, list[Tensor]]:
        """A block's tokens, and for each target the relevance of each of them, in the tokens' layout without channels."""
        leaf: list[Tensor] = []

        def as_leaf(tensor: Tensor) -> Tensor:
            leaf.append(tensor.detach().requires_grad_())
            return leaf[-1]

        (args, kwargs), _ = replace_first((call.args, call.kwargs), is_map, as_leaf)
        with torch.enable_grad():
            with watch_attention() as attention:
                output = call.module(*args, **kwargs)
            tokens = next((t for t in tensors_in(output) if is_map(t)), None)
            if tokens is None or tokens.ndim != 3:
                got = "none" if tokens is None else str(list(tokens.shape))
                raise ValueError(f"a layer of LeGrad must return tokens [N, T, C], got {got} from {call.name!r}")
            dim = 1 if tokens.shape[0] == inputs.batch else 0
            found = [a for a in attention if a.keys == tokens.shape[dim] and a.tensor.requires_grad]
            if self.score_projection is not None:
                scores = self._projected(tokens, inputs.batch)
            else:
                scores = head(tokens.mean(dim, keepdim=True).expand_as(tokens).contiguous())
            each = [chosen] if chosen.per_image is None else [chosen.column(k) for k in range(chosen.per_image)]
            relevance = []
            for k, own in enumerate(each):
                outputs, seeds = Chosen(own.targets, scores).objective()
                gradients = (
                    torch.autograd.grad(
                        outputs, [a.tensor for a in found], seeds, retain_graph=k < len(each) - 1, allow_unused=True
                    )
                    if found
                    else ()
                )
                rows = [a.relevance(g, inputs.batch) for a, g in zip(found, gradients, strict=True) if g is not None]
                known = [row for row in rows if row is not None]
                if not known:
                    raise ValueError(
                        f"LeGrad needs attention over all tokens of an image in every layer, got none in {call.name!r}"
                    )
                mean = torch.stack(known).mean(0)  # [N, T]
                relevance.append(mean if dim == 1 else mean.t())
        return tokens.detach(), relevance

    def _projected(self, tokens: Tensor, batch: int) -> Tensor:
        assert self.score_projection is not None
        scores: Any = self.score_projection(tokens)
        if not isinstance(scores, Tensor) or scores.ndim != 2 or scores.shape[0] != batch:
            got = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(f"score_projection must return scores [{batch}, classes], got {got}")
        return scores


legrad = register(LeGrad)


class _Call(NamedTuple):
    """One call of a block in the recorded pass."""

    name: str
    module: nn.Module
    args: Any
    kwargs: Any
