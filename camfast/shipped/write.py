"""``export``: a network with its heat in one file, which has been run before it is there."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..brief import Brief
from ..errors import reason
from ..methods.explainer import Layers
from ..ops import colormaps
from ..pictures.preparation import Preparation
from ..targets import ClassNames, Targets, listed_names
from ..version import __version__
from .capture import Unshippable
from .frames import FrameNetwork
from .narrow import Weights, narrowed
from .network import TOLERANCE, HeatNetwork, distance, relative, with_heatmap
from .runtimes import OPSET, RUNTIMES, Onnx, OpenVino, Program, Runtime, quietly

__all__ = ["Exported", "export"]

_HALF = 2e-2  # of heat, where the network is in half precision


@dataclass(repr=False)
class Exported(Brief):
    """A file that was written, and how far what it gives is from the network's own.

    Attributes:
        path: the file.
        bytes: its size; of OpenVINO with its weights.
        runtime: what ran it.
        opset: of ONNX; else None.
        inputs: names and shapes; ``"batch"`` for any number.
        outputs: the same.
        layers: names of the layers that are explained.
        method: the method.
        form: how the heat is made: "closed form", "backward pass", "activations" or "positions".
        scores: the largest difference of scores, as a share of the largest.
        heatmap: the largest difference of heat.
        metadata: what stands in the file: class names, preparation, method, layers, targets.
    """

    path: Path
    bytes: int
    runtime: str
    opset: int | None
    inputs: dict[str, list[Any]]
    outputs: dict[str, list[Any]]
    layers: list[str]
    method: str
    form: str
    scores: float
    heatmap: float
    metadata: dict[str, str] = field(repr=False)


def export(
    model: nn.Module,
    example: Tensor,
    path: str | PathLike[str],
    method: str = "grad_cam",
    layers: Layers = None,
    targets: Targets = None,
    size: int | Sequence[int] | Literal["map"] | None = None,
    normalize: bool = True,
    *,
    class_names: ClassNames | None = None,
    layout: str | None = None,
    dynamic: bool = True,
    gaussian: bool = True,
    preparation: Preparation | None = None,
    frames: Sequence[int] | None = None,
    overlay: bool = False,
    colormap: str | Tensor = colormaps.COLORMAP,
    alpha: float = colormaps.ALPHA,
    opset: int | None = None,
    compile: bool = True,
    weights_as: Weights | None = None,
    tolerance: float = 2e-2,
) -> Exported:
    """Writes ``model`` with its heat to one file, runs that in its runtime on the example, and compares.

    The file's input is ``images`` (``frames`` with ``frames=``), its outputs are ``scores``, ``heatmap`` and, with
    ``overlay``, ``picture``. What it needs to be used stands in its metadata: class names, size, mean, std, method, layers.
    It is written under another name first, and is only there once it has given what the network gives.

    Args:
        model: as for :func:`with_heatmap`, and so are ``method``, ``layers``, ``targets``, ``size``, ``normalize``,
            ``class_names``, ``layout``, ``dynamic`` and ``gaussian``.
        example: images ``[N, C, H, W]`` as the model takes them, at best photographs.
        path: ``.onnx`` for ONNX Runtime, TensorRT and browsers, ``.xml`` for OpenVINO (with a ``.bin`` beside it), ``.pt2``
            for AOTInductor: machine code for this kind of machine, ``.pte`` for ExecuTorch, with the example's number of images.
        preparation: from a frame to an image, as ``camfast.zoo.load(name).preparation``: goes into the metadata.
        frames: ``(height, width)`` of the frames uint8 ``[N, height, width, 3]`` that the file shall take in place of images;
            it prepares them itself. Needs ``preparation``.
        overlay: with ``frames``: the file draws the heat over them, uint8 ``[N, (K,) height, width, 3]``.
        colormap: of the drawn heat.
        alpha: its weight.
        opset: of ONNX, 18 to 23; None takes 20.
        compile: of ``.pt2``: False keeps the exported program, for any device and other compilers.
        weights_as: ``"float16"``, ``"bfloat16"`` or ``"int8"``: what the layers' weights are kept as in the file, which is half or
            a quarter of the size then. It still computes in fp32.
        tolerance: with ``weights_as``: how far the file's scores (as a share of the largest) and heat may be from the network's.

    Returns:
        An :class:`Exported`: path, size, names, and the differences from the network's own scores and heat.

    Raises:
        TypeError: as :func:`with_heatmap`.
        ValueError: as :func:`with_heatmap`; for another kind of file, a path that cannot be written, operations that the
            runtime does not have, and a file that gives something else. No file is left then.
        ImportError: for packages that are missing; it names the extra.
    """
    path = Path(path).expanduser()
    runtime = _runtime(path, opset, compile, weights_as)
    runtime.check()
    if frames is not None and preparation is None:
        raise ValueError("frames= needs preparation=, the steps from a frame to the network's input, got none")
    if overlay and frames is None:
        raise ValueError("overlay=True draws over frames and needs frames=(height, width), got none")
    with _folder_beside(path) as folder:
        network = with_heatmap(
            model,
            method,
            layers,
            targets,
            size,
            normalize,
            example=example,
            class_names=class_names,
            layout=layout,
            dynamic=dynamic and not runtime.fixed,
            gaussian=gaussian,
        )
        shipped, given = _wrapped(network, preparation, frames, colormap if overlay else None, alpha)
        names = {
            "inputs": ["images" if frames is None else "frames"],
            "outputs": ["scores", "heatmap", *(["picture"] if overlay else [])],
        }
        notes = _notes(network, class_names, preparation, names)
        if isinstance(runtime, Onnx):
            notes["opset"] = str(runtime.opset)
        draft = Path(folder) / path.name
        with torch.no_grad():
            own = expected = list(shipped(given))
        try:
            with quietly(), torch.no_grad():
                shapes: Any = ({0: torch.export.Dim("batch", min=1)},) if network.dynamic else None
                program = torch.export.export(shipped, (given,), dynamic_shapes=shapes, strict=False)
                if weights_as is not None and not runtime.narrows:
                    shipped, program = narrowed(program, weights_as, given, shapes)
                    expected = list(shipped(given))
                runtime.write(program, draft, names, notes)
                found = runtime.run(draft, given)
        except ImportError:
            raise
        except Exception as error:  # of each runtime's own kind
            hint = "; dynamic=False ships a fixed number of images" if network.dynamic else ""
            raise Unshippable(
                f"{runtime.name} does not take this network with its heat: {reason(_first(error))}{hint}"
            ) from error
        half = any(p.element_size() < 4 for p in network.parameters())
        if weights_as is not None and isinstance(
            runtime, OpenVino
        ):  # it may compute in int8 itself: no exact value is known
            expected = found
        differences = _compared(found, expected, network, runtime.name, _HALF if half else TOLERANCE)
        if weights_as is not None:
            differences = _compared(found, own, network, f"{runtime.name} with weights in {weights_as}", tolerance)
        total = 0
        try:
            for suffix in runtime.suffixes:
                written = draft.with_suffix(suffix)
                total += written.stat().st_size
                os.replace(written, path.with_suffix(suffix))
        except OSError as error:
            raise ValueError(f"cannot write {path}: {error.strerror or error}") from error
    shape = lambda tensor: ["batch" if network.dynamic else len(tensor), *tensor.shape[1:]]  # noqa: E731
    return Exported(
        path=path,
        bytes=total,
        runtime=runtime.name,
        opset=runtime.opset if isinstance(runtime, Onnx) else None,
        inputs={names["inputs"][0]: shape(given)},
        outputs={name: shape(tensor) for name, tensor in zip(names["outputs"], expected, strict=True)},
        layers=network.layers,
        method=method,
        form=network.form,
        scores=differences[0],
        heatmap=differences[1],
        metadata=notes,
    )


def _runtime(path: Path, opset: int | None, compile: bool, weights: Weights | None) -> Runtime:
    cls = RUNTIMES.get(path.suffix)
    if cls is None:
        raise ValueError(f"expected a file of {', '.join(RUNTIMES)}, got {path.name!r}")
    if opset is not None and cls is not Onnx:
        raise ValueError(f"opset= is of ONNX alone, got opset={opset} for {path.name}")
    if not compile and path.suffix != ".pt2":
        raise ValueError(f"compile=False is of .pt2 alone, got {path.name}")
    if weights not in (None, *get_args(Weights)):
        raise ValueError(f"weights_as must be {', '.join(map(repr, get_args(Weights)))} or None, got {weights!r}")
    if cls is OpenVino:
        if weights == "bfloat16":
            raise ValueError(f"OpenVINO keeps weights in float16 or int8, got weights_as='bfloat16' for {path.name}")
        return OpenVino(narrows=weights == "float16")
    if cls is Onnx:
        return Onnx(OPSET if opset is None else opset)
    return Program() if not compile else cls()


def _folder_beside(path: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder on the same disk, in which the file is made."""
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder")
    try:
        return tempfile.TemporaryDirectory(prefix=".camfast-", dir=path.parent)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror or error}") from error


