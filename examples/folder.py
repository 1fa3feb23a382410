"""A folder of photographs: an overlay of each, and a table of their classes.

    python examples/folder.py photos/ explained/

`camfast image photos/ -o explained/` does the same and more; this is how to do it in a program of your own.
Needs `pip install "camfast[demo]"`.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import torch

import camfast
from camfast import zoo
from camfast.pictures import photos

BATCH = 8


def main(source: str, target: str) -> None:
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    files, errors = photos.find([source], without=[folder])
    for error in errors:
        print(error, file=sys.stderr)

    network = zoo.load("efficientnet-lite0")
    prepare = network.preparation.stretched()
    explainer = camfast.GradCAM(network.model, class_names=network.class_names)  # finds the layer once, for all batches
    with open(folder / "classes.csv", "w", newline="") as table:
        rows = csv.writer(table)
        rows.writerow(["photo", "class", "score", "overlay"])
        for start in range(0, len(files), BATCH):
            batch = files[start : start + BATCH]
            pictures = [photos.read(file) for file in batch]  # of any sizes
            result = explainer(torch.stack([prepare(picture) for picture in pictures]))
            scores = result.scores.softmax(1).amax(1).tolist()
            for n, (file, picture) in enumerate(zip(batch, pictures, strict=True)):
                overlay = result[n].overlay(picture)[0]  # at the photograph's own size
                written = photos.write(overlay.numpy(), folder / f"{file.stem}.png")
                rows.writerow([file, result.label(n), f"{scores[n]:.3f}", written])
                print(f"{scores[n]:6.1%}  {result.label(n):24}  {written}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
