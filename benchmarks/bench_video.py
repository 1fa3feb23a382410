"""A video's frames explained: where the time goes, and against the loop people write today.

    python benchmarks/bench_video.py CLIP.mp4 [--models resnet50 mobilenet_v3_large efficientnet-lite0]
    python benchmarks/bench_video.py CLIP.mp4 --soak 30

Candidates take turns, frame by frame, on the same frames. Stages are those of camfast's loop: decode, preprocess, network
(the plain forward of the same images), explain (scores and map, less the network), overlay, encode. Loops are whole: decoding,
one frame's picture, no encoding.

    camfast            camfast.Realtime
    camfast, compiled  the same with compile=True
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
from camfast.methods.compiled import compiled
from camfast.pictures.frames import draw
from camfast.threads import Ahead
from camfast.video.realtime import IMAGENET_MEAN, IMAGENET_STD
from camfast.video.realtime.network import faster_in_channels_last

LAYERS = {"resnet50": "layer4", "mobilenet_v3_large": "features", "efficientnet-lite0": None}
STAGES = ("decode", "preprocess", "network", "explain", "overlay", "encode")
COLORS = ("#8d99ae", "#5aa9e6", "#1b3a5c", "#c8102e", "#f4a261", "#d9d9d9")
SIZE = 224
SECONDS, LEAST = 15.0, 7  # a part of the benchmark ends after that time, but measures that many frames


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


def stages(
    clip: Path, model: torch.nn.Module, layers: str | None, frames: int, compile: bool, channels_last: bool
) -> dict[str, float]:
    """Milliseconds a frame of each stage: the lower quartile, since a busy neighbour only ever adds to them."""
    explainer = camfast.GradCAM(model, layers)
    times: dict[str, list[float]] = defaultdict(list)
    source, encoder = decoded(clip), None
    if compile:
        explainer = compiled(explainer, prepared(torch.from_numpy(next(source))[None], channels_last))
    plain = explainer.model  # whole, or in its two compiled halves

    def timed(stage: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = call()
        times[stage].append((time.perf_counter() - start) * 1000)
        return result

    end = time.monotonic() + SECONDS
    for n in range(frames + 3):
        if n == 3:  # the first ones are cold
            times.clear()
        if n >= 3 + LEAST and time.monotonic() > end:
            break
        frame = timed("decode", lambda: next(source))
        encoder = encoder or Encoder(frame.shape)
        given = torch.from_numpy(frame)[None]
        box = (0.0, 0.0, float(frame.shape[1]), float(frame.shape[0]))
        images = timed("preprocess", lambda given=given: prepared(given, channels_last))
        with torch.no_grad():
            timed("network", lambda images=images: plain(images))
        result = timed("scores and map", lambda images=images: explainer(images, size="map"))
        picture = timed("overlay", lambda given=given, r=result, box=box: draw(given, r.heatmap, box))
        timed("encode", lambda p=picture, encode=encoder: encode(p[0].numpy()))
    found = {stage: float(np.percentile(values, 25)) for stage, values in times.items()}
    found["explain"] = max(found["scores and map"] - found["network"], 0.0)
    return {stage: found[stage] for stage in STAGES}


def share_beside_network(stages_ms: dict[str, float]) -> float:
    """Of the loop without encoding: what is neither the network nor its explanation's backward pass."""
    beside = sum(stages_ms[stage] for stage in ("decode", "preprocess", "overlay"))
    return beside / (beside + stages_ms["network"] + stages_ms["explain"])


def prepared(frames: torch.Tensor, channels_last: bool) -> torch.Tensor:
    return ops.preprocess(frames, SIZE, IMAGENET_MEAN, IMAGENET_STD, channels_last=channels_last)


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
        images = preprocess_image(cv2.resize(frame, (SIZE, SIZE)), IMAGENET_MEAN, IMAGENET_STD)
        heat = explain(input_tensor=images, targets=None)[0]
        return show_cam_on_image(frame, cv2.resize(heat, frame.shape[1::-1]), use_rgb=True)

    return step


