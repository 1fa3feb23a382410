"""One image explained in one call, and written to a folder."""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ...brief import Brief
from ...errors import require
from .methods.core import _CAM
from .methods.gradient import GradCAM
from .utils import overlay_mask

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PredictionExplanation", "explain"]


@dataclasses.dataclass(frozen=True, repr=False)
class PredictionExplanation(Brief):
    """Scores and maps of one image, on the CPU, and what they were made with."""

    logits: Tensor  # float32 [1, classes]
    predicted_class_idx: int
    expected_class_idx: int | None
    cams: Mapping[int, tuple[Tensor, ...]]  # of each class explained: float32 [*map], one a layer
    method: str
    target_layers: tuple[str, ...]
    model: str
    input_shape: tuple[int, ...]
    versions: Mapping[str, str]
    class_names: tuple[str, ...] | None = None

    def save(self, directory: str | Path, image: Image, alpha: float = 0.5) -> Path:
        """Maps (``.npy``), heatmaps and overlays over ``image`` (``.png``), and ``manifest.json``, in a new folder.

        The folder appears when all of it is written. Raises ``FileExistsError`` where it exists already, and
        ``TypeError`` for an image that is not Pillow's. Needs Pillow and matplotlib.
        """
        pictures = require("PIL.Image", "vision")
        if not isinstance(image, pictures.Image):
            raise TypeError(f"`image` must be a PIL image, got {type(image).__name__}")
        target = Path(directory)
        if target.exists():
            raise FileExistsError(f"output directory already exists: {target}")
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            for class_idx, layers in self.cams.items():
                for number, cam in enumerate(layers):
                    values = cam.numpy()
                    files = _file_names(class_idx, number)
                    np.save(draft / files["map"], values, allow_pickle=False)
                    grey = (values.clip(0, 1) * 255).astype(np.uint8)
                    pictures.fromarray(grey).save(draft / files["heatmap"])
                    overlay_mask(image, pictures.fromarray(values), alpha=alpha).save(draft / files["overlay"])
            manifest = json.dumps(self._manifest(image.size, alpha), indent=2, sort_keys=True) + "\n"
            (draft / "manifest.json").write_text(manifest, encoding="utf-8")
            draft.chmod(0o755)  # a temporary folder is its owner's alone
            draft.rename(target)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return target

    def _manifest(self, image_size: tuple[int, int], alpha: float) -> dict[str, Any]:
        shares = self.logits.softmax(1)[0]
        classes = {}
        for class_idx, layers in self.cams.items():
            one_each = len(layers) == len(self.target_layers)  # else one map of all layers
            artifacts: list[dict[str, Any]] = [
                {
                    **_file_names(class_idx, number),
                    "target_layers": [self.target_layers[number]] if one_each else list(self.target_layers),
                }
                for number in range(len(layers))
            ]
            classes[str(class_idx)] = {
                **(self._class_reference(class_idx) or {}),
                "logit": self.logits[0, class_idx].item(),
                "probability": shares[class_idx].item(),
                "artifacts": artifacts,
            }
        return {
            "schema_version": 1,
            "model": self.model,
            "method": self.method,
            "target_layers": list(self.target_layers),
            "input_shape": list(self.input_shape),
            "image_size": list(image_size),
            "alpha": alpha,
            "prediction": self._class_reference(self.predicted_class_idx),
            "expected": self._class_reference(self.expected_class_idx),
            "classes": classes,
            "versions": dict(self.versions),
        }

    def _class_name(self, class_idx: int) -> str | None:
        return None if self.class_names is None else self.class_names[class_idx]

    def _class_reference(self, class_idx: int | None) -> dict[str, int | str | None] | None:
        return None if class_idx is None else {"class_idx": class_idx, "class_name": self._class_name(class_idx)}


def _file_names(class_idx: int, layer: int) -> dict[str, str]:
    stem = f"class-{class_idx}-layer-{layer}"
    return {"map": f"{stem}.npy", "heatmap": f"{stem}-heatmap.png", "overlay": f"{stem}-overlay.png"}


def _validate_logits(output: Any) -> Tensor:
    """``output``, if it is the scores of one image."""
    if not isinstance(output, Tensor):
        raise TypeError(
            f"model output must be a tensor, got {type(output).__name__}; wrap models that return something around it"
        )
    if output.ndim != 2 or output.shape[0] != 1 or output.shape[1] == 0:
        raise ValueError(f"model output must have shape (1, num_classes), got {list(output.shape)}")
    if not output.isfinite().all():
        raise ValueError("model output contains non-finite logits")
    return output


def _prepare_maps(maps: list[Tensor]) -> tuple[Tensor, ...]:
    """Maps ``[1, h, w]`` as float32 ``[h, w]`` on the CPU."""
    if not maps:
        raise ValueError("extractor returned no CAMs")
    if any(cam.ndim != 3 or cam.shape[0] != 1 for cam in maps):
        raise ValueError(f"CAMs must have shape (1, height, width), got {[list(cam.shape) for cam in maps]}")
    if not all(bool(cam.isfinite().all()) for cam in maps):
        raise ValueError("CAM contains non-finite values")
    return tuple(cam[0].detach().to("cpu", torch.float32).clone() for cam in maps)


