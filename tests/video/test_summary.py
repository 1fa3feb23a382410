"""Table and chart of a clip: no score is a false zero, and what was explained is always there."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("av")
pytest.importorskip("PIL")

from clips import make, moving

import camfast
from camfast.video import explain_video, summary
from camfast.video.loop import Row


class Ramp(nn.Module):
    """Twelve classes, whose scores do not depend on the frame: class n is n-th best."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 8, 8)

    def forward(self, x):
        steps = torch.arange(12, 0, -1.0) / 8
        return self.conv(x).mean((1, 2, 3))[:, None] * 1e-3 + steps


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("summary")
    engine = camfast.Realtime(Ramp().eval(), layers="conv", input_size=64, targets=[9, 4])
    clip = make(folder / "clip.mp4", moving(5), rate=10)
    return explain_video(clip, folder / "out.mp4", engine).rows


def test_the_explained_class_is_in_the_table(rows, tmp_path):
    expected = (torch.arange(12, 0, -1.0) / 8).softmax(0)
    with summary.write_table(rows, str, tmp_path / "table.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["frame"] == "0"]
    assert [(line["class"], line["rank"], line["explained"]) for line in lines] == [
        ("0", "1", "0"),
        ("1", "2", "0"),
        ("2", "3", "0"),
        ("4", "5", "1"),
        ("9", "10", "1"),
    ]
    for line in lines:
        assert float(line["score"]) == pytest.approx(float(expected[int(line["class"])]), abs=2e-3)


def test_scores_outside_the_best_are_no_zeros(rows):
    expected = (torch.arange(12, 0, -1.0) / 8).softmax(0)
    for number in range(12):
        assert rows[0].score(number) == pytest.approx(float(expected[number]), abs=2e-3)
    assert summary._shown(rows) == [4, 9, 0, 1, 2]


def test_the_chart_draws_what_is_not_among_the_best_three():
    """A class that is fourth at 20 percent in the second half: its line is not at the bottom."""
    others = {0: 0.3, 1: 0.25, 2: 0.25, 3: 0.2}
    rows = [Row(n, n / 10, [0, 1, 2], [0.3, 0.25, 0.25], {3: (4, 0.2)}, others) for n in range(20)]
    picture = np.asarray(summary.chart(rows, str)).astype(int)
    assert summary._shown(rows)[0] == 3
    first = np.abs(picture[:, 200:1100] - np.array(summary._LINES[0])).sum(-1) < 30  # the first class's line
    heights = np.nonzero(first.any(1))[0]
    assert heights.min() > 540 and heights.max() < 660  # at 20 of 100 percent, not at the bottom, 720
    names = []
    summary.chart(rows, lambda number: names.append(number) or str(number))
    assert 3 in names
