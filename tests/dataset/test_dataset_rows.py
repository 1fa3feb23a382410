"""What the shards hold is what the explainer gives; other libraries read them; maps come back at any size."""

from __future__ import annotations

import csv
import json
import subprocess

import numpy as np
import pyarrow.compute
import pytest
import torch
from interpreter import start_python
from models import SmallNet
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import camfast
from camfast import ops
from camfast.dataset import read_table, schema
from camfast.dataset.settings import alone
from camfast.dataset.shards import shard_files
from camfast.errors import DoubtWarning
from camfast.pictures import photos as pictures
from camfast.zoo import Network

QUIET = {"progress": False, "workers": 0}
HALF = 6e-4  # float16 in [0, 1], and sums in another order


def rows_of(out):
    return sorted(read_table(out).to_pylist(), key=lambda row: (row["index"], row["role"] != "prediction"))


@pytest.fixture
def made(photos, network, tmp_path):
    """The photographs explained, and the output's folder."""
    done = camfast.explain_dataset(network, photos, tmp_path / "out", batch=3, shard=8, **QUIET)
    assert (done.images, done.before, done.unreadable, done.labelled) == (20, 0, 0, 20)
    return tmp_path / "out"


def test_rows_are_what_the_explainer_gives(made, network, photos):
    rows = rows_of(made)
    assert len({row["path"] for row in rows}) == 20
    explainer = camfast.GradCAM(network.model)
    for row in rows:
        photo = pictures.read(row["path"])
        assert (row["height"], row["width"]) == photo.shape[:2]
        assert row["crop"] == pytest.approx(network.preparation.box(*photo.shape[:2]))
        result = explainer(network.preparation(photo)[None], row["target"], size="map")
        scores = result.scores[0].detach()
        probability = scores.softmax(0)
        plane = np.frombuffer(row["map"], "<f2").reshape(row["map_height"], row["map_width"])
        np.testing.assert_allclose(plane, result.heatmap[0], atol=HALF)
        assert row["prediction"] == int(scores.argmax()) and row["probability"] == pytest.approx(
            float(probability.max())
        )
        assert row["target_score"] == pytest.approx(float(scores[row["target"]]), abs=1e-5)
        assert row["target_probability"] == pytest.approx(float(probability[row["target"]]), abs=1e-6)
        assert row["top_classes"] == probability.topk(5).indices.tolist() and sum(row["top_scores"]) == pytest.approx(1)
        assert row["target_name"] == network.class_names[row["target"]]
        assert row["prediction_name"] == network.class_names[row["prediction"]]
        assert (row["layer"], row["method"], row["version"]) == (
            ", ".join(result.layers),
            "grad_cam",
            camfast.__version__,
        )


def test_an_image_has_a_row_for_its_prediction_and_one_for_another_label(made):
    rows = rows_of(made)
    by_path = {}
    for row in rows:
        by_path.setdefault(row["path"], []).append(row)
    assert any(len(each) == 2 for each in by_path.values())
    for path, each in by_path.items():
        assert each[0]["label_name"] == path.split("/")[-2]
        expected = [(each[0]["prediction"], "prediction")]
        if each[0]["label"] != each[0]["prediction"]:
            expected.append((each[0]["label"], "label"))
        assert [(row["target"], row["role"]) for row in each] == expected
        assert len({(row["prediction"], row["probability"], row["label"]) for row in each}) == 1


def test_the_size_of_batches_and_workers_change_nothing(made, photos, network, tmp_path):
    camfast.explain_dataset(network, photos, tmp_path / "other", batch=7, shard=100, workers=2, progress=False)
    assert len(shard_files(made)) > len(shard_files(tmp_path / "other")) == 1
    for one, other in zip(rows_of(made), rows_of(tmp_path / "other"), strict=True):
        np.testing.assert_allclose(np.frombuffer(one["map"], "<f2"), np.frombuffer(other["map"], "<f2"), atol=2e-3)
        for name in ("path", "index", "label", "prediction", "target", "role", "crop"):
            assert one[name] == other[name]


