"""The real-time engine on frames that are already there: frames a second, and how late the latest ones are.

    python benchmarks/bench_realtime.py --device cuda [--models resnet50 ...] [--dtype float16] [--frames 10000]

No decoding and no encoding; ``bench_video.py`` measures those. Frames are 1080p pictures, on the device or in memory, which
are two different things on CUDA: 6 MB go up and 6 MB come down.

    call     one frame after the other, each finished before the next: latency
    stream   ``engine.stream``: uploads, computing and downloads of three frames overlap
    batch    eight frames a call

and, for comparison, ``network`` (the plain forward of prepared images: in a CUDA graph on CUDA, which is the limit of any
explanation), ``no graph``, and ``pytorch-grad-cam`` (OpenCV resizing, GradCAM, show_cam_on_image: the loop people write).
Weights are random: time does not depend on them.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import progress
from report import RESULTS, metadata, one_line, table, write_json
from torch import Tensor, nn

import camfast
from camfast import ops, zoo
from camfast.video.realtime import IMAGENET_MEAN, IMAGENET_STD

LAYERS = {"resnet50": "layer4", "mobilenet_v3_large": "features", "efficientnet_b0": "features"}
SIZE, BATCH, WARM = 224, 8, 20
PICTURES = 8  # different frames that take turns
SECONDS = 1.5  # a candidate other than the long one; it measures LEAST frames in any case
LEAST = 5


def pictures(height: int, width: int) -> Tensor:
    """uint8 ``[PICTURES, H, W, 3]``, smooth enough to be looked at and different from each other."""
    torch.manual_seed(0)
    coarse = torch.rand(PICTURES, 3, 9, 16)
    fine = nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp_(0, 1)
    return (fine * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def latencies(call: Callable[[], Any], frames: int, seconds: float, each: int = 1) -> dict[str, Any]:
    """Milliseconds a frame of up to ``frames`` calls, one after the other, each of ``each`` frames."""
    for _ in range(WARM if each == 1 else 3):
        call()
    times, end = [], time.monotonic() + seconds
    while len(times) < frames and (len(times) < LEAST or time.monotonic() < end):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1000 / each)
    return summary(times)


def summary(times: list[float]) -> dict[str, Any]:
    median, p99, most = np.percentile(times, [50, 99, 100])
    return {
        "frames": len(times),
        "median_ms": float(median),
        "p99_ms": float(p99),
        "max_ms": float(most),
        "p99_over_median": float(p99 / median),
        "frames_per_s": 1000 / float(np.mean(times)),
    }


def throughput(engine: camfast.Realtime, frames: Iterator[Any], seconds: float) -> dict[str, Any]:
    """Frames a second of ``engine.stream``, results taken as they come; spread over ten parts."""
    stream, parts = engine.stream(frames), []
    for _ in itertools.islice(stream, WARM):
        pass
    for _ in range(10):
        count, start = 0, time.perf_counter()
        while not count or time.perf_counter() - start < seconds / 10:
            next(stream)
            count += 1
        parts.append((time.perf_counter() - start) * 1000 / count)
    stream.close()
    return summary(parts)


def graphed(model: nn.Module, images: Tensor) -> Callable[[], Any]:
    """The plain forward, replayed from a CUDA graph, and waited for."""
    with torch.inference_mode():
        if images.device.type != "cuda":
            return lambda: _forward(model, images)
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                model(images)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            model(images)

    def call() -> None:
        graph.replay()
        torch.cuda.synchronize()

    return call


def _forward(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(images)


def theirs(model: nn.Module, layer: str, frames: Iterator[np.ndarray]) -> Callable[[], Any]:
    import cv2
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.image import preprocess_image, show_cam_on_image

    explain = GradCAM(model=model, target_layers=[model.get_submodule(layer)])
    some = next(model.parameters())

    def step() -> np.ndarray:
        frame = np.float32(next(frames)) / 255
        images = preprocess_image(cv2.resize(frame, (SIZE, SIZE)), IMAGENET_MEAN, IMAGENET_STD)
        heat = explain(input_tensor=images.to(some.device, some.dtype), targets=None)[0]
        return show_cam_on_image(frame, cv2.resize(np.float32(heat), frame.shape[1::-1]), use_rgb=True)

    return step


def checked(engine: camfast.Realtime, eager: camfast.Realtime, frame: Tensor) -> float:
    """The largest difference between the two engines' maps of one frame; raises where it is more than rounding."""
    difference = float((engine(frame).heatmap - eager(frame).heatmap).abs().max())
    if not difference < 0.1:
        raise ValueError(f"expected the same map with and without a graph, got a difference of {difference:.2g}")
    return difference


