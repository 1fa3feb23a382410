"""Killed at any moment and started again: nothing is lost, nothing twice.

``CAMFAST_KILLS=50 pytest tests/dataset/test_dataset_resume.py`` kills fifty times, at random moments.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time

import numpy as np
import pyarrow.parquet
import pytest
from interpreter import start_python

import camfast
from camfast.dataset import read_table
from camfast.dataset.shards import shard_files

KILLS = int(os.environ.get("CAMFAST_KILLS", "3"))
PICTURES = 200

PROGRAM = """
import sys
import torch
import camfast
from camfast.pictures.preparation import Preparation
from camfast.zoo import Network
from models import SmallNet

torch.set_num_threads(1)
torch.manual_seed(0)
network = Network("small", SmallNet().eval(), Preparation(36, (32, 32), (0.5,) * 3, (0.25,) * 3), 5)
print("ready", flush=True)
done = camfast.explain_dataset(
    network, sys.argv[1], sys.argv[2], batch=2, shard=5, workers=1, targets=[0, 3], folders="ignore", progress=False
)
print(done.before, done.images, flush=True)
"""


@pytest.fixture
def many(tmp_path, crops):
    """A folder of photographs, one of them broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    each = [picture for pictures in crops.values() for picture in pictures]
    for n in range(PICTURES):
        each[n % len(each)].rotate(n).save(folder / f"{n:04d}.jpg")
    (folder / "0011.jpg").write_bytes(b"broken")
    return folder


def started(folder, out):
    process = start_python("-c", PROGRAM, folder, out)
    assert process.stdout.readline() == "ready\n"
    return process


def finished(process):
    words, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return tuple(map(int, words.split()))


def content(out):
    return {(row["path"], row["target"]): row for row in read_table(out).to_pylist()}, read_table(out).num_rows


def test_killed_at_random_moments_it_goes_on(many, tmp_path):
    process, begin = started(many, tmp_path / "whole"), time.monotonic()
    assert finished(process) == (0, PICTURES - 1)
    took = time.monotonic() - begin
    expected, count = content(tmp_path / "whole")
    assert count == len(expected) == 2 * (PICTURES - 1)
    seed = int(os.environ.get("CAMFAST_SEED", time.time_ns() % 10_000))
    print(f"CAMFAST_SEED={seed}")
    moments = random.Random(seed)
    kills, killed_inside, start = 0, 0, 0
    while kills < KILLS:
        out = tmp_path / f"out{start}"
        start += 1
        while kills < KILLS:
            process = started(many, out)
            if kills:
                time.sleep(took * moments.uniform(0, 0.7))
            else:  # surely in the midst
                while process.poll() is None and not (out.exists() and shard_files(out)):
                    time.sleep(0.005)
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait()  # its workers see it in some seconds
            process.stdout.close()
            kills += 1
            files = shard_files(out)
            killed_inside += bool(files) and sum(pyarrow.parquet.read_metadata(file).num_rows for file in files) < count
            for file in files:  # whole, at any moment
                pyarrow.parquet.read_table(file).validate(full=True)
        before, now = finished(started(many, out))
        assert before + now == PICTURES - 1
        found, rows = content(out)
        assert rows == len(found) == count and set(found) == set(expected)
        for key, row in found.items():
            ours, theirs = (np.frombuffer(each["map"], "<f2") for each in (row, expected[key]))
            np.testing.assert_allclose(ours, theirs, atol=2e-3)
            assert row["prediction"] == expected[key]["prediction"]
        assert (out / "unreadable.csv").read_text().splitlines()[1:] == [
            f"{many / '0011.jpg'},it is no image of a known format"
        ]
        assert not list((out / "shards").glob(".*"))
    assert killed_inside


@pytest.mark.parametrize("step", ["os.fsync", "os.replace", "pyarrow.parquet.write_table"])
def test_an_interrupted_write_leaves_no_half_shard(photos, network, tmp_path, monkeypatch, step):
    """Power fails while the third shard is written: what was whole stays, and is gone on from."""
    out, calls = tmp_path / "out", 0
    place, _, name = step.rpartition(".")
    module = sys.modules[place]
    plain = getattr(module, name)

    def failing(*arguments, **options):
        nonlocal calls
        calls += ".parquet" in str(arguments) or step != "os.replace"
        if calls > (8 if step == "os.fsync" else 2):
            if step == "pyarrow.parquet.write_table":
                arguments[1].write(b"PAR1 half")
            raise OSError("no space left on device")
        return plain(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, failing)
        with pytest.raises(OSError, match="no space left"):
            camfast.explain_dataset(network, photos, out, batch=2, shard=4, workers=0, progress=False)
    held = read_table(out).num_rows
    assert held > 0
    assert not list((out / "shards").glob(".*"))
    (out / "shards" / ".shard.parquet.part").write_bytes(b"PAR1 half")  # what a failing power supply leaves
    done = camfast.explain_dataset(network, photos, out, batch=2, shard=4, workers=0, progress=False)
    assert done.before > 0 and done.before + done.images == 20
    found, rows = content(out)
    assert rows == len(found) and len({path for path, _ in found}) == 20
    assert not list((out / "shards").glob(".*"))


def test_an_error_of_the_network_keeps_what_was_done(photos, network, tmp_path):
    passes = 0

    def fail(module, arguments):
        nonlocal passes
        passes += len(arguments[0]) > 1
        if passes > 6:
            raise RuntimeError("out of memory")

    handle = network.model.register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            camfast.explain_dataset(network, photos, tmp_path / "out", batch=3, workers=0, progress=False)
    finally:
        handle.remove()
    kept = len({row["path"] for row in read_table(tmp_path / "out").to_pylist()})
    assert 0 < kept < 20
    done = camfast.explain_dataset(network, photos, tmp_path / "out", batch=3, workers=0, progress=False)
    assert (done.before, done.images) == (kept, 20 - kept)