@pytest.mark.parametrize(
    ("targets", "count", "roles"),
    [
        ("prediction", 1, {"prediction"}),
        (camfast.TopK(3), 3, {"prediction", "label", "target"}),
        (["dog", 0], 2, {"prediction", "label", "target"}),
        ("dog", 1, {"prediction", "target"}),
    ],
)
def test_other_targets(photos, network, tmp_path, targets, count, roles):
    done = camfast.explain_dataset(network, photos, tmp_path / "out", targets=targets, **QUIET)
    assert done.rows == 20 * count
    rows = rows_of(tmp_path / "out")
    assert {row["role"] for row in rows} <= roles
    for row in rows:
        role = (
            "prediction"
            if row["target"] == row["prediction"]
            else "label"
            if row["target"] == row["label"]
            else "target"
        )
        assert row["role"] == role


@pytest.mark.parametrize("method", ["layer_cam", "eigen_cam", "score_cam", "recipro_cam", "full_grad"])
def test_other_methods(photos, network, tmp_path, method):
    folder = photos / "cat"
    done = camfast.explain_dataset(network, folder, tmp_path / "out", method=method, **QUIET)
    assert done.images == 5
    for row in rows_of(tmp_path / "out"):
        plane = np.frombuffer(row["map"], "<f2")
        assert row["method"] == method and plane.min() >= 0 and plane.max() <= 1


def test_prepared_tensors_and_loaders(network, tmp_path):
    images = torch.rand(6, 3, 32, 32)
    data = torch.utils.data.TensorDataset(images, torch.arange(6) % 5)
    with pytest.warns(DoubtWarning, match="has the label 7, but the network has 5 classes"):
        odd = torch.utils.data.TensorDataset(images, torch.full((6,), 7))
        camfast.explain_dataset(network.model, odd, tmp_path / "odd", **QUIET)
    assert {row["role"] for row in rows_of(tmp_path / "odd")} == {"prediction"}
    camfast.explain_dataset(network.model, data, tmp_path / "a", **QUIET)
    camfast.explain_dataset(network.model, DataLoader(data, batch_size=4), tmp_path / "b", **QUIET)
    a, b = rows_of(tmp_path / "a"), rows_of(tmp_path / "b")
    assert [row["index"] for row in a if row["role"] == "prediction"] == list(range(6))
    assert [(row["index"], row["target"], row["crop"]) for row in a] == [
        (row["index"], row["target"], row["crop"]) for row in b
    ]
    assert a[0]["crop"] == [0, 0, 32, 32] and a[0]["label_name"] is None
    expected = network.model(images).argmax(1).tolist()
    assert [row["prediction"] for row in a if row["role"] == "prediction"] == expected


def test_pictures_of_a_data_set_without_a_length(network, crops, tmp_path):
    class Streaming(IterableDataset):
        def __iter__(self):
            return iter([(picture, name) for name in ("cat", "cup") for picture in crops[name]])

    for workers in (0, 2):
        out = tmp_path / str(workers)
        done = camfast.explain_dataset(network, Streaming(), out, workers=workers, progress=False)
        assert (done.images, done.labelled) == (10, 10)
        assert {row["label_name"] for row in rows_of(out)} == {"cat", "cup"}


def test_transforms_prepare_pictures(photos, network, tmp_path):
    transforms = pytest.importorskip("torchvision.transforms")
    recipe = network.preparation
    theirs = transforms.Compose(
        [
            transforms.Resize(36),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize(recipe.mean, recipe.std),
        ]
    )
    camfast.explain_dataset(
        network.model, photos, tmp_path / "a", preparation=theirs, class_names=network.class_names, **QUIET
    )
    camfast.explain_dataset(network, photos, tmp_path / "b", **QUIET)
    a, b = rows_of(tmp_path / "a"), rows_of(tmp_path / "b")
    assert [(row["path"], row["target"], row["target_name"]) for row in a] == [
        (row["path"], row["target"], row["target_name"]) for row in b
    ]
    assert a[0]["crop"] is None and b[0]["crop"] is not None