def in_turns(candidates: dict[str, Callable[[], Any]], base: str, rounds: int) -> dict[str, Any]:
    """Median milliseconds of each, and the median of its ratios to ``base``, round by round."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for call in [*candidates.values()] * 2:
        call()
    end = time.monotonic() + SECONDS
    for n in range(rounds):
        if n >= LEAST and time.monotonic() > end:
            break
        for name in names[n % len(names) :] + names[: n % len(names)]:
            start = time.perf_counter()
            candidates[name]()
            times[name].append((time.perf_counter() - start) * 1000)
    ratios = {name: [a / b for a, b in zip(times[name], times[base], strict=True)] for name in names}
    return {
        "rounds": len(times[base]),
        "milliseconds": {name: statistics.median(times[name]) for name in names},
        f"over_{base}": {name: statistics.median(ratios[name]) for name in names},
    }


def passes(model: torch.nn.Module, layers: str | None, rounds: int, channels_last: bool) -> dict[str, Any]:
    """Scores and map against the plain eager forward, of the same images in memory; and what compiling took."""
    images = torch.rand(1, 3, SIZE, SIZE)
    given = images.contiguous(memory_format=torch.channels_last) if channels_last else images
    explainer, quick = camfast.GradCAM(model, layers), camfast.GradCAM(model, layers, compile=True)
    quick(given, size="map")
    start = time.perf_counter()
    quick(given, size="map")  # the second call compiles
    took = time.perf_counter() - start
    if quick.compile_problem is not None:
        raise ValueError(quick.compile_problem)

    def forward() -> None:
        with torch.inference_mode():
            model(images)

    candidates = {
        "forward": forward,
        "scores and map": lambda: explainer(given, size="map"),
        "scores and map, compiled": lambda: quick(given, size="map"),
    }
    return {**in_turns(candidates, "forward", rounds), "compile_seconds": took}


def loops(clip: Path, model: torch.nn.Module, layers: str | None, frames: int) -> dict[str, Any]:
    """Each candidate's whole loop, in turns."""

    def camfasts(compile: bool) -> Callable[[], Any]:
        source, engine = decoded(clip), camfast.Realtime(model, layers=layers, compile=compile)
        return lambda: engine(next(source))

    source = decoded(clip)

    def forward() -> None:
        frame = cv2.resize(next(source), (SIZE, SIZE)).astype(np.float32) / 255
        images = torch.from_numpy(frame).permute(2, 0, 1)[None].contiguous()
        with torch.inference_mode():
            model(images)

    # Their hooks stay on the layer while they are there: a copy of the network keeps them away from the others.
    twin = copy.deepcopy(model)
    found = camfast.GradCAM(model, layers)
    found(torch.rand(1, 3, SIZE, SIZE))
    candidates: dict[str, Callable[[], Any]] = {
        "camfast": camfasts(False),
        "camfast, compiled": camfasts(True),
        "pytorch-grad-cam": theirs(clip, twin, twin.get_submodule(found.layers[0])),
        "forward": forward,
    }
    return in_turns(candidates, "camfast", frames)