def _wrapped(
    network: HeatNetwork,
    preparation: Preparation | None,
    frames: Sequence[int] | None,
    colormap: str | Tensor | None,
    alpha: float,
) -> tuple[nn.Module, Tensor]:
    """The network of images, or of frames, and what to run it on."""
    images = network.example
    if frames is None or preparation is None:
        return network, images
    height, width = _frame_size(frames)
    if tuple(images.shape[1:]) != (3, *preparation.crop):
        raise ValueError(f"preparation= makes images [N, 3, *{preparation.crop}], got an example {list(images.shape)}")
    table = None if colormap is None else colormaps.table(colormap, images.device)
    wrapped = FrameNetwork(network, preparation, (height, width), table, alpha).to(images.device)
    mean, std = (images.new_tensor(numbers).view(3, 1, 1) for numbers in (preparation.mean, preparation.std))
    shown = ((images * std + mean).clamp(0, 1) * 255).round()
    shown = torch.nn.functional.interpolate(shown, size=(height, width), mode="bilinear")
    return wrapped, shown.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _frame_size(frames: Sequence[int]) -> tuple[int, int]:
    if isinstance(frames, int) or len(frames) != 2 or not all(isinstance(n, int) and n > 0 for n in frames):
        raise ValueError(f"frames must be (height, width), got {frames!r}")
    return frames[0], frames[1]


