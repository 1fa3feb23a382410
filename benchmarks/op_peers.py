"""What the ops are compared with, on the very same tensors.

The peers' own code runs here, not a copy of it: their extractors are built on a tiny stand-in network, and the
activations and gradients of the case are put where their hooks would have left them. Models and hooks are thus out of
the picture; `bench_explain.py` has the whole explanation.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import eager
import numpy as np
import torch
import torch.nn.functional as F
from op_cases import EIGEN_OPS, OpCase
from report import OURS
from torch import Tensor, nn

from camfast import ops
from camfast.ops import colormaps, reference

__all__ = ["Peer", "limit", "ours", "peers_of", "reference_result"]

ALPHA = 0.5


@dataclass(frozen=True)
class Peer:
    """A way to do the same work.

    ``call`` takes the case's tensors. ``result`` turns what it returns into the op's output for the equality check,
    and is not timed. ``tolerance`` is the largest difference allowed; None where the formula differs (``note`` says
    how) and only the speed is comparable. ``captures`` tells whether a CUDA graph can hold it.
    """

    name: str
    call: Callable[..., Any]
    result: Callable[[Any], Tensor] = lambda out: out
    tolerance: float | None = 2e-5
    note: str = ""
    captures: bool = True


# Jet's neighbouring colours are 4 levels apart, times ALPHA: another rounding of a value at an edge takes the next one.
_ONE_COLOUR = 4 * ALPHA


def ours(case: OpCase) -> Peer:
    op = getattr(ops, case.op)
    if case.op == "overlay":  # in the colours of the peers
        return Peer(OURS, lambda frames, heat: ops.overlay(frames, heat, "jet", ALPHA), tolerance=_ONE_COLOUR)
    return Peer(OURS, lambda *tensors: op(*tensors, *case.arguments))


def reference_result(case: OpCase, tensors: tuple[Tensor, ...]) -> Tensor:
    """The op's output in double precision where it takes it, else as the reference computes it."""
    if case.op == "overlay":
        return reference.overlay(*tensors, colormaps.table("jet", tensors[0].device), ALPHA)
    if sum(t.numel() for t in tensors) < 20_000_000:
        tensors = tuple(t.double() for t in tensors)
    return getattr(reference, case.op)(*tensors, *case.arguments)


def peers_of(case: OpCase, device: str, tensors: tuple[Tensor, ...], compiled: bool = True) -> list[Peer]:
    """Every way at hand to do ``case`` on ``device``, camfast's own first.

    The plain PyTorch among them is the fastest of the hand-written variants (:mod:`eager`) on ``tensors``.
    """
    variant, call = eager.fastest(eager.variants(case, ALPHA), tensors)
    plain = Peer("eager", call, tolerance=_ONE_COLOUR if case.op == "overlay" else 2e-5, note=variant)
    found = [ours(case), plain]
    if case.op in EIGEN_OPS:
        return [found[0], dataclasses.replace(plain, captures=False), *_component_peers(case)]
    if compiled:
        found.append(_compiled(plain))
    if case.op == "mask_images":
        return found
    if case.op == "overlay":
        return found + _overlay_peers(case, device)
    if len(case.size) == 2 and case.targets <= 5:
        found += _grad_cam_package(case)
        found += _torchcam_package(case)
    return found


# PyTorch ------------------------------------------------------------------------------------------------------------


def _compiled(plain: Peer) -> Peer:
    import torch._inductor.config as inductor

    # A fresh compilation a case: recompiling one function for another shape would turn its shapes dynamic, and slower.
    torch._dynamo.reset()
    # The generated code has the thread count built in, and its cache must know.
    inductor.cpp.threads = torch.get_num_threads()
    tolerance = None if plain.tolerance is None else 2 * plain.tolerance
    return Peer("torch.compile", torch.compile(plain.call, dynamic=False), tolerance=tolerance, note=plain.note)


# pytorch-grad-cam ---------------------------------------------------------------------------------------------------