def test_photographs_need_a_preparation(photos, network, crops, tmp_path):
    for source in (photos, _Pictures(crops["cat"])):
        with pytest.raises(ValueError, match="expected preparation= for photographs"):
            camfast.explain_dataset(network.model, source, tmp_path / "out", **QUIET)
    assert not (tmp_path / "out").exists()


class _Pictures(torch.utils.data.Dataset):
    def __init__(self, pictures):
        self.pictures = pictures

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        if index == 3:
            raise OSError("the disk is on fire")
        return self.pictures[index], 0


def test_what_a_data_set_raises_is_listed(network, crops, tmp_path):
    done = camfast.explain_dataset(network, _Pictures(crops["cat"]), tmp_path / "out", progress=False, workers=1)
    assert (done.images, done.unreadable) == (4, 1)
    assert (tmp_path / "out" / "unreadable.csv").read_text().splitlines()[1] == "3,the disk is on fire"


def test_class_names_come_from_the_folders_where_there_are_as_many(photos, tmp_path):
    torch.manual_seed(0)
    model = SmallNet(classes=4).train()
    recipe = lambda picture: torch.from_numpy(np.array(picture.resize((32, 32)))).permute(2, 0, 1) / 255  # noqa: E731
    camfast.explain_dataset(model, photos, tmp_path / "out", preparation=recipe, **QUIET)
    assert model.training and all(module.training for module in model.modules())
    assert {row["target_name"] for row in rows_of(tmp_path / "out")} <= {"cat", "cup", "man", "moped"}
    assert {row["label"] for row in rows_of(tmp_path / "out")} == {0, 1, 2, 3}


def test_blank_maps_are_counted_in_place_of_a_warning_each(photos, network, tmp_path, recwarn):
    done = camfast.explain_dataset(network, photos, tmp_path / "out", targets=[0, 1, 2, 3, 4], **QUIET)
    blank = sum(row["map"].strip(b"\0") == b"" for row in rows_of(tmp_path / "out"))
    assert done.blank == blank > 0
    assert not [warning for warning in recwarn if issubclass(warning.category, DoubtWarning)]


def test_unreadable_pictures_are_listed_and_tried_again(photos, network, tmp_path):
    good = (photos / "cat" / "3.jpg").read_bytes()
    (photos / "cat" / "3.jpg").write_bytes(good[:300])
    (photos / "cup" / "bad, é.png").write_bytes(b"")
    done = camfast.explain_dataset(network, photos, tmp_path / "out", **QUIET)
    assert (done.images, done.unreadable) == (19, 2)

    def listed():
        with open(tmp_path / "out" / "unreadable.csv", encoding="utf-8", newline="") as file:
            return list(csv.reader(file))

    head, first, second = listed()
    assert head == ["path", "reason"]
    assert first[0] == str(photos / "cat" / "3.jpg") and "damaged" in first[1]
    assert second == [str(photos / "cup" / "bad, é.png"), "the file is empty"]
    (photos / "cat" / "3.jpg").write_bytes(good)
    (photos / "man" / "new.jpg").write_bytes(good)  # and a folder that has grown
    done = camfast.explain_dataset(network, photos, tmp_path / "out", **QUIET)
    assert (done.images, done.before, done.unreadable) == (2, 19, 1)
    assert [row[0] for row in listed()[1:]] == [str(photos / "cup" / "bad, é.png")]
    paths = [row["path"] for row in rows_of(tmp_path / "out") if row["role"] == "prediction"]
    assert len(paths) == len(set(paths)) == 21


def test_nothing_is_done_twice(made, network, photos):
    before = {path: path.read_bytes() for path in shard_files(made)}
    done = camfast.explain_dataset(network, photos, made, **QUIET)
    assert (done.images, done.before, done.layer) == (0, 20, None)
    assert {path: path.read_bytes() for path in shard_files(made)} == before


# Settings


