"""Methods against metrics on one model's images: a table, a chart, and the maps side by side."""

from __future__ import annotations

import base64
import contextlib
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..brief import Brief
from ..errors import DoubtWarning, closest, or_rather, reason
from ..losses.masks import Boxes, Masks
from ..methods.explainer import Explainer, Layers
from ..methods.explanation import Explanation
from ..methods.layer_explainer import LayerExplainer
from ..methods.registry import METHODS
from ..methods.scoring import counted, progress_bar
from ..ops.colormaps import ALPHA, COLORMAP
from ..pictures import photos
from ..pictures.frames import png_bytes
from ..targets import ClassNames, Targets
from .comparison_figure import comparison_figure
from .measures import METRICS, Measured, Metric
from .scores import Scored
from .table import Cell, Table

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Comparison", "compare"]

_USUAL = ("insertion", "deletion", "road", "average_drop", "average_increase", "adcc")
_AT_ONCE = 8  # images that are explained and measured together


@dataclass(repr=False)
class Comparison(Brief):
    """What :func:`camfast.compare` found.

    Attributes:
        table: means over all maps, with their standard errors; it prints itself, ``to_csv()`` writes it.
        values: by method and metric, a value per map, ``[N]`` or ``[N, K]``, on the CPU; NaN where it cannot be measured.
        results: each method's explanation of all images.
        skipped: methods that could not explain the model, and why.
    """

    table: Table
    values: dict[str, dict[str, Tensor]]
    results: dict[str, Explanation]
    skipped: dict[str, str]

    def figure(
        self, frames: Any = None, images: int = 4, colormap: str | Tensor = COLORMAP, alpha: float = ALPHA
    ) -> Image.Image:
        """The first ``images`` with each method's heat side by side, and below a chart per metric: a PIL image.

        ``frames``, ``colormap`` and ``alpha`` as in :meth:`camfast.Explanation.overlay`. Raises as that, and ``ImportError``
        without Pillow.
        """
        return comparison_figure(self.table, self.results, frames, images, colormap, alpha)

    def save(self, path: str | PathLike[str], frames: Any = None, images: int = 4) -> Path:
        """Writes the :meth:`figure`; the suffix tells the format."""
        return photos.write(self.figure(frames, images), path)

    def __repr__(self) -> str:
        return str(self.table)

    def _repr_png_(self) -> bytes | None:
        """The figure, for notebooks."""
        try:
            return png_bytes(torch.from_numpy(np.array(self.figure())))
        except (ImportError, ValueError):
            return None

    def _repr_html_(self) -> str:
        """The table and the figure, for notebooks."""
        picture = self._repr_png_()
        shown = "" if picture is None else f'<img src="data:image/png;base64,{base64.b64encode(picture).decode()}">'
        return f"{self.table._repr_html_()}{shown}"