def measured(name: str, dtype: torch.dtype, options: argparse.Namespace) -> dict[str, Any]:
    """All candidates of one network."""
    device, layer = torch.device(options.device), LAYERS[name]
    cuda = device.type == "cuda"
    model = zoo.untrained(name)[0].eval()
    height, width = options.size
    host = pictures(height, width)
    there = host.to(device)
    last = cuda and dtype != torch.float32
    settings: dict[str, Any] = {"layers": layer, "device": device, "dtype": dtype, "frame_size": (height, width)}
    settings["channels_last"] = True if last else None

    def source(frames: Any) -> Iterator[Any]:
        return itertools.cycle(list(frames))

    rows: dict[str, Any] = {}
    case: dict[str, Any] = {"model": name, "dtype": str(dtype).removeprefix("torch."), "size": [height, width]}
    case["rows"] = rows
    with contextlib.ExitStack() as open_engines:
        engine = open_engines.enter_context(camfast.Realtime(model, **settings, compile=options.compile))
        eager = open_engines.enter_context(camfast.Realtime(model, **settings, graph=False))
        case["graph_difference"] = checked(engine, eager, there[0])
        case |= {"graph_problem": engine.graph_problem, "compile_problem": engine.compile_problem}
        on_device, in_memory = source(there), source(host.numpy())
        before = _allocations() if cuda else None
        rows["call, on the device"] = latencies(lambda: engine(next(on_device)), options.frames, 60.0)
        if cuda:
            case["allocations_from_the_driver"] = _allocations() - before
        rows["stream, on the device"] = throughput(engine, on_device, SECONDS)
        if cuda:
            rows["call, in memory"] = latencies(lambda: engine(next(in_memory)), options.frames, SECONDS)
            rows["stream, in memory"] = throughput(engine, in_memory, SECONDS)
            rows["no graph, on the device"] = latencies(lambda: eager(next(on_device)), options.frames, SECONDS)
        many = there[:BATCH]
        rows["batch, on the device"] = latencies(lambda: engine(many), options.frames, SECONDS, BATCH)
        images = ops.preprocess(there[:1], SIZE, IMAGENET_MEAN, IMAGENET_STD, dtype, channels_last=last)
        plain = model.to(device, dtype)
        if last:
            plain = plain.to(memory_format=torch.channels_last)
        rows["network"] = latencies(graphed(plain, images), options.frames, SECONDS)
        try:
            rows["pytorch-grad-cam"] = latencies(theirs(plain, layer, in_memory), 60, SECONDS)
        except Exception as error:  # not installed, or not for this dtype
            case["refused"] = one_line(error)
    return case


def _allocations() -> int:
    return torch.cuda.memory_stats().get("num_device_alloc", 0)


def tables(report: dict[str, Any]) -> str:
    parts = []
    for case in report["cases"]:
        lines = [
            [
                name,
                f"{row['frames_per_s']:.0f}",
                f"{row['median_ms']:.3f}",
                f"{row['p99_over_median']:.2f}",
                f"{row['median_ms'] / case['rows']['call, on the device']['median_ms']:.2f}",
                str(row["frames"]),
            ]
            for name, row in case["rows"].items()
        ]
        header = ["", "frames/s", "median ms", "p99 / median", "over call", "samples"]
        title = f"{case['model']} {case['dtype']}, {case['size'][1]} x {case['size'][0]}"
        parts.append(f"\n{title}\n{table(header, lines)}")
    return "\n".join(parts + [f"failed: {x['label']} ({x['reason']})" for x in report["failed"]])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--models", nargs="+", default=list(LAYERS), choices=list(LAYERS))
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--size", nargs=2, type=int, default=(1080, 1920), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--frames", type=int, default=1000, help="measured one after the other (%(default)s)")
    parser.add_argument("--compile", action="store_true", help="the networks compiled")
    parser.add_argument("--output", type=Path, metavar="JSON", help="default benchmarks/results/realtime-DEVICE.json")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a CUDA device, got none")
    path = options.output or RESULTS / f"realtime-{options.device}.json"
    report: dict[str, Any] = {"kind": "realtime", "meta": metadata(options.device), "cases": [], "failed": []}
    for name, dtype in progress(list(itertools.product(options.models, options.dtype)), "realtime"):
        try:
            report["cases"].append(measured(name, getattr(torch, dtype), options))
        except Exception as error:  # one broken case must not lose the others; it fails the run at the end
            report["failed"].append({"label": f"{name} {dtype}", "reason": one_line(error)})
        write_json(path, report)
    print(tables(report))
    print(f"\n{path}")
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