def test_run_json_tells_what_was_run(made, network, photos):
    content = json.loads((made / "run.json").read_text())
    assert content["model"] == "small" and content["method"] == "grad_cam" and content["size"] == [32, 32]
    assert content["class_names"] == network.class_names and content["version"] == camfast.__version__
    assert content["source"] == f"files {photos}" and len(content["fingerprint"]) == 16
    row = rows_of(made)[0]
    assert content["layer"] == row["layer"] and content["map_size"] == [row["map_height"], row["map_width"]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "layer_cam"}, 'method "grad_cam", not "layer_cam"'),
        ({"layers": "stem"}, r'layers null, not \["stem"\]'),
        ({"targets": "prediction"}, "targets"),
        ({"aug_smooth": True}, "options"),
        ({"class_names": list("abcde")}, "other class names"),
        ({"folders": "ignore"}, "folders"),
        ({"preparation": len}, "preparation"),
    ],
)
def test_other_settings_are_refused(made, network, photos, change, said):
    before = [path.name for path in shard_files(made)]
    with pytest.raises(ValueError, match=f"was made with {said}.*give another folder"):
        camfast.explain_dataset(network, photos, made, **QUIET, **change)
    assert [path.name for path in shard_files(made)] == before


def test_other_weights_and_other_sources_are_refused(made, network, photos):
    torch.manual_seed(1)
    other = Network("small", SmallNet().eval(), network.preparation, 5, network.class_names)
    with pytest.raises(ValueError, match="was made with other weights: give another folder"):
        camfast.explain_dataset(other, photos, made, **QUIET)
    with pytest.raises(ValueError, match="was made with source .*cat"):
        camfast.explain_dataset(network, photos / "cat", made, **QUIET)


HOLDING = """
import multiprocessing, os, signal, sys, time
from pathlib import Path
from camfast.dataset.settings import alone

with alone(Path(sys.argv[1])):
    if len(sys.argv) > 2:  # a worker that outlives its process
        multiprocessing.get_context("fork").Process(target=time.sleep, args=(20,)).start()
    print("held", flush=True)
    sys.stdin.read() if len(sys.argv) == 2 else os.kill(os.getpid(), signal.SIGKILL)
"""


def test_another_process_is_kept_out_and_a_killed_one_is_not_waited_for(made, network, photos):
    held = start_python("-c", HOLDING, made, stdin=subprocess.PIPE)
    assert held.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match="another run is writing into"):
        camfast.explain_dataset(network, photos, made, **QUIET)
    held.communicate("")
    killed = start_python("-c", HOLDING, made, "workers", stdout=subprocess.DEVNULL)
    assert killed.wait() == -9
    assert camfast.explain_dataset(network, photos, made, **QUIET).before == 20


def test_two_processes_do_not_write_into_one_folder(made, network, photos):
    with alone(made), pytest.raises(ValueError, match="another run is writing into"):
        camfast.explain_dataset(network, photos, made, **QUIET)


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"method": "grad_can"}, ValueError, "close to it: 'grad_cam'"),
        ({"targets": "horse"}, ValueError, "expected the name of a class"),
        ({"targets": 7}, ValueError, "targets must be classes from 0 to 4, got 7"),
        ({"targets": [len]}, TypeError, "targets must be"),
        ({"layers": "nowhere"}, ValueError, "nowhere"),
        ({"batch": 0}, ValueError, "batch must be a whole number of at least 1"),
        ({"workers": -1}, ValueError, "workers must be a whole number"),
        ({"no_such_option": 1}, TypeError, "no_such_option"),
    ],
)
def test_wrong_arguments_are_one_sentence(photos, network, tmp_path, wrong, error, said):
    with pytest.raises(error, match=said):
        camfast.explain_dataset(network, photos, tmp_path / "out", **{**QUIET, **wrong})
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module"):
        camfast.explain_dataset(3, photos, tmp_path / "out")


def test_what_is_no_classifier_is_refused(photos, network, tmp_path):
    class Planes(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3, padding=1)

        def forward(self, x):
            return self.conv(x)

    with pytest.raises(ValueError, match="expected a classifier"):
        camfast.explain_dataset(Network("planes", Planes(), network.preparation, 5), photos, tmp_path / "out", **QUIET)