def compare(
    model: nn.Module,
    methods: Sequence[str | type[Explainer]],
    images: Tensor,
    metrics: Sequence[str | Metric] | None = None,
    targets: Targets = None,
    *,
    layers: Layers = None,
    masks: Masks | None = None,
    boxes: Boxes | None = None,
    box_size: tuple[int, int] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    class_names: ClassNames | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Comparison:
    """Measures several methods on the same images and targets.

    Args:
        model: as explainers take it; it is left as it was.
        methods: names, or classes, of methods.
        images: float ``[N, C, H, W]``, as the model takes them.
        metrics: names among :data:`camfast.metrics.METRICS`, or :class:`camfast.metrics.Metric` of your own; None: insertion,
            deletion, ROAD, average drop and increase, ADCC, and with masks or boxes the pointing game and the energy inside.
        targets: as explainers take them; None: each image's top class.
        layers: explained ones, of methods that look at layers; None: the last one with a spatial map.
        masks: where the objects are, for metrics of localisation, as :func:`camfast.metrics.pointing_game` takes them.
        boxes: in place of masks.
        box_size: height and width of the picture that the boxes are in; None: the images'.
        options: by a method's name, what its explainer is made with.
        class_names: of the model's classes, for targets by name and for captions.
        batch_size: changed images per pass; None: as many as fit.
        progress: show a progress bar (needs tqdm).

    Returns:
        A :class:`Comparison`. A method that cannot explain this model is left out, and :attr:`Comparison.skipped` says why.

    Raises:
        TypeError: for arguments of a wrong type.
        ValueError: for unknown names, for metrics that need masks or boxes where there are none, and where no method fits.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or not len(images):
        got = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"compare needs images [N, C, H, W], got {got}")
    counted(batch_size, "batch_size")
    makers = {maker.name: maker for maker in map(_method, methods)}
    if not makers:
        raise ValueError("compare needs at least one method, got none")
    wanted = _metrics(metrics, masks is not None, boxes is not None)
    own = {name: dict((options or {}).get(name, {})) for name in makers}
    values: dict[str, dict[str, list[Tensor]]] = {name: {metric.name: [] for metric in wanted} for name in makers}
    parts: dict[str, list[Explanation]] = {name: [] for name in makers}
    seconds = dict.fromkeys(makers, 0.0)
    skipped: dict[str, str] = {}
    slices = [slice(start, start + _AT_ONCE) for start in range(0, len(images), _AT_ONCE)]
    with progress_bar(len(makers) * len(images) * (1 + len(wanted)), progress, "compare") as bar:
        for name, maker in makers.items():
            try:
                explainer = _made(maker, model, layers, class_names, own[name])
            except ValueError as error:
                skipped[name] = reason(error)
                continue
            for rows in slices:
                given = images[rows]
                if not parts[name] and explainer.needs in ("activations", "gradients"):
                    _first_call(explainer, given[:1])
                began = time.perf_counter()
                try:
                    result = explainer(given, _rows(targets, rows, len(images)))
                    _wait(result.heatmap)
                    took = time.perf_counter() - began
                    scored = Scored(model, given, result, batch_size=batch_size)
                except ValueError as error:
                    if parts[name]:
                        raise
                    skipped[name] = reason(error)
                    break
                seconds[name] += took
                parts[name].append(result)
                bar.update(len(given))
                for metric, value in _measure(
                    wanted, explainer, result, scored, rows, masks, boxes, box_size, layers, own[name], batch_size
                ):
                    values[name][metric.name].append(value.detach().cpu())
                    bar.update(len(given))
    done = [name for name in makers if name not in skipped]
    if not done:
        raise ValueError(f"expected a method that can explain the model, got none: {skipped[next(iter(skipped))]}")
    found = {name: {metric.name: _whole(metric, values[name][metric.name]) for metric in wanted} for name in done}
    table = Table(
        done,
        [metric.name for metric in wanted],
        [metric.better for metric in wanted],
        [[_cell(found[name][metric.name]) for metric in wanted] for name in done],
        [1000 * seconds[name] / len(images) for name in done],
    )
    return Comparison(table, found, {name: _joined(parts[name], images) for name in done}, skipped)


def _measure(
    wanted: Sequence[Metric],
    explainer: Explainer,
    result: Explanation,
    scored: Scored,
    rows: slice,
    masks: Masks | None,
    boxes: Boxes | None,
    box_size: tuple[int, int] | None,
    layers: Layers,
    options: dict[str, Any],
    batch_size: int | None,
) -> Iterator[tuple[Metric, Tensor]]:
    """Each metric's values of one method's maps of some images."""
    images = scored.images
    case = Measured(
        explainer,
        result,
        scored,
        lambda: Scored(explainer.model, images, result, score="output", batch_size=batch_size),
        None if masks is None else masks[rows],
        None if boxes is None else boxes[rows],
        box_size or (images.shape[2], images.shape[3]),
        layers,
        options,
    )
    for metric in wanted:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DoubtWarning)  # of maps of changed images, which may be blank
            yield metric, metric.measure(case)


def _method(method: str | type[Explainer]) -> type[Explainer]:
    if isinstance(method, type) and issubclass(method, Explainer):
        return method
    if not isinstance(method, str):
        raise TypeError(f"methods must be names or classes of methods, got {type(method).__name__}")
    if method not in METHODS:
        raise ValueError(f"no method is called {method!r}{or_rather(closest(method, METHODS), METHODS)}")
    return METHODS[method]


def _whole(metric: Metric, parts: Sequence[Tensor]) -> Tensor:
    values = torch.cat(list(parts))
    return values if metric.of_all is None else metric.of_all(values)


def _metrics(metrics: Sequence[str | Metric] | None, masks: bool, boxes: bool) -> list[Metric]:
    objects = masks or boxes
    names = metrics if metrics is not None else [*_USUAL, *(("pointing_game", "energy_inside") if objects else ())]
    found = []
    for name in names:
        if not isinstance(name, Metric) and name not in METRICS:
            raise ValueError(f"no metric is called {name!r}{or_rather(closest(str(name), METRICS), METRICS)}")
        metric = name if isinstance(name, Metric) else METRICS[name]
        if metric.objects and not objects:
            one_of = "boxes=" if metric.objects == "boxes" else "masks= or boxes="
            raise ValueError(f"{metric.name} needs {one_of}, got neither")
        if metric.objects == "boxes" and not boxes:
            raise ValueError(f"{metric.name} needs boxes=, got masks")
        found.append(metric)
    if not found:
        raise ValueError("compare needs at least one metric, got none")
    return found


def _made(
    maker: type[Explainer], model: nn.Module, layers: Layers, class_names: ClassNames | None, options: dict[str, Any]
) -> Explainer:
    own = layers if issubclass(maker, LayerExplainer) else None
    return maker(model, own, class_names=class_names, **options)


def _first_call(explainer: Explainer, image: Tensor) -> None:
    """Keeps the search for layers out of the times; what is wrong is said by the call itself."""
    with contextlib.suppress(ValueError), warnings.catch_warnings():
        warnings.simplefilter("ignore", DoubtWarning)
        explainer(image)


def _rows(targets: Any, rows: slice, count: int) -> Any:
    """Those of ``targets`` that belong to some of ``count`` images."""
    one_an_image = (isinstance(targets, Tensor) and targets.ndim) or isinstance(targets, (list, tuple))
    if one_an_image and len(targets) != count:
        raise ValueError(f"expected one target an image, {count}, got {len(targets)}")
    return targets[rows] if one_an_image else targets


def _joined(parts: Sequence[Explanation], images: Tensor) -> Explanation:
    first = parts[0]
    if isinstance(first.targets, Tensor):
        targets: Any = torch.cat([part.targets for part in parts])  # type: ignore[misc]
    else:
        targets = [target for part in parts for target in part.targets]
    heatmap, scores = torch.cat([part.heatmap for part in parts]), torch.cat([part.scores for part in parts])
    return replace(first, heatmap=heatmap, scores=scores, targets=targets, images=images)


def _cell(values: Tensor) -> Cell:
    known = values[values.isfinite()].double()
    if not len(known):
        return Cell(float("nan"), float("nan"), 0)
    error = float(known.std() / len(known) ** 0.5) if len(known) > 1 else float("nan")
    return Cell(float(known.mean()), error, len(known))


def _wait(tensor: Tensor) -> None:
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)
