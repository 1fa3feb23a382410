"""How many threads a stream runs with: asked for, or the fastest of several."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from interpreter import run_python
from torch import nn

import camfast
from camfast.cli.main import main
from camfast.video.realtime import network


class Costs(nn.Module):
    """Takes as long as a table says for the number of threads, by a clock that it turns itself."""

    def __init__(self, seconds, clock):
        super().__init__()
        self.seconds, self.clock = seconds, clock

    def forward(self, x):
        self.clock[0] += self.seconds[torch.get_num_threads()].pop(0)
        return x


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({4: 1.0, 2: 1.5, 1: 2.0}, 4),  # an idle machine
        ({4: 9.0, 2: 4.0, 1: 1.0}, 1),  # a busy one
        ({4: 1.0, 2: 0.5, 1: 0.6}, 2),
        ({4: 1.0, 2: 0.95, 1: 0.93}, 4),  # too little to be sure of
    ],
)
def test_the_fastest_number_is_taken(seconds, expected, four_threads, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(network, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    lists = {count: [50.0, *[each] * 9] for count, each in seconds.items()}  # the first pass is cold
    assert network.fastest_threads(Costs(lists, clock), torch.zeros(1, 3, 8, 8)) == expected
    assert torch.get_num_threads() == 4


def test_one_lucky_pass_is_not_enough(four_threads, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(network, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    lists = {4: [9.0, 0.1, 9.0, 9.0, 9.0, 9.0], 2: [3.0] * 6, 1: [5.0] * 6}
    assert network.fastest_threads(Costs(lists, clock), torch.zeros(1, 3, 8, 8)) == 2


class Spy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.seen = nn.Conv2d(3, 4, 8, 8), []

    def forward(self, x):
        self.seen.append(torch.get_num_threads())
        return self.conv(x).mean((2, 3))


@pytest.mark.parametrize(("threads", "expected"), [(None, 4), (1, 1), (2, 2)])
def test_frames_run_with_it_and_nothing_else_does(threads, expected, four_threads):
    model = Spy().eval()
    engine = camfast.Realtime(model, layers="conv", input_size=32, channels_last=False)
    engine._step.model.seen.clear()
    engine.threads = threads
    engine(np.zeros((40, 40, 3), np.uint8))
    assert set(engine._step.model.seen) == {expected} and torch.get_num_threads() == 4


def test_it_is_measured_once(four_threads, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "camfast.video.realtime.step.fastest_threads", lambda model, images: asked.append(images.shape) or 1
    )
    engine = camfast.Realtime(Spy().eval(), layers="conv", input_size=32)
    engine.threads = "auto"
    for _ in range(3):
        engine(np.zeros((40, 40, 3), np.uint8))
    assert asked == [(1, 3, 32, 32)] and engine.threads == 1


@pytest.mark.parametrize("command", ["video", "live"])
def test_the_option(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "--threads" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([command, "clip.mp4", *(["-o", "out.mp4"] if command == "video" else []), "--threads", "0"])
    assert "above 0" in capsys.readouterr().err


SEEN = """
import os, sys
from camfast.cli.main import main
assert "torch" not in sys.modules
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            sys.meta_path.remove(self)
            print("policy:", os.environ.get("OMP_WAIT_POLICY"))
sys.meta_path.insert(0, Watch())
main(sys.argv[1:])
"""


@pytest.mark.parametrize(("words", "policy"), [(["--passive"], "PASSIVE"), ([], None)])
def test_threads_sleep_where_asked(words, policy):
    """OpenMP reads the variable when it starts: it is there before torch is imported."""
    plain = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    process = run_python("-c", SEEN, "info", "--json", *words, env=plain)
    first, _, rest = process.stdout.partition("\n")
    assert first == f"policy: {policy}", process.stderr
    assert json.loads(rest)["threads"].get("OMP_WAIT_POLICY") == policy


@pytest.mark.parametrize("command", ["image", "video", "live", "detect"])
def test_every_command_has_it(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "--passive" in capsys.readouterr().out