def _notes(
    network: HeatNetwork,
    class_names: ClassNames | None,
    preparation: Preparation | None,
    names: Mapping[str, Sequence[str]],
) -> dict[str, str]:
    """The metadata: strings, of which lists are JSON."""
    choice = network.choice
    wanted: Any = {"best": "best", "top": f"top{choice.number}", "all": "all", "one": choice.number}.get(
        choice.kind, choice.given
    )
    notes: dict[str, Any] = {
        "camfast": __version__,
        "method": network.method,
        "layers": network.layers,
        "targets": wanted,
        "normalized": network.normalize,
        "size": list(network.example.shape[2:]),
        "heatmap_size": list(network.size),
        "inputs": list(names["inputs"]),
        "outputs": list(names["outputs"]),
    }
    listed = listed_names(class_names)
    if listed is not None:
        notes["class_names"] = list(listed)
    if preparation is not None:
        notes.update(
            mean=list(preparation.mean),
            std=list(preparation.std),
            resize=preparation.resize,
            interpolation=preparation.interpolation,
        )
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in notes.items()}


def _compared(
    found: Sequence[Tensor], expected: Sequence[Tensor], network: HeatNetwork, what: str, allowed: float
) -> tuple[float, float]:
    """The differences of scores and heat; raises where they are too large."""
    scores = relative(found[0], expected[0])
    heat = distance(found[1], expected[1], network.normalize)
    if not max(scores, heat) <= max(allowed, network.rounding):
        raise Unshippable(
            f"{what} must give what the network gives, got scores that differ by {scores:.1e} and heat that differs by "
            f"{heat:.1e} on the example, where {allowed:.0e} is allowed; no file was written"
        )
    if len(found) > 2 and (found[2].float() - expected[2].float()).abs().mean() > max(0.5, 255 * allowed):
        raise Unshippable(f"{what} must draw the picture that the network draws, got another; no file was written")
    return scores, heat


def _first(error: BaseException) -> BaseException:
    """The error at the root: converters wrap it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
