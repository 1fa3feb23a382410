"""The same on a real Ray of this machine: several actors, one of which is killed."""

from __future__ import annotations

import copy
import dataclasses
import os
import signal
import time

import numpy as np
import pytest
import torch
from interpreter import WHERE
from torch.utils.data import DataLoader, TensorDataset

import camfast
from camfast.dataset import read_table
from camfast.dataset.files import Files
from camfast.dataset.on_ray import _shares
from camfast.dataset.shards import shard_files

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory):
    """Four processors, whatever this machine has."""
    here = os.path.dirname(__file__)
    paths = os.pathsep.join([str(WHERE), os.path.dirname(here), here])
    environment = {"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.chdir(WHERE)  # Ray's workers start where their driver is
        ray.init(
            address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, runtime_env=environment,
            object_store_memory=100 * 2**20,
        )  # fmt: skip
        yield
        ray.shutdown()


def rows_of(out):
    return {(row["path"], row["target"]): row for row in read_table(out).to_pylist()}


def same(one, other):
    one, other = rows_of(one), rows_of(other)
    assert set(one) == set(other)
    for key, row in one.items():
        np.testing.assert_allclose(np.frombuffer(row["map"], "<f2"), np.frombuffer(other[key]["map"], "<f2"), atol=2e-3)
        for name in ("index", "label", "role", "prediction", "crop", "layer"):
            assert row[name] == other[key][name]


class Deadly(torch.utils.data.Dataset):
    """Pictures, one of which kills the process that reads it, the first time."""

    def __init__(self, pictures, marker, deadly):
        self.pictures, self.marker, self.deadly = pictures, marker, deadly

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        time.sleep(0.02)  # so that all actors get something to do
        if index == self.deadly and not os.path.exists(self.marker):
            with open(self.marker, "w") as file:
                file.write(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return self.pictures[index], os.getpid() % 1  # a label of 0


def test_a_killed_actor_costs_nothing(network, crops, tmp_path):
    pictures = [picture.rotate(n) for n in range(4) for each in crops.values() for picture in each]
    marker = tmp_path / "killed"
    data = Deadly(pictures, str(marker), 50)
    done = camfast.explain_dataset(
        network, data, tmp_path / "ray", ray=True, actors=3, batch=2, shard=16, progress=False
    )
    assert marker.exists() and int(marker.read_text()) != os.getpid()
    assert (done.images, done.before, done.unreadable) == (len(pictures), 0, 0)
    rows = read_table(tmp_path / "ray").to_pylist()
    assert len({(row["index"], row["target"]) for row in rows}) == len(rows) == done.rows
    camfast.explain_dataset(network, data, tmp_path / "here", workers=0, progress=False)
    same(tmp_path / "ray", tmp_path / "here")


def test_files_on_ray_are_as_here_and_go_on(photos, network, tmp_path):
    (photos / "cat" / "bad.jpg").write_bytes(b"broken")
    done = camfast.explain_dataset(network, photos, tmp_path / "ray", ray=True, actors=2, batch=2, progress=False)
    assert (done.images, done.unreadable, done.labelled) == (20, 1, 20)
    camfast.explain_dataset(network, photos, tmp_path / "here", workers=0, progress=False)
    same(tmp_path / "ray", tmp_path / "here")
    again = camfast.explain_dataset(network, photos, tmp_path / "ray", ray=True, actors=2, batch=2, progress=False)
    assert (again.images, again.before, again.unreadable) == (0, 20, 1)
    both = tmp_path / "both"  # what was begun here goes on there
    camfast.explain_dataset(network, photos, both, workers=0, batch=2, shard=4, progress=False)
    for shard in shard_files(both)[1:3]:
        shard.unlink()
    left = len(set(read_table(both)["path"].to_pylist()))
    done = camfast.explain_dataset(network, photos, both, ray=True, actors=1, batch=4, progress=False)
    assert (done.before, done.images) == (left, 20 - left) and 0 < left < 20
    same(tmp_path / "ray", both)


def test_tar_shards_on_ray(network, crops, tmp_path):
    pytest.importorskip("webdataset")
    from test_dataset_sources import jpeg, tar

    for n, name in enumerate(("cat", "cup", "man")):
        tar(tmp_path / f"a-{n}.tar", [(f"{name}{k}.jpg", jpeg(picture)) for k, picture in enumerate(crops[name])])
    source = str(tmp_path / "a-{0..2}.tar")

    class Own(type(network.model)):
        """A network of the user's own script, which no other process can import."""

    network = dataclasses.replace(network, model=copy.deepcopy(network.model))
    network.model.__class__ = Own
    done = camfast.explain_dataset(network, source, tmp_path / "ray", ray=True, actors=2, batch=2, progress=False)
    assert done.images == 15
    camfast.explain_dataset(network, source, tmp_path / "here", workers=2, progress=False)
    same(tmp_path / "ray", tmp_path / "here")


def test_ray_reads_the_shards(photos, network, tmp_path):
    camfast.explain_dataset(network, photos, tmp_path / "out", workers=0, progress=False)
    found = ray.data.read_parquet(str(tmp_path / "out" / "shards"))
    assert found.count() == read_table(tmp_path / "out").num_rows
    row = found.filter(lambda row: row["role"] == "prediction").take(1)[0]
    assert len(row["map"]) == 2 * row["map_height"] * row["map_width"]


def test_loaders_are_refused_on_ray(network, tmp_path):
    loader = DataLoader(TensorDataset(torch.rand(4, 3, 32, 32)))
    with pytest.raises(ValueError, match="on Ray a DataLoader cannot be shared out: give its Dataset"):
        camfast.explain_dataset(network, loader, tmp_path / "out", ray=True, progress=False)


@pytest.mark.parametrize(
    ("resources", "actors", "expected"),
    [
        ({"CPU": 2.0}, None, (1, 2, False)),
        ({"CPU": 16.0}, None, (4, 4, False)),
        ({"CPU": 16.0}, 8, (8, 2, False)),
        ({"CPU": 2.0}, 3, (3, 1, False)),
        ({"CPU": 64.0, "GPU": 4.0}, None, (4, 16, True)),
        ({"CPU": 64.0, "GPU": 4.0}, 2, (2, 32, True)),
    ],
)
def test_actors_share_a_cluster(resources, actors, expected):
    assert _shares(resources, actors) == expected


def test_sources_can_be_sent(photos):
    assert isinstance(ray.get(ray.put(Files([str(photos / "cat" / "0.jpg")]))).load(0)[1], np.ndarray)
