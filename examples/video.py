"""A clip: the heat of the likeliest class over each frame, and how the classes change.

    python examples/video.py clip.mp4 explained.mp4

`camfast video clip.mp4 -o explained.mp4` does the same and more. For a camera, or frames of any other origin, use the engine
alone: `for result in engine.stream(frames): show(result.overlay())`. Needs `pip install "camfast[demo,video]"`.
"""

from __future__ import annotations

import sys
from collections import Counter

import camfast
from camfast import zoo
from camfast.video import explain_video


def main(source: str, target: str) -> None:
    network = zoo.load("efficientnet-lite0")
    engine = camfast.Realtime(
        network.model,
        "grad_cam",
        smooth=0.6,  # the share of the past in the heat
        sticky=0.1,  # the class changes when another's probability is higher by this
        preparation=network.preparation.stretched(),
        class_names=network.class_names,
    )
    report = explain_video(source, target, engine, layout="side-by-side")
    print(report)
    best = Counter(network.class_name(row.classes[0]) for row in report.rows if row.classes)
    for name, frames in best.most_common(5):
        print(f"{frames:5} frames  {name}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
