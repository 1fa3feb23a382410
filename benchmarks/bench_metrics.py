"""ROAD against pytorch-grad-cam's, insertion and deletion against torchcam's and the forward passes that they need.

    python benchmarks/bench_metrics.py                    # about 25 minutes on two cores, most of them pytorch-grad-cam's
    python benchmarks/bench_metrics.py --quick            # 8 images, 3 minutes
    python benchmarks/bench_metrics.py --images 64 --model efficientnet-lite1

ROAD is that of a user: both orders, five percentiles, imputation and scores; and the imputation alone, of the same masks.
Values are compared before they are written: ROAD's noise is each library's own, so that they differ by a little. Writes a JSON
and prints a table with the budgets: ROAD at least 20 times as fast, insertion and deletion at least twice as fast as torchcam
or at most 1.1 times the forward passes alone. Each library's batches are those that it takes unasked.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import HostTimer, Result, measure, progress
from report import RESULTS, metadata, one_line, table, tick, write_json
from torch import Tensor, nn

import camfast
from camfast import metrics, zoo
from camfast.metrics.removal import removed_pixels
from camfast.metrics.scores import Scored
from camfast.pictures import photos

PERCENTILES = (10.0, 30.0, 50.0, 70.0, 90.0)
STEPS = 20
PHOTOS = ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg", "motorcycle_left.png")
ROAD, ROAD_PEER = "camfast", "pytorch-grad-cam"
FASTER, OVER_FORWARD, FASTER_CURVES = 20.0, 1.1, 2.0
CLOSE = 0.02  # of mean scores, probabilities: noise of standard deviation 0.01 moves them by less


def main() -> int:
    options = _options()
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {
        "kind": "metrics",
        "meta": metadata(),
        "settings": {"model": options.model, "images": options.images, "percentiles": PERCENTILES, "steps": STEPS},
        "cases": [],
        "failed": [],
    }
    path = options.output or RESULTS / "metrics-cpu.json"
    model, images = _network(options.model, options.images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in progress([_imputation, _road, _curves], "metrics"):
            try:
                report["cases"].append(case(model, images, options))
            except Exception as error:  # one broken case must not lose the others; it fails the run at the end
                report["failed"].append({"label": case.__name__.strip("_"), "reason": one_line(error)})
            write_json(path, report)
    print(_table(report["cases"]))
    for failure in report["failed"]:
        print(f"FAILED {failure['label']}: {failure['reason']}")
    print(f"written: {path}")
    return 1 if report["failed"] else 0


def _imputation(model: nn.Module, images: Tensor, options: argparse.Namespace) -> dict[str, Any]:
    """The masks of ROAD imputed, without a forward pass."""
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    removed = removed_pixels(camfast.grad_cam(model, images).heatmap, PERCENTILES).flatten(0, 1)
    every = images.repeat(len(PERCENTILES), 1, 1, 1)
    theirs = NoisyLinearImputer()
    masks = (~removed).float()

    def peer() -> Tensor:
        return torch.stack([theirs(image, mask) for image, mask in zip(every, masks, strict=True)])

    exact = NoisyLinearImputer(noise=0)
    some = slice(None, None, max(1, len(every) // 10))
    expected = torch.stack([exact(image, mask) for image, mask in zip(every[some], masks[some], strict=True)])
    off = float((metrics.noisy_linear_imputation(every[some], removed[some], 0.0) - expected).abs().max())
    if off > 3e-3:
        raise ValueError(f"expected the direct solver's pixels, got a difference of {off:.2g}")
    calls = {ROAD: lambda: metrics.noisy_linear_imputation(every, removed), ROAD_PEER: peer}
    results = _timed(calls, options)
    return _row(f"imputation of {len(every)} masks", results, off, faster=FASTER)


def _road(model: nn.Module, images: Tensor, options: argparse.Namespace) -> dict[str, Any]:
    """The whole metric, and the forward passes alone."""
    from pytorch_grad_cam.metrics.road import ROADCombined
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    result = camfast.grad_cam(model, images)
    heat, targets = result.heatmap, [ClassifierOutputSoftmaxTarget(int(target)) for target in result.targets]
    found: dict[str, Any] = {}

    def ours() -> None:
        found[ROAD] = metrics.road(model, images, result, percentiles=PERCENTILES).combined

    def peer() -> None:
        with torch.no_grad():
            found[ROAD_PEER] = torch.from_numpy(ROADCombined(list(PERCENTILES))(images, heat.numpy(), targets, model))

    count = len(images) * (1 + 2 * len(PERCENTILES))
    results = _timed({ROAD: ours, ROAD_PEER: peer, "forward": lambda: _forward(model, images, count)}, options)
    off = abs(float(found[ROAD].mean() - found[ROAD_PEER].mean()))
    if off > CLOSE:
        raise ValueError(f"expected pytorch-grad-cam's mean ROAD, got a difference of {off:.2g}")
    return _row(f"ROAD of {len(images)} images, {count} passes", results, off, faster=FASTER)


def _curves(model: nn.Module, images: Tensor, options: argparse.Namespace) -> dict[str, Any]:
    """Insertion and deletion, and as many forward passes as torchcam needs for both."""
    from torchcam.methods import GradCAM
    from torchcam.metrics import DeletionInsertionMetric

    images = images[: max(2, len(images) // 8)]
    layer = camfast.GradCAM(model)
    layer(images[:1])
    name = layer.layers[0].partition("#")[0]  # torchcam sees the last call of a module
    softmax = partial(torch.softmax, dim=-1)
    found: dict[str, tuple[float, float]] = {}

    def ours() -> None:
        result = camfast.grad_cam(model, images, layers=layer.layers)
        both = [call(model, images, result, steps=STEPS, cover="zeros").area.mean()
                for call in (metrics.deletion, metrics.insertion)]  # fmt: skip
        found["camfast"] = float(both[0]), float(both[1])

    def peer() -> None:
        with GradCAM(model, name) as extractor:
            metric = DeletionInsertionMetric(extractor, softmax, steps=STEPS)
            metric.update(images)
        summary = metric.summary()
        found["torchcam"] = summary["deletion_auc"], summary["insertion_auc"]

    count = len(images) * (2 * STEPS + 2)
    results = _timed({"camfast": ours, "torchcam": peer, "forward": lambda: _forward(model, images, count)}, options)
    off = float(np.abs(np.subtract(found["camfast"], found["torchcam"])).max())  # its heat is of the probability
    label = f"insertion and deletion of {len(images)} images, {count} passes"
    return _row(label, results, off, faster=FASTER_CURVES, over_forward=OVER_FORWARD)


def _forward(model: nn.Module, images: Tensor, count: int) -> None:
    """``count`` images through the model, as camfast lays them out, in its batches."""
    scored = Scored(model, images[:1], torch.zeros(1, *images.shape[2:]))
    size = scored.batch_size
    batch = images[torch.arange(size) % len(images)].contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        for start in range(0, count, size):
            model(batch[: min(size, count - start)])


def _timed(calls: dict[str, Callable[[], Any]], options: argparse.Namespace) -> dict[str, Result]:
    """At least one round of each; the other libraries' take minutes."""
    timers = {name: HostTimer(call) for name, call in calls.items()}
    return measure(timers, seconds=options.seconds, min_rounds=options.rounds, max_rounds=20)


