"""A video's frames explained: where the time goes, and against the loop people write today.

    python benchmarks/bench_video.py CLIP.mp4 [--models resnet50 mobilenet_v3_large efficientnet-lite0] [--compile]
    python benchmarks/bench_video.py CLIP.mp4 --soak 30

Candidates take turns, frame by frame, on the same frames. Stages are those of camfast's loop: decode, preprocess, network
(the plain forward of the same images), explain (scores and map, less the network), overlay, encode. Loops are whole: decoding,
one frame's picture, no encoding.

    camfast            camfast.Realtime
    camfast, compiled  the same with compile=True (--compile)
    pytorch-grad-cam   OpenCV decoding and resizing, GradCAM, show_cam_on_image
    forward            decoding, resizing and the plain forward, without any explanation

EfficientNet-Lite0 has its trained weights; the others get random ones, since time does not depend on their values.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import resource
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from report import RESULTS, metadata, write_json

import camfast
from camfast import ops, zoo
from camfast.frame_drawing import draw

LAYERS = {"resnet50": "layer4", "mobilenet_v3_large": "features", "efficientnet-lite0": "features"}
STAGES = ("decode", "preprocess", "network", "explain", "overlay", "encode")
COLORS = ("#8d99ae", "#5aa9e6", "#1b3a5c", "#c8102e", "#f4a261", "#d9d9d9")
SIZE = 224


def decoded(clip: Path) -> Iterator[np.ndarray]:
    """RGB frames of ``clip``, from its beginning again after its end."""
    while True:
        with av.open(str(clip)) as container:
            container.streams.video[0].thread_type = "AUTO"
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")


def network(name: str) -> torch.nn.Module:
    return zoo.load(name).model if name.startswith("efficientnet-lite") else zoo.untrained(name)[0]


class Encoder:
    """H.264 into nothing."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.container = av.open("/dev/null", "w", format="mp4")
        self.stream = self.container.add_stream("libx264", rate=25, options={"preset": "veryfast"})
        self.stream.height, self.stream.width = shape[0] // 2 * 2, shape[1] // 2 * 2
        self.stream.pix_fmt = "yuv420p"

    def __call__(self, picture: np.ndarray) -> None:
        self.container.mux(self.stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))