# Reading


def test_other_libraries_read_the_shards(made):
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    expected = read_table(made)
    assert expected.schema.equals(schema())
    frame = pandas.read_parquet(made / "shards")
    assert list(frame.columns) == schema().names and len(frame) == len(expected)
    assert frame["index"].tolist() == expected.column("index").to_pylist()
    first = frame.iloc[0]
    assert np.frombuffer(first["map"], "<f2").reshape(first["map_height"], first["map_width"]).max() <= 1
    wrong = frame[(frame["role"] == "prediction") & (frame["label"] != frame["prediction"])]
    assert len(wrong) == (frame["role"] == "label").sum()
    lazy = polars.scan_parquet(made / "shards" / "*.parquet")
    found = lazy.filter(polars.col("role") == "label").select("path", "map", "top_scores").collect()
    assert found["path"].to_list() == frame.loc[frame["role"] == "label", "path"].tolist()
    assert len(found["map"][0]) == 2 * first["map_height"] * first["map_width"]


def test_maps_at_any_size(made):
    rows = read_table(made).to_pylist()
    maps = camfast.read_maps(made)
    assert len(maps) == len(rows) and repr(maps).startswith(f"Maps({len(rows)} of ")
    for row, found in zip(rows, maps, strict=True):
        plane = np.frombuffer(row["map"], "<f2").reshape(row["map_height"], row["map_width"]).astype(np.float32)
        assert found["map"].dtype == torch.float32 and np.array_equal(found["map"], plane)
        assert {**found, "map": 0} == {**row, "map": 0}
    for size, shape in ((50, (50, 50)), ((20, 30), (20, 30))):
        for plain, found in zip(maps, camfast.read_maps(made, size), strict=True):
            assert torch.equal(found["map"], ops.resize_normalize(plain["map"][None], shape, normalize=False)[0])
    stacked, table = camfast.read_maps(made, 40).stack()
    assert stacked.shape == (len(rows), 40, 40) and table.column("path").to_pylist() == [row["path"] for row in rows]
    assert "map" not in table.column_names


def test_some_maps_alone(made):
    rows = read_table(made).to_pylist()
    expected = [row["path"] for row in rows if row["role"] == "label" and row["label"] in (0, 3)]
    assert expected
    field = pyarrow.compute.field
    for where in (
        {"role": "label", "label": [0, 3]},
        (field("role") == "label") & field("label").isin([0, 3]),
        lambda row: row["role"] == "label" and row["label"] in (0, 3) and row["map"].max() <= 1,
    ):
        maps = camfast.read_maps(made, where=where)
        assert len(maps) == len(expected) and [row["path"] for row in maps] == expected
    assert list(camfast.read_maps(made, where={"label": None})) == []
    empty, table = camfast.read_maps(made, 9, {"label": None}).stack()
    assert empty.shape == (0, 9, 9) and len(table) == 0


def test_reading_what_is_not_there(made, tmp_path):
    with pytest.raises(ValueError, match="holds no run.json"):
        camfast.read_maps(tmp_path)
    with pytest.raises(ValueError, match="expected a column of the shards, got 'lable'"):
        camfast.read_maps(made, where={"lable": 3})
    with pytest.raises(TypeError, match="where must be"):
        camfast.read_maps(made, where=3)
    for size in (0, (3,), "big", (3, 0)):
        with pytest.raises(ValueError, match="size must be"):
            camfast.read_maps(made, size)


def test_pictures_of_all_kinds(network, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 4), np.uint8)
    Image.fromarray(noise).save(folder / "rgba.png")
    Image.fromarray(noise[..., 0]).save(folder / "grey.png")
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    done = camfast.explain_dataset(network, folder, tmp_path / "out", **QUIET)
    assert (done.images, done.unreadable, done.labelled) == (3, 0, 0)
    assert {row["label"] for row in rows_of(tmp_path / "out")} == {None}