def _row(
    label: str, results: dict[str, Result], off: float, faster: float, over_forward: float | None = None
) -> dict[str, Any]:
    peer = next(name for name in results if name not in (ROAD, "forward"))
    speed = results[peer].ratio(results[ROAD])
    share = results[ROAD].ratio(results["forward"]) if "forward" in results else None
    within = speed >= faster or (over_forward is not None and share is not None and share <= over_forward)
    return {
        "label": label,
        "peer": peer,
        "times_as_fast": speed,
        "over_forward": share,
        "difference": off,
        "within": within,
        "times": {name: result.summary() for name, result in results.items()},
    }


def _network(name: str, count: int) -> tuple[nn.Module, Tensor]:
    """A trained network, and crops of scikit-image's photographs at its input's size."""
    import skimage

    network = zoo.load(name)
    folder = Path(str(skimage.__file__)).parent / "data"
    generator = np.random.default_rng(0)
    images = []
    for n in range(count):
        photo = photos.read(folder / PHOTOS[n % len(PHOTOS)])
        side = int(min(photo.shape[:2]) * generator.uniform(0.6, 1))
        top, left = (int(generator.integers(0, length - side + 1)) for length in photo.shape[:2])
        images.append(network.preparation.stretched()(photo[top : top + side, left : left + side]))
    return network.model, torch.stack(images)


def _table(cases: list[dict[str, Any]]) -> str:
    rows = []
    for case in cases:
        times = {name: tick(row["median_s"]) for name, row in case["times"].items()}
        rows.append(
            [
                case["label"],
                times[ROAD],
                f"{case['peer']} {times[case['peer']]}",
                times.get("forward", ""),
                f"{case['times_as_fast']:.1f}x",
                "" if case["over_forward"] is None else f"{case['over_forward']:.2f}x",
                f"{case['difference']:.1e}",
                "" if case["within"] else "MISSED",
            ]
        )
    head = ["case", "camfast", "other", "forward passes", "as fast", "of forward", "difference", "budget"]
    return table(head, rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="efficientnet-lite0", help="of the zoo (%(default)s)")
    parser.add_argument("--images", type=int, help="images of ROAD (64; 8 with --quick); an eighth for the curves")
    parser.add_argument("--threads", type=int, default=2, help="threads (%(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="of measurement a case, shared evenly (%(default)s)")
    parser.add_argument("--rounds", type=int, help="at least so many of each (3; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="few images, one round")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the JSON (results/metrics-cpu.json)")
    options = parser.parse_args()
    options.images = options.images or (8 if options.quick else 64)
    options.rounds = options.rounds or (1 if options.quick else 3)
    return options


if __name__ == "__main__":
    raise SystemExit(main())