def soak(clip: Path, model: torch.nn.Module, layers: str | None, minutes: float) -> dict[str, Any]:
    """Memory and latency over ``minutes`` of the clip, again and again; what was left behind afterwards."""
    threads, model = threading.active_count(), model.eval()
    windows: list[dict[str, float]] = []
    end, window = time.monotonic() + 60 * minutes, max(5.0, 60 * minutes / 20)
    source = Ahead(decoded(clip), 4, "decode")
    with camfast.Realtime(model, layers=layers, smooth=0.5, compile="auto") as engine:
        while time.monotonic() < end:
            latencies, until = [], min(time.monotonic() + window, end)
            while not latencies or time.monotonic() < until:
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
    """Stacked bars: the stages of each network and clip; the whole loops of all candidates beside them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [(case, kind) for case in report["cases"] for kind in ("stages_ms", "stages_compiled_ms")]
    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 1.4 + 0.46 * len(rows)), gridspec_kw={"wspace": 0.42})
    for row, (case, kind) in enumerate(rows):
        at = 0.0
        for stage, color in zip(STAGES, COLORS, strict=True):
            width = case[kind][stage]
            left.barh(row, width, left=at, color=color, label=stage if row == 0 else None, height=0.7)
            at += width
    labels = [f"{case['model']}{', compiled' if 'comp' in kind else ''}\n{_clip(case)}" for case, kind in rows]
    left.set_yticks(range(len(rows)), labels, fontsize=7)
    left.set_xlabel(f"stages of camfast's loop: milliseconds a frame, {report['stages']}")
    left.legend(ncols=len(STAGES), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=8)
    candidates = ("camfast, compiled", "camfast", "forward", "pytorch-grad-cam")
    for i, (name, color) in enumerate(zip(candidates, ("#c8102e", "#ef8a8f", "#1b3a5c", "#b5bac4"), strict=True)):
        values = [case["loops"]["milliseconds"][name] for case in report["cases"]]
        places = [row + (i - 1.5) * 0.2 for row in range(len(values))]
        right.barh(places, values, color=color, height=0.18, label=name)
        for place, value in zip(places, values, strict=True):
            right.text(value, place, f" {1000 / value:.1f} frames/s", va="center", fontsize=7)
    right.set_yticks(range(len(report["cases"])), [f"{c['model']}\n{_clip(c)}" for c in report["cases"]], fontsize=7)
    right.set_xlabel("whole loops without encoding: milliseconds a frame, median")
    right.margins(x=0.15)
    right.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=8)
    for axes in (left, right):
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=110, bbox_inches="tight")
    plt.close(figure)


def _clip(case: dict[str, Any]) -> str:
    return f"{case['clip']}, {case['size'][1]} x {case['size'][0]}"


def measured(clip: Path, name: str, model: torch.nn.Module, layers: str | None, frames: int) -> dict[str, Any]:
    """All figures of one network and clip."""
    channels_last = faster_in_channels_last(model, torch.ones(1, 3, SIZE, SIZE))
    case: dict[str, Any] = {"model": name, "clip": clip.name, "size": list(next(decoded(clip)).shape[:2])}
    case["channels_last"] = channels_last
    for key, compile in (("stages_ms", False), ("stages_compiled_ms", True)):
        case[key] = stages(clip, model, layers, frames, compile, channels_last)
    print(json.dumps(case), file=sys.stderr, flush=True)
    case["share_beside_network"] = share_beside_network(case["stages_ms"])
    case["share_beside_network_compiled"] = share_beside_network(case["stages_compiled_ms"])
    case["passes"] = passes(model, layers, frames, channels_last)
    case["loops"] = loops(clip, model, layers, frames)
    return case


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--models", nargs="+", default=list(LAYERS))
    parser.add_argument("--frames", type=int, default=30, help="measured in each loop (%(default)s)")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="memory and latency over time instead")
    parser.add_argument("--output", type=Path, help="the results; cases of other clips and models that are there stay")
    options = parser.parse_args()
    missing = [clip for clip in options.clips if not clip.is_file()]
    if missing:
        parser.error(f"expected a video file, got {missing[0]}")
    output = options.output or RESULTS / ("video-soak-cpu.json" if options.soak else "video-cpu.json")
    report: dict[str, Any] = {"kind": "video", "meta": metadata("cpu"), "stages": "lower quartile", "cases": []}
    if output.exists():
        report = {**json.loads(output.read_text()), "meta": report["meta"]}
    for clip, name in itertools.product(options.clips, options.models):
        torch.manual_seed(0)
        model = network(name).eval()
        if options.soak:
            case = {"model": name, "clip": clip.name, "soak": soak(clip, model, LAYERS[name], options.soak)}
        else:
            case = measured(clip, name, model, LAYERS[name], options.frames)
        print(json.dumps(case), flush=True)
        same = (name, clip.name)
        report["cases"] = [c for c in report["cases"] if (c["model"], c["clip"]) != same] + [case]
        write_json(output, report)
    if not options.soak:
        draw_chart(report, output.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