_GRAD_CAM_CLASSES = {
    "grad_cam": "GradCAM",
    "grad_cam_plus_plus": "GradCAMPlusPlus",
    "xgrad_cam": "XGradCAM",
    "hires_cam": "HiResCAM",
    "layer_cam": "LayerCAM",
    "grad_cam_elementwise": "GradCAMElementWise",
}


def _grad_cam_package(case: OpCase) -> list[Peer]:
    if importlib.util.find_spec("pytorch_grad_cam") is None:
        return []
    name, size = "pytorch-grad-cam", case.size
    if case.op == "resize_normalize":
        from pytorch_grad_cam.utils.image import scale_cam_image

        def scaled(maps: Tensor) -> np.ndarray:
            return scale_cam_image(scale_cam_image(maps.float().cpu().numpy(), size[::-1]))

        return [Peer(name, scaled, torch.from_numpy, captures=False)]
    if case.op not in _GRAD_CAM_CLASSES:
        return []
    import pytorch_grad_cam

    stand_in = nn.Conv2d(1, 1, 1)
    extractor = getattr(pytorch_grad_cam, _GRAD_CAM_CLASSES[case.op])(nn.Sequential(stand_in), [stand_in])
    images = torch.empty(1, 1, *size)  # only its size is looked at

    def call(A: Tensor, G: Tensor) -> list[np.ndarray]:
        done = []
        for g in G.unbind(1) if case.targets > 1 else [G]:
            # Half types end in a TypeError there, so they are widened, as a user would have to.
            extractor.activations_and_grads.activations = [A.float() if A.dtype != torch.float64 else A]
            extractor.activations_and_grads.gradients = [g.float() if g.dtype != torch.float64 else g]
            layers = extractor.compute_cam_per_layer(images, [], False)
            done.append(extractor.aggregate_multi_layers(layers))
        # Its destructor detaches in place what it still holds, and fails on views.
        extractor.activations_and_grads.activations, extractor.activations_and_grads.gradients = [], []
        return done

    return [Peer(name, call, lambda maps: _stacked([torch.from_numpy(m) for m in maps]), captures=False)]


def _component_peers(case: OpCase) -> list[Peer]:
    if importlib.util.find_spec("pytorch_grad_cam") is None:
        return []
    from pytorch_grad_cam.utils import image, svd_on_activations

    kernel = case.op == "kpca_cam"
    project = svd_on_activations.get_2d_projection_kernel if kernel else svd_on_activations.get_2d_projection

    def call(A: Tensor) -> np.ndarray:
        maps = np.maximum(project(A.float().cpu().numpy()), 0)
        return image.scale_cam_image(image.scale_cam_image(maps, case.size[::-1]))

    if kernel:
        return [Peer("pytorch-grad-cam", call, torch.from_numpy, captures=False)]
    return [Peer("pytorch-grad-cam", call, tolerance=None, note="the sign is what LAPACK gives", captures=False)]


# torchcam -----------------------------------------------------------------------------------------------------------

_TORCHCAM_CLASSES = {
    "grad_cam": "GradCAM",
    "xgrad_cam": "XGradCAM",
    "layer_cam": "LayerCAM",
    "grad_cam_plus_plus": "GradCAMpp",
}


def _torchcam_package(case: OpCase) -> list[Peer]:
    if importlib.util.find_spec("torchcam") is None or case.op not in _TORCHCAM_CLASSES:
        return []
    from torchcam import methods

    base = getattr(methods, _TORCHCAM_CLASSES[case.op])

    class Extractor(base):  # type: ignore[misc, valid-type]
        def _backprop(self, *args: Any, **kwargs: Any) -> None:
            """The gradients are there already."""

    extractor = Extractor(nn.Sequential(nn.Conv2d(1, 1, 1)), "0")

    def call(A: Tensor, G: Tensor) -> list[Tensor]:
        done = []
        for g in G.unbind(1) if case.targets > 1 else [G]:
            extractor.hook_a, extractor.hook_g = [A], [g]
            low = extractor.compute_cams(0)[0]
            done.append(F.interpolate(low.unsqueeze(1), case.size, mode="bilinear").squeeze(1))
        return done

    def result(maps: list[Tensor]) -> Tensor:
        return reference.min_max(_stacked(maps).float())  # their map is normalised before the resize only

    if case.op == "grad_cam_plus_plus":
        return [Peer("torchcam", call, tolerance=None, note="another formula: sum of g^2 relu(g)")]
    # In half types torchcam computes in the type it is given.
    return [Peer("torchcam", call, result, tolerance=2e-5 if case.torch_dtype.itemsize > 2 else 0.1)]


