"""The tables of docs/metrics.md: methods measured on trained networks and real photographs, each one's best class.

    python benchmarks/real_photographs.py efficientnet-lite0 mobilenet_v2     # measures, and prints the tables
    python benchmarks/real_photographs.py --draw                              # prints them from the results that are there

The photographs are scikit-image's, scikit-learn's and foolbox's; networks and boxes those of ``tests/real_networks.py``.
Nothing is timed, so that other programs may run meanwhile; stopped and started again, it goes on with the next method.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import camfast
from camfast import metrics
from camfast.pictures import photos

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "real-photographs.json"
METHODS = [
    "grad_cam",
    "grad_cam_plus_plus",
    "layer_cam",
    "recipro_cam",
    "score_cam",
    "eigen_cam",
    "random_cam",
]
OPTIONS: dict[str, dict[str, Any]] = {"score_cam": {"channels": 16}, "random_cam": {"seed": 0}}
FAITHFULNESS = ["insertion", "deletion", "road", "average_drop", "adcc", "max_sensitivity", "randomisation"]
LOCALISATION = ["pointing_game", "energy_inside", "iou", "max_box_acc"]
CLEAR = 3.0  # paired standard errors that a difference must be: seven methods and eleven metrics are many looks
PLAIN = {
    "skimage": ("data", ["chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png"]),
    "sklearn": ("datasets/images", ["china.jpg", "flower.jpg"]),
    "foolbox": ("data", ["imagenet_*.jpg"]),
}

Values = dict[str, dict[str, list[float]]]  # by method and metric, a value per photograph


def photographs() -> list[Path]:
    """Real photographs in colour that installed packages carry."""
    found = []
    for package, (folder, patterns) in PLAIN.items():
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            for pattern in patterns:
                found += sorted((Path(place) / folder).glob(pattern))
    return found


def measure(name: str, found: dict[str, Any], save: Callable[[], None]) -> None:
    """All metrics of all methods for one network, into ``found``; methods that are there already are left as they are."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    import real_networks

    trained = real_networks.CLASSIFIERS[name]()
    prepare = trained.preparation.stretched()
    files = photographs()
    images = torch.stack([prepare(photos.read(file)) for file in files])
    scenes = [real_networks.scene(each) for each in ("cat", "cup", *real_networks.FOOLBOX)]
    objects = torch.stack([prepare(scene.photo) for scene in scenes])
    boxes = [torch.tensor(scene.boxes) for scene in scenes]
    with torch.no_grad():
        scores = trained.model(objects).tolist()
    classes = [max(scene.classes, key=row.__getitem__) for scene, row in zip(scenes, scores, strict=True)]
    found |= {"photographs": [file.name for file in files], "objects": [scene.name for scene in scenes]}
    for method in METHODS:
        told = {"options": OPTIONS, "progress": True}
        if method not in found.setdefault("faithfulness", {}):
            compared = camfast.compare(trained.model, [method], images, FAITHFULNESS, **told)
            found["faithfulness"] |= _lists(compared.values)
            save()
        if method not in found.setdefault("localisation", {}):
            told |= {"boxes": boxes, "box_size": (1, 1)}
            compared = camfast.compare(trained.model, [method], objects, LOCALISATION, classes, **told)
            found["localisation"] |= _lists(compared.values)
            save()


def _lists(values: dict[str, dict[str, torch.Tensor]]) -> Values:
    return {
        method: {name: [round(value, 5) for value in row.tolist()] for name, row in own.items()}
        for method, own in values.items()
    }


def table(values: Values, names: list[str]) -> str:
    """Means with their standard errors; bold: the best and what is not clearly worse, ``~``: no clear difference from RandomCAM."""
    lines = [["method", *(f"{name.replace('_', ' ')} {'^' if _higher(name) else 'v'}" for name in names)]]
    for method, own in values.items():
        line = [method]
        for name in names:
            mean, error = _mean(own[name])
            if math.isnan(mean):
                line.append("-")
                continue
            known = [each for each in values if not math.isnan(_mean(values[each][name])[0])]
            best = (max if _higher(name) else min)(known, key=lambda each: _mean(values[each][name])[0])
            text = f"{mean:.3f} ± {error:.3f}"
            if method == best or not _clear(own[name], values[best][name]):
                text = f"**{text}**"
            if method != "random_cam" and not _clear(own[name], values["random_cam"][name]):
                text += " ~"
            line.append(text)
        lines.append(line)
    rule = ["---", *["---:"] * len(names)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


def _higher(name: str) -> bool:
    return metrics.METRICS[name].better == "higher"


def _mean(values: list[float]) -> tuple[float, float]:
    known = torch.tensor([value for value in values if math.isfinite(value)], dtype=torch.float64)
    if len(known) < 2:
        return math.nan, math.nan
    return float(known.mean()), float(known.std()) / len(known) ** 0.5


def _clear(a: list[float], b: list[float]) -> bool:
    """Whether the same photographs' values differ by more than :data:`CLEAR` standard errors of their difference."""
    mean, error = _mean([x - y for x, y in zip(a, b, strict=True)])
    return abs(mean) > CLEAR * error


def _write(found: dict[str, Any], place: Path) -> None:
    text = json.dumps(found, indent=1)
    text = re.sub(r"\[[^][{}]*\]", lambda row: " ".join(row[0].split()), text)  # a line for each list of values
    place.write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Measures the networks named, keeps the values, prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", help="of tests/real_networks.py")
    parser.add_argument("--draw", action="store_true", help="print the tables of what was measured")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the values, JSON (%(default)s)")
    options = parser.parse_args()
    if not options.networks and not options.draw:
        parser.error("expected networks, or --draw")
    found = json.loads(options.output.read_text()) if options.output.exists() else {}
    for name in options.networks:
        measure(name, found.setdefault(name, {}), lambda: _write(found, options.output))
    for name, own in found.items():
        for what, names, of in (
            ("faithfulness", FAITHFULNESS, "photographs"),
            ("localisation", LOCALISATION, "objects"),
        ):
            print(f"\n{name}, {len(own[of])} {of}\n\n{table(own[what], names)}")


if __name__ == "__main__":
    main()