def _validate_request(
    model: nn.Module,
    input_tensor: Tensor,
    expected_class_idx: int | None,
    method: type[_CAM],
    method_kwargs: Mapping[str, Any] | None,
) -> None:
    if torch.is_inference_mode_enabled():
        raise RuntimeError("`explain` cannot run inside torch.inference_mode(): maps need gradients")
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}")
    if any(module.training for module in model.modules()):
        raise ValueError("`model` must be in evaluation mode; call model.eval() first")
    if not isinstance(input_tensor, Tensor):
        raise TypeError(f"`input_tensor` must be a torch.Tensor, got {type(input_tensor).__name__}")
    if input_tensor.ndim != 4 or input_tensor.shape[0] != 1:
        raise ValueError(f"`input_tensor` must have shape (1, channels, height, width), got {list(input_tensor.shape)}")
    if not input_tensor.is_floating_point():
        raise ValueError(f"`input_tensor` must have a floating-point dtype, got {input_tensor.dtype}")
    if expected_class_idx is not None and (
        isinstance(expected_class_idx, bool) or not isinstance(expected_class_idx, int)
    ):
        raise TypeError(f"`expected_class_idx` must be an integer or None, got {expected_class_idx!r}")
    if not isinstance(method, type) or not issubclass(method, _CAM):
        raise TypeError(f"`method` must be a TorchCAM extractor class, got {method!r}")
    if method_kwargs is not None and not isinstance(method_kwargs, Mapping):
        raise TypeError(f"`method_kwargs` must be a mapping or None, got {type(method_kwargs).__name__}")
    if method_kwargs is not None and "target_layer" in method_kwargs:
        raise ValueError("pass `target_layer` directly, not through `method_kwargs`")


def _validate_classes(
    expected_class_idx: int | None, class_names: Sequence[str] | None, num_classes: int
) -> tuple[str, ...] | None:
    """The names as a tuple."""
    if expected_class_idx is not None and not 0 <= expected_class_idx < num_classes:
        raise ValueError(
            f"`expected_class_idx` is outside the model output range, 0 to {num_classes - 1}, got {expected_class_idx}"
        )
    if class_names is None:
        return None
    if isinstance(class_names, str) or len(class_names) != num_classes:
        raise ValueError(
            f"`class_names` length must match the number of model classes, {num_classes}, got {len(class_names)}"
        )
    if not all(isinstance(name, str) for name in class_names):
        raise TypeError("every class name must be a string")
    return tuple(class_names)


def explain(
    model: nn.Module,
    input_tensor: Tensor,
    *,
    expected_class_idx: int | None = None,
    class_names: Sequence[str] | None = None,
    method: type[_CAM] = GradCAM,
    target_layer: nn.Module | str | list[nn.Module | str] | None = None,
    method_kwargs: Mapping[str, Any] | None = None,
) -> PredictionExplanation:
    """Maps of the class that ``model`` predicts for one image ``[1, C, H, W]``, and of the one that was expected.

    Args:
        method: an extractor; ``target_layer`` and ``method_kwargs`` are its arguments.
        class_names: names of the classes, in the order of the scores.

    Raises ``RuntimeError`` in inference mode, ``ValueError`` and ``TypeError`` for arguments, scores or maps that do
    not fit.
    """
    _validate_request(model, input_tensor, expected_class_idx, method, method_kwargs)
    options: dict[str, Any] = {"input_shape": tuple(input_tensor.shape[1:]), **(method_kwargs or {})}
    if target_layer is not None:
        options.pop("input_shape")  # of no use then, and not every extractor takes it
        options.update(method_kwargs or {})
    image = input_tensor.detach()
    with method(model, target_layer, **options) as extractor, torch.enable_grad():
        output = _validate_logits(model(image))
        names = _validate_classes(expected_class_idx, class_names, output.shape[1])
        logits = output.detach().to("cpu", torch.float32).clone()
        predicted = int(logits.argmax())
        cams = {predicted: _prepare_maps(extractor(predicted, output))}
        if expected_class_idx is not None and expected_class_idx != predicted:
            again = _validate_logits(model(image))  # the first graph is used up
            if again.shape != output.shape:
                raise ValueError(
                    f"model output shape changed between passes: {list(output.shape)}, {list(again.shape)}"
                )
            cams[expected_class_idx] = _prepare_maps(extractor(expected_class_idx, again))
        layers = tuple(extractor.target_names)
    kind = type(model)
    return PredictionExplanation(
        logits=logits,
        predicted_class_idx=predicted,
        expected_class_idx=expected_class_idx,
        cams=MappingProxyType(cams),
        method=method.__name__,
        target_layers=layers,
        model=f"{kind.__module__}.{kind.__qualname__}",
        input_shape=tuple(input_tensor.shape),
        versions=MappingProxyType(_versions()),
        class_names=names,
    )


def _versions() -> dict[str, str]:
    from ... import version
    from . import __version__

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchcam": __version__,
        "camfast": version.__version__,
    }
