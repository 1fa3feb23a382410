"""Grids of feature maps: the fused op against torchvision's make_grid, which loops over maps in Python.

    python benchmarks/bench_grid.py                        # CPU, two minutes
    python benchmarks/bench_grid.py --device cuda

For each convolution of AlexNet and VGG-16 at 224 x 224: all its maps, each from its least to its greatest value, side
by side in one uint8 picture. All give the same picture, which is checked first. Writes a JSON, prints a table, draws a
chart.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from harness import HostTimer, measure, progress
from report import OURS, RESULTS, metadata, table, tick, write_json
from torchvision import models
from torchvision.utils import make_grid

import camfast

LOOP = "make_grid"


def by_make_grid(maps: torch.Tensor, columns: int) -> torch.Tensor:
    """As notebooks do it: normalise each map in a loop, copy each into its place, then to 8 bits."""
    picture = make_grid(maps[:, None], columns, 2, normalize=True, scale_each=True, pad_value=1)
    return picture.mul(255).add_(0.5).clamp_(0, 255).to(torch.uint8).permute(1, 2, 0)


def by_batched_torch(maps: torch.Tensor, columns: int) -> torch.Tensor:
    """The plain-PyTorch reference: batched, without a loop, in several passes."""
    return camfast.reference.tile_maps(maps, camfast.colormaps.table("gray", maps.device), columns)


def by_camfast(maps: torch.Tensor, columns: int) -> torch.Tensor:
    return camfast.ops.tile_maps(maps, columns)


CANDIDATES = {OURS: by_camfast, LOOP: by_make_grid, "batched torch": by_batched_torch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=4.0, help="time a layer (default 4)")
    parser.add_argument("--output", type=Path, metavar="JSON", help="default benchmarks/results/grid-DEVICE.json")
    parser.add_argument("--no-chart", dest="chart", action="store_false")
    options = parser.parse_args()
    path = options.output or RESULTS / f"grid-{options.device}.json"
    torch.manual_seed(0)
    images = torch.randn(1, 3, 224, 224, device=options.device)
    report: dict[str, Any] = {
        "kind": "grid",
        "meta": metadata(options.device),
        "settings": {"seconds": options.seconds, "weights": "random", "images": "random"},
        "cases": [],
    }
    layers = []
    for name in ("alexnet", "vgg16"):
        model = models.get_model(name, weights=None).eval().to(options.device)
        layers += [(f"{name} {layer}", maps[0]) for layer, maps in camfast.FeatureMaps(model)(images).items()]
    for label, maps in progress(layers, "grids"):
        label = f"{label}, {'x'.join(map(str, maps.shape))}"
        report["cases"].append({"label": label, "rows": compared(maps, options.seconds)})
    write_json(path, report)
    print(tables(report))
    print(f"\n{path}")
    if options.chart:
        from charts import draw

        print(draw(path))


def compared(maps: torch.Tensor, seconds: float) -> list[dict[str, Any]]:
    """Each candidate's time for one picture of ``maps`` ``[C, h, w]``."""
    columns = camfast.grid(maps).columns
    wanted = by_make_grid(maps, columns)
    for name, candidate in CANDIDATES.items():
        difference = (candidate(maps, columns).int() - wanted.int()).abs()
        # Of a value on the edge between two greys, rounding may take either.
        assert difference.max() <= 1 and (difference > 0).float().mean() < 0.01, name
    wait = torch.cuda.synchronize if maps.is_cuda else None
    timers = {name: HostTimer(partial(call, maps, columns), wait) for name, call in CANDIDATES.items()}
    results = measure(timers, seconds=seconds, min_rounds=5, max_rounds=200)
    ours = results[OURS]
    return [
        {"candidate": name, "mode": "wall", **result.summary(), "over_camfast": result.ratio(ours)}
        for name, result in results.items()
    ]


def tables(report: dict[str, Any]) -> str:
    rows = []
    for case in report["cases"]:
        by_name = {row["candidate"]: row for row in case["rows"]}
        others = [f"{row['over_camfast']:.1f}x" for name, row in by_name.items() if name != OURS]
        rows.append([case["label"], tick(by_name[OURS]["median_s"]), *others])
    for network in ("alexnet", "vgg16"):
        own = [case["rows"] for case in report["cases"] if case["label"].startswith(network)]
        total = {
            name: sum(r["median_s"] for rows in own for r in rows if r["candidate"] == name) for name in CANDIDATES
        }
        others = [f"{total[name] / total[OURS]:.1f}x" for name in CANDIDATES if name != OURS]
        rows.append([f"{network}, all", tick(total[OURS]), *others])
    return table(["maps", OURS, *(name for name in CANDIDATES if name != OURS)], rows)


if __name__ == "__main__":
    main()
