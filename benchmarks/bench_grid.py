"""Grids of feature maps: the fused op against torchvision's make_grid, which loops over maps in Python.

    python benchmarks/bench_grid.py [--device cuda] [--rounds 20] [--json FILE]

For each convolution of AlexNet and VGG-16 at 224 x 224: all its maps, each from its least to its greatest value, side
by side in one uint8 picture. Candidates take turns in one process; medians and quartiles are of single grids. Both give
the same picture, which is checked first.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time

import torch
from torchvision import models
from torchvision.utils import make_grid

import camfast


def by_make_grid(maps: torch.Tensor, columns: int) -> torch.Tensor:
    """As notebooks do it: normalise each map in a loop, copy each into its place, then to 8 bits."""
    picture = make_grid(maps[:, None], columns, 2, normalize=True, scale_each=True, pad_value=1)
    return picture.mul(255).add_(0.5).clamp_(0, 255).to(torch.uint8).permute(1, 2, 0)


def by_batched_torch(maps: torch.Tensor, columns: int) -> torch.Tensor:
    """The plain-PyTorch reference: batched, without a loop, in several passes."""
    return camfast.reference.tile_maps(maps, camfast.colormaps.table("gray", maps.device), columns)


def by_camfast(maps: torch.Tensor, columns: int) -> torch.Tensor:
    return camfast.ops.tile_maps(maps, columns)


CANDIDATES = {"make_grid": by_make_grid, "batched torch": by_batched_torch, "camfast": by_camfast}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)
    images = torch.randn(1, 3, 224, 224, device=device)
    rows = []
    print(f"{'layer':24} {'maps':>14}  " + "  ".join(f"{name:>22}" for name in CANDIDATES) + "  over make_grid")
    for name in ("alexnet", "vgg16"):
        model = models.get_model(name, weights=None).eval().to(device)
        for layer, maps in camfast.FeatureMaps(model)(images).items():
            row = measure(maps[0], device, options.rounds)
            row |= {"network": name, "layer": layer, "maps": list(maps.shape[1:])}
            rows.append(row)
            line(f"{name} {layer}", "x".join(map(str, maps.shape[1:])), row["microseconds"])
        total = {c: sum(r["microseconds"][c][1] for r in rows if r["network"] == name) for c in CANDIDATES}
        line(f"{name}, all", "", {c: [t, t, t] for c, t in total.items()})
    if options.json:
        machine = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
        about = {"device": machine, "torch": torch.__version__, "camfast": camfast.__version__}
        with open(options.json, "w") as file:
            json.dump(about | {"threads": torch.get_num_threads(), "rows": rows}, file, indent=1)


def measure(maps: torch.Tensor, device: torch.device, rounds: int) -> dict:
    """Quartiles of each candidate's time, in microseconds, taken in turns."""
    columns = camfast.grid(maps).columns
    wanted = by_make_grid(maps, columns)
    for name, candidate in CANDIDATES.items():
        difference = (candidate(maps, columns).int() - wanted.int()).abs()
        # Of a value on the edge between two greys, rounding may take either.
        assert difference.max() <= 1 and (difference > 0).float().mean() < 0.01, name
    times: dict[str, list[float]] = {name: [] for name in CANDIDATES}
    for _ in range(rounds):
        for name, candidate in CANDIDATES.items():
            synchronize(device)
            start = time.perf_counter()
            candidate(maps, columns)
            synchronize(device)
            times[name].append((time.perf_counter() - start) * 1e6)
    return {"microseconds": {name: statistics.quantiles(values, n=4) for name, values in times.items()}}


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def line(what: str, shape: str, quartiles: dict[str, list[float]]) -> None:
    cells = [f"{q[1]:>10.0f} us ±{(q[2] - q[0]) / 2:>6.0f}" for q in quartiles.values()]
    ratio = quartiles["make_grid"][1] / quartiles["camfast"][1]
    print(f"{what:24} {shape:>14}  " + "  ".join(f"{cell:>22}" for cell in cells) + f"  {ratio:.0f}x")


if __name__ == "__main__":
    main()