def _stacked(maps: list[Tensor]) -> Tensor:
    return torch.stack(maps, 1) if len(maps) > 1 else maps[0]


# Overlays -----------------------------------------------------------------------------------------------------------


def _overlay_peers(case: OpCase, device: str) -> list[Peer]:
    if device != "cpu" or case.shape[0] != 1:
        return []
    found = []
    if importlib.util.find_spec("cv2") is not None:
        import cv2

        colors = np.ascontiguousarray(colormaps.table("jet").numpy()[:, None, :])
        width_height = case.size[::-1]

        def by_opencv(frames: Tensor, heatmap: Tensor) -> np.ndarray:
            heat = cv2.resize(heatmap[0].numpy(), width_height)
            coloured = cv2.applyColorMap((heat * 255).astype(np.uint8), colors)
            return cv2.addWeighted(frames[0].numpy(), 1 - ALPHA, coloured, ALPHA, 0.0)

        # Its resize rounds otherwise in the last bit, which moves a value at an edge to the next colour.
        found.append(Peer("OpenCV", by_opencv, lambda out: torch.from_numpy(out)[None], tolerance=3.0))
    if importlib.util.find_spec("pytorch_grad_cam") is not None:
        import cv2
        from pytorch_grad_cam.utils.image import show_cam_on_image

        def by_grad_cam(frames: Tensor, heatmap: Tensor) -> np.ndarray:
            heat = cv2.resize(heatmap[0].numpy(), case.size[::-1])
            return show_cam_on_image(np.float32(frames[0].numpy()) / 255, heat, use_rgb=True)

        found.append(Peer("pytorch-grad-cam", by_grad_cam, tolerance=None, note="then divides by the brightest value"))
    if importlib.util.find_spec("torchcam") is not None:
        from PIL import Image
        from torchcam.utils import overlay_mask

        def by_torchcam(frames: Tensor, heatmap: Tensor) -> Any:
            return overlay_mask(Image.fromarray(frames[0].numpy()), Image.fromarray(heatmap[0].numpy()), alpha=ALPHA)

        found.append(Peer("torchcam", by_torchcam, tolerance=None, note="bicubic, and the colour of the squared map"))
    return found


# The limit ----------------------------------------------------------------------------------------------------------


def limit(case: OpCase, tensors: tuple[Tensor, ...]) -> tuple[str, Callable[[], Any]]:
    """The least that must be done on a processor, on all threads, and its name.

    For the sums over channels it is reading every byte of the inputs once. Summing is the fastest reading PyTorch
    offers; the bytes are summed as fp32 whatever they hold, so that half types are not converted on the way, and the
    sums mean nothing. The overlay must write as much as it reads, and the resize and the masks hardly read: there it is
    a copy of the frames, and a fill of the output.
    """
    if case.op == "overlay":
        frames = tensors[0]
        target = torch.empty_like(frames)
        return "copy once", lambda: target.copy_(frames)
    if case.op in ("resize_normalize", "mask_images"):
        target = torch.empty(case.bytes_out // 4)
        return "write once", lambda: target.fill_(1.5)
    flat = [_as_floats(t) for t in tensors]
    return "read once", lambda: [x.sum() for x in flat]


def _as_floats(t: Tensor) -> Tensor:
    """The memory of a dense tensor as a one-dimensional fp32 view."""
    count = t.numel() * t.element_size()
    if t.storage_offset() or t.untyped_storage().nbytes() < count:
        raise ValueError("the read-once limit needs tensors that own their whole memory")
    raw = torch.empty(0, dtype=torch.uint8, device=t.device).set_(t.untyped_storage(), 0, (count,), (1,))
    return raw[: count // 4 * 4].view(torch.float32)