def stages(clip: Path, model: torch.nn.Module, layers: str | None, frames: int) -> dict[str, float]:
    """Median milliseconds a frame of each stage."""
    explainer = camfast.GradCAM(model, layers)
    times: dict[str, list[float]] = defaultdict(list)
    source, encoder = decoded(clip), None

    def timed(stage: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = call()
        times[stage].append((time.perf_counter() - start) * 1000)
        return result

    for n in range(frames + 3):
        if n == 3:  # the first ones are cold
            times.clear()
        frame = timed("decode", lambda: next(source))
        encoder = encoder or Encoder(frame.shape)
        given = torch.from_numpy(frame)[None]
        box = (0.0, 0.0, float(frame.shape[1]), float(frame.shape[0]))
        images = timed("preprocess", lambda given=given: _prepared(given))
        with torch.inference_mode():
            timed("network", lambda images=images: model(images))
        result = timed("scores and map", lambda images=images: explainer(images, size="map"))
        picture = timed("overlay", lambda given=given, r=result, box=box: draw(given, r.heatmap, box))
        timed("encode", lambda p=picture, encode=encoder: encode(p[0].numpy()))
    times["explain"] = [
        max(both - alone, 0.0) for both, alone in zip(times["scores and map"], times["network"], strict=True)
    ]
    return {stage: statistics.median(times[stage]) for stage in STAGES}


def _prepared(frames: torch.Tensor) -> torch.Tensor:
    return ops.preprocess(
        frames, SIZE, camfast.realtime.IMAGENET_MEAN, camfast.realtime.IMAGENET_STD, channels_last=True
    )


def theirs(clip: Path, model: torch.nn.Module, layer: torch.nn.Module) -> Callable[[], Any]:
    """OpenCV + pytorch-grad-cam + show_cam_on_image, as in their examples."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.image import preprocess_image, show_cam_on_image

    video = cv2.VideoCapture(str(clip))
    explain = GradCAM(model=model, target_layers=[layer])

    def step() -> np.ndarray:
        good, frame = video.read()
        if not good:
            video.set(cv2.CAP_PROP_POS_FRAMES, 0)
            good, frame = video.read()
        frame = np.float32(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)) / 255
        images = preprocess_image(
            cv2.resize(frame, (SIZE, SIZE)), camfast.realtime.IMAGENET_MEAN, camfast.realtime.IMAGENET_STD
        )
        heat = explain(input_tensor=images)[0]
        return show_cam_on_image(frame, cv2.resize(heat, frame.shape[1::-1]), use_rgb=True)

    return step


def loops(clip: Path, model: torch.nn.Module, layers: str | None, frames: int, compile: bool) -> dict[str, Any]:
    """Milliseconds a frame of each candidate's whole loop, and their ratios to camfast's, frame by frame."""
    sources = {name: decoded(clip) for name in ("camfast", "camfast, compiled", "forward")}
    engine = camfast.Realtime(model, layers=layers)
    engine(next(sources["camfast"]))

    def forward() -> None:
        frame = cv2.resize(next(sources["forward"]), (SIZE, SIZE)).astype(np.float32) / 255
        images = torch.from_numpy(frame).permute(2, 0, 1)[None].contiguous()
        with torch.inference_mode():
            model(images)

    # Their hooks stay on the layer while they are there: a copy of the network keeps them away from the others.
    twin = copy.deepcopy(model)
    candidates: dict[str, Callable[[], Any]] = {
        "camfast": lambda: engine(next(sources["camfast"])),
        "pytorch-grad-cam": theirs(clip, twin, twin.get_submodule(engine.layers_in_use[0])),
        "forward": forward,
    }
    compiled_problem = None
    if compile:
        fast = camfast.Realtime(model, layers=layers, compile=True)
        fast(next(sources["camfast, compiled"]))
        compiled_problem = fast.compile_problem
        candidates["camfast, compiled"] = lambda: fast(next(sources["camfast, compiled"]))
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for call in candidates.values():
        call()
    names = list(candidates)
    for n in range(frames):
        for name in names[n % len(names) :] + names[: n % len(names)]:
            start = time.perf_counter()
            candidates[name]()
            times[name].append((time.perf_counter() - start) * 1000)
    ours = times["camfast"]
    return {
        "milliseconds": {name: statistics.median(t) for name, t in times.items()},
        "over_camfast": {
            name: statistics.median(a / b for a, b in zip(t, ours, strict=True)) for name, t in times.items()
        },
        "compile_problem": compiled_problem,
    }


def soak(clip: Path, model: torch.nn.Module, layers: str | None, minutes: float) -> dict[str, Any]:
    """Memory and latency over ``minutes`` of the clip, again and again; what was left behind afterwards."""
    threads = threading.active_count()
    windows: list[dict[str, float]] = []
    end, window = time.monotonic() + 60 * minutes, max(5.0, 60 * minutes / 20)
    with camfast.Realtime(model, layers=layers, smooth=0.5) as engine:
        source = decoded(clip)
        while time.monotonic() < end:
            latencies, until = [], min(time.monotonic() + window, end)
            while time.monotonic() < until:
                latencies.append(engine(next(source)).milliseconds)
            windows.append(
                {
                    "frames": len(latencies),
                    "median_ms": statistics.median(latencies),
                    "p99_ms": float(np.percentile(latencies, 99)),
                    "resident_mb": _resident(),
                }
            )
            print(json.dumps(windows[-1]), file=sys.stderr)
        source.close()
    settled = windows[len(windows) // 4 :]
    return {
        "minutes": minutes,
        "windows": windows,
        "memory_growth_mb": settled[-1]["resident_mb"] - settled[0]["resident_mb"],
        "latency_drift": settled[-1]["median_ms"] / settled[0]["median_ms"],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "threads_left": threading.active_count() - threads,
        "hooks_left": sum(len(m._forward_hooks) for m in model.modules()),
    }


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def draw_chart(report: dict[str, Any], picture: Path) -> None:
    """Stacked bars: the stages of each network, each clip."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases = report["cases"]
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.6 * len(cases)))
    for row, case in enumerate(cases):
        left = 0.0
        for stage, color in zip(STAGES, COLORS, strict=True):
            width = case["stages_ms"][stage]
            axes.barh(row, width, left=left, color=color, label=stage if row == 0 else None, height=0.6)
            left += width
    axes.set_yticks(range(len(cases)), [f"{case['model']}\n{case['clip']}" for case in cases], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds a frame, median")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncols=len(STAGES), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=8)
    figure.savefig(picture, dpi=120, bbox_inches="tight")
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--models", nargs="+", default=list(LAYERS))
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--compile", action="store_true", help="also camfast with compile=True (minutes)")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="memory and latency over time instead")
    parser.add_argument("--output", type=Path, default=RESULTS / "video-cpu.json")
    options = parser.parse_args()
    missing = [clip for clip in options.clips if not clip.is_file()]
    if missing:
        parser.error(f"expected a video file, got {missing[0]}")
    report: dict[str, Any] = {"kind": "video", "meta": metadata("cpu"), "cases": []}
    for clip, name in itertools.product(options.clips, options.models):
        model = network(name)
        layers = LAYERS.get(name) if name in ("resnet50", "mobilenet_v3_large") else None
        if options.soak:
            report["cases"].append({"model": name, "clip": clip.name, "soak": soak(clip, model, layers, options.soak)})
            print(json.dumps({k: v for k, v in report["cases"][-1]["soak"].items() if k != "windows"}))
            continue
        case = {"model": name, "clip": clip.name, "size": list(next(decoded(clip)).shape[:2])}
        case["stages_ms"] = stages(clip, model, layers, options.frames)
        case["loops"] = loops(clip, model, layers, options.frames, options.compile)
        own = {stage: ms for stage, ms in case["stages_ms"].items() if stage != "encode"}
        case["share_beside_network"] = 1 - own["network"] / sum(own.values())
        report["cases"].append(case)
        print(json.dumps(case))
    write_json(options.output, report)
    if not options.soak:
        draw_chart(report, options.output.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
