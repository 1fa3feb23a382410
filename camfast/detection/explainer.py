"""Explains a detector's boxes: one pass, one batched backward pass of the head, a heatmap for each box.

images -> trunk (no graph) -> levels /8 /16 /32 (leaves) -> head (graph) -> candidates -> boxes that are kept
                                 |                                                            |
                                 +--- gradients [K, N, C, h, w] of K boxes of each image -----+
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..methods.gradient import GradientExplainer
from ..methods.registry import METHODS
from ..methods.signatures import NamesItsArguments
from ..model.bounded import Bounded
from ..model.inputs import input_errors
from ..model.layers import Layer, resolve
from ..model.layouts import Layout
from ..model.levels import find_levels, layout_of_level
from ..model.restored import thread_kept
from ..model.tap import NoGradient, Quirks, Tap, unwrapped
from ..model.untouched import quiet
from ..targets.names import ClassNames
from .candidates import Candidates, candidates_of
from .classes import Wanted, as_mapping, count_of, name_of, names_of, numbers_of
from .detections import Detections
from .heat import Fuse, Size, heat_of
from .inputs import Prepared, prepared
from .keep import Kept, kept_in
from .level_maps import CUT, LevelMaps
from .objectives import Explain, Objective, objective_of
from .whole import canvas_of, ordinary

__all__ = ["DetectionExplainer", "explain_detections"]

_GENERATOR = 20  # the seed of the weights by which the search adds up everything


class _Asked(NamedTuple):
    """What a call asks for."""

    keep: Callable[[Candidates], list[Kept]]
    size: Size
    top: int | None
    each: bool
    min_score: float


class DetectionExplainer(NamesItsArguments):
    """Explains the boxes of a detector: for each box that it keeps, a heatmap of what raised that box's class score.

    The model is left as it was after each call. What the detector returns is read by its form, see
    :mod:`camfast.detection.candidates`; any other form by a function (``candidates``).

    Args:
        model: the detector: torchvision's, ``YOLO(...).model`` of ultralytics, DETR and its kin, YOLOX, ...
        method: a method of activations and gradients, by its name in :data:`camfast.METHODS`.
        layers: the levels whose maps are explained, names or modules; None finds the maps that the head reads
            (:mod:`camfast.model.levels`).
        explain: ``"score"``: the box's class score; ``"quality"``: how sure the model is that there is any object, for
            models that say so; ``"mask"``: the mask of the instance, its mean inside itself.
        candidates: ``output -> Candidates``, or ``(boxes, scores)``: boxes ``[N, A, 4]`` (x0, y0, x1, y1 in pixels of the
            model's input) and probabilities ``[N, A, classes]`` with their graph, for outputs of no known form.
        class_names: names of the classes, in order or by number; None: those that the model has.
        prepare: makes the model's input of a list of photographs; an image processor of Hugging Face as well.
        image_size: the side of the square that photographs are fitted into, for models that say none.
        overlap: the intersection over union above which the lesser of two boxes of a class goes, where the model itself
            suppresses none.
        fuse: how the maps of several levels become one: ``"sum"`` or ``"max"`` (:mod:`camfast.detection.heat`).
        through: what a level's gradient takes in: ``"head"``: what the head read there, and where the method finds nothing
            positive in that, all of them; ``"levels"``: what a level gave to other levels as well, as the gradient through
            the whole network does.
        eval_mode: run in evaluation mode.

    Raises:
        TypeError: for something that is no module, or runs in TorchScript.
        ValueError: for a method or an option that there is not.
    """

    def __init__(
        self,
        model: nn.Module,
        method: str = "layer_cam",
        layers: Layer | Sequence[Layer] | None = None,
        *,
        explain: Explain = "score",
        candidates: Callable[[Any], Any] | None = None,
        class_names: ClassNames | None = None,
        prepare: Callable[..., Any] | None = None,
        image_size: int | None = None,
        overlap: float = 0.7,
        fuse: Fuse = "sum",
        through: Literal["head", "levels"] = "head",
        eval_mode: bool = True,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        if isinstance(model, torch.jit.ScriptModule):
            raise TypeError("model must run in Python, got a ScriptModule, whose layers cannot be tapped")
        for name, value, known in (
            ("method", method, [name for name, cls in METHODS.items() if issubclass(cls, GradientExplainer)]),
            ("explain", explain, ["score", "quality", "mask"]),
            ("fuse", fuse, ["sum", "max"]),
            ("through", through, ["head", "levels"]),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
        self.model = _network(unwrapped(model))
        self.method = method
        self.explain = explain
        self.names = as_mapping(class_names) or names_of(self.model)
        self.prepare = prepare
        self.image_size = image_size
        self.overlap = overlap
        self.fuse = fuse
        self.through = through
        self.eval_mode = eval_mode
        self._candidates = candidates
        self._counted = count_of(self.model, self.names)
        self._quirks = Quirks()
        self._names: list[str] = []
        self._modules: list[nn.Module] = []
        self._level_maps = LevelMaps(METHODS[method].op)  # type: ignore[attr-defined]
        self._ordinary = False  # whether tensors that the model keeps were made in inference mode
        if layers is not None:
            self._names, self._modules = resolve(self.model, layers)
        self._named = layers is not None
        self._searched: dict[torch.Size, bool] = Bounded()  # sizes of images that levels were looked for in

    @property
    def layers(self) -> list[str]:
        """Names of the levels in use, the finest first; empty until the first call that finds a box."""
        return list(self._names)

    @thread_kept
    def __call__(
        self,
        images: Any,
        classes: Wanted = None,
        min_score: float = 0.25,
        top: int | None = 16,
        size: Size = None,
        each: bool = True,
    ) -> Detections:
        """The boxes that the detector keeps in ``images``, and a heatmap of each.

        Args:
            images: float ``[N, 3, H, W]`` as the model takes it; a list of ``[3, H, W]``, of any sizes for models that take
                lists; photographs: uint8 ``[H, W, 3]`` arrays or PIL images, one or a list, which are prepared here; or the
                model's arguments, as for :class:`camfast.Explainer`.
            classes: only boxes of this class or of these, names or numbers.
            min_score: only boxes that score more. The model's own threshold counts too.
            top: at most so many boxes an image, the best ones; None: at most 300.
            size: of the heatmaps: None for that of each image, ``"map"`` for the finest level's own, an int, or height and
                width.
            each: False explains a class as a whole, the sum over its boxes that are kept: one map a class, with the box
                around all of them and the best of their scores.

        Returns:
            :class:`camfast.Detections`; an image without a box has none, which is no error.

        Raises:
            TypeError: images or an output of an unknown kind.
            ValueError: images that do not fit, an unknown class, a detector without a gradient.
        """
        if not 0 <= min_score <= 1:
            raise ValueError(f"min_score must be from 0 to 1, got {min_score!r}")
        if top is not None and (not isinstance(top, int) or top < 1):
            raise ValueError(f"top must be a number of boxes, 1 or more, or None, got {top!r}")
        wanted = numbers_of(classes, self.names, self._counted)
        source = prepared(images, self.model, self.prepare, self.image_size)

        def keep(candidates: Candidates) -> list[Kept]:
            many = range(len(source.places))
            return [kept_in(candidates, i, wanted, min_score, top, self.overlap) for i in many]

        if not self._names:
            kept, candidates = self._looked(source, keep)
            first = next((i for i, boxes in enumerate(kept) if len(boxes)), None)
            if first is None:
                return self._result(source, candidates, [Objective.none(boxes) for boxes in kept], None, min_score)
            self._find(source.one(first))
        return self._explained(source, _Asked(keep, size, top, each, min_score))

    # The steps of a call.

    def _looked(self, source: Prepared, keep: Callable[[Candidates], list[Kept]]) -> tuple[list[Kept], Candidates]:
        """What is kept, by a pass without a graph."""
        inputs = source.inputs.cut()
        with quiet(self.model, self.eval_mode), torch.no_grad(), input_errors(self.model, source.inputs):
            candidates = self._read(self.model(*inputs.args, **inputs.kwargs), source)
        return keep(candidates), candidates

    def _find(self, source: Prepared) -> None:
        """Finds the levels, by one image in which there is a box."""

        def objectives(output: Any) -> tuple[Tensor, Tensor | None, Tensor]:
            candidates = self._read(output, source)
            boxes = candidates.boxes[0]
            return _sum(candidates.everything(0)), _sum(boxes) if boxes.requires_grad else None, boxes

        with self._kept_ordinary():
            names = self._tried(lambda: find_levels(self.model, source.inputs, objectives))
        self._names, self._modules = resolve(self.model, names)
        self._level_maps.forget()
        self._searched[source.inputs.image.shape[1:]] = True

    def _explained(self, source: Prepared, asked: _Asked) -> Detections:
        """By one pass; by two where a larger image turns out to have more levels."""
        with self._kept_ordinary():
            result = self._tried(lambda: self._pass(source, asked))
            return self._tried(lambda: self._pass(source, asked)) if result is None else result

    def _pass(self, source: Prepared, asked: _Asked, graph: bool = False) -> Detections | None:
        alone = asked.each and self.explain == "score" and self.through == "head"
        graph = graph or not alone or self._level_maps.needs_graph
        tap = Tap(
            self.model, self._modules, names=self._names, graph=graph, eval_mode=self.eval_mode, quirks=self._quirks
        )
        tap.separate = self.through == "head"
        watch = self._level_maps.watch(self.model, self._modules) if graph and alone else contextlib.nullcontext()
        with tap:
            with watch as calls, canvas_of(self.model, source) as canvas, input_errors(self.model, source.inputs):
                output = tap.run(source.inputs)
            with torch.enable_grad():
                candidates = self._read(output, source)
                found = [
                    objective_of(candidates, i, boxes, self.explain, asked.each, place)
                    for i, (boxes, place) in enumerate(zip(asked.keep(candidates), source.places, strict=True))
                ]
            if not any(len(one) for one in found):
                return self._result(source, candidates, found, None, asked.min_score)
            layouts = self._layouts(tap, source)
            room = len(found) * (asked.top or max(map(len, found)))
            maps = self._level_maps(tap, layouts, found, room, calls)
        if maps is None:
            return self._pass(source, asked, graph=True)
        blank = _without_heat(found, maps)
        if blank and self._has_more_levels(source, blank):
            return None
        heat = []
        for i, one in enumerate(found):
            place, whole = canvas.of(i)
            heat.append(heat_of([level[i, : len(one)] for level in maps], place, whole, self.fuse, asked.size))
        return self._result(source, candidates, found, heat, asked.min_score)

    def _has_more_levels(self, source: Prepared, images: list[int]) -> bool:
        """Whether a search by one of ``images``, of a size in which none was made, finds further levels: larger ones have more."""
        size = source.inputs.image.shape[1:]
        if self._named or size in self._searched:
            return False
        before, modules = self._names, self._modules
        self._find(source.one(images[0]))
        if len(self._names) > len(before):
            return True
        self._names, self._modules = before, modules
        return False

    def _layouts(self, tap: Tap, source: Prepared) -> list[Layout]:
        layers = zip(self._names, self._modules, tap.activations, strict=True)
        return [
            layout_of_level(self.model, module, name, A, source.inputs, self.eval_mode) for name, module, A in layers
        ]

    def _read(self, output: Any, source: Prepared) -> Candidates:
        if self._candidates is not None:
            return Candidates.of(self._candidates(output))
        return candidates_of(output, source.sizes, self._counted)

    def _result(
        self,
        source: Prepared,
        candidates: Candidates,
        found: list[Objective],
        heat: list[Tensor] | None,
        min_score: float,
    ) -> Detections:
        names = self.names if candidates.named else None
        boxes = [place.boxes(one.boxes) for place, one in zip(source.places, found, strict=True)]
        if heat is None:
            device = source.inputs.image.device
            heat = [torch.zeros(0, *place.size, device=device) for place in source.places]
        masks = [one.masks for one in found]
        return Detections(
            boxes=boxes,
            labels=[one.labels for one in found],
            scores=[one.scores for one in found],
            heatmaps=heat,
            names=[[name_of(int(label), names) for label in one.labels] for one in found],
            masks=[mask for mask in masks if mask is not None] if all(m is not None for m in masks) else None,
            layers=self.layers,
            method=self.method,
            images=source.frames,
            min_score=min_score,
        )

    @contextlib.contextmanager
    def _kept_ordinary(self) -> Iterator[None]:
        with ordinary(self.model) if self._ordinary else contextlib.nullcontext():
            yield

    def _tried(self, work: Callable[[], Any]) -> Any:
        """``work``, once more with ordinary copies of what the model kept of a pass in inference mode."""
        try:
            return work()
        except NoGradient as error:
            raise NoGradient(CUT) from error
        except RuntimeError as error:
            if "modified by an inplace operation" in str(error):
                raise ValueError(
                    f"expected a detector whose head leaves its maps as they are, got {type(self.model).__name__}, which "
                    "changes a map in place that a gradient needs; name its levels by layers="
                ) from error
            if "nference tensor" not in str(error) or self._ordinary:
                raise
        self._ordinary = True
        with self._kept_ordinary():
            return work()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__}, {self.method!r}, layers={self._names})"


def _without_heat(found: Sequence[Objective], maps: Sequence[Tensor]) -> list[int]:
    """The images in which a box has no heat at any level."""
    heated = [
        torch.stack([level[i, : len(one)].flatten(1).any(1) for level in maps]).any(0) for i, one in enumerate(found)
    ]
    return [i for i, boxes in enumerate(heated) if not bool(boxes.all())]


def _sum(values: Tensor) -> Tensor:
    """All of ``values``, each with a weight of its own, so that sums which are always 1 have a gradient."""
    generator = torch.Generator().manual_seed(_GENERATOR)
    weights = torch.rand(values.shape, generator=generator).add_(0.5).to(values)
    return (values * weights).sum()


def _network(model: nn.Module) -> nn.Module:
    """The network itself, of an object that runs and trains one (``ultralytics.YOLO``)."""
    inner = getattr(model, "model", None)
    return inner if isinstance(inner, nn.Module) and hasattr(model, "predictor") else model


def explain_detections(
    model: nn.Module,
    images: Any,
    classes: Wanted = None,
    min_score: float = 0.25,
    top: int | None = 16,
    method: str = "layer_cam",
    layers: Layer | Sequence[Layer] | None = None,
    size: Size = None,
    each: bool = True,
    **options: Any,
) -> Detections:
    """Why is this box here? The boxes that a detector keeps in ``images``, each with a heatmap of what raised its score.

    ``model``, ``method``, ``layers`` and the options are those of :class:`camfast.DetectionExplainer`; the others those of
    its call. For many calls on one model, make an explainer of the class and keep it.
    """
    explainer = DetectionExplainer(model, method, layers, **options)
    return explainer(images, classes, min_score, top, size, each)


explain_detections.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [p for p in inspect.signature(explain_detections).parameters.values() if p.kind is not p.VAR_KEYWORD]
    + [p for p in inspect.signature(DetectionExplainer).parameters.values() if p.kind is p.KEYWORD_ONLY],
    return_annotation="Detections",
)
