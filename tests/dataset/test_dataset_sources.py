"""Whatever a user calls a data set becomes pictures with places and labels."""

from __future__ import annotations

import csv
import io
import tarfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from camfast.dataset.items import Unreadable
from camfast.dataset.labels import Truth
from camfast.dataset.sources import open_source

CLASSES = ["cat", "cup", "dog", "man", "moped"]


def items(source):
    return [source.item(n) for n in range(len(source))]


def streamed(source):
    return [entry for shard in range(len(source.shards)) for entry in source.read(shard)]


def truth(source, names=CLASSES, classes=5, rule="auto"):
    made = Truth(source, names, classes, rule)
    return [made(item) for item in items(source)]


# Folders


def test_a_folders_subfolders_are_classes_as_imagefolder_numbers_them(photos):
    datasets = pytest.importorskip("torchvision.datasets")
    theirs = datasets.ImageFolder(photos)
    ours = open_source(photos)
    assert list(ours.names) == theirs.classes
    assert [(item.path, item.label) for item in items(ours)] == theirs.samples
    assert [item.index for item in items(ours)] == list(range(20))


def test_folders_are_classes_by_their_names(photos):
    assert sorted(set(truth(open_source(photos)))) == [(0, "cat"), (1, "cup"), (3, "man"), (4, "moped")]


def test_unknown_folders_are_classes_where_there_are_as_many(photos):
    other = ["a", "b", "c", "d"]
    source = open_source(photos)
    assert sorted(set(truth(source, other, 4))) == [(0, "cat"), (1, "cup"), (2, "man"), (3, "moped")]
    assert set(truth(source, [*other, "e"], 5)) == {(None, None)}
    assert sorted(set(truth(source, [*other, "e"], 5, "classes"))) == [(0, "cat"), (1, "cup"), (2, "man"), (3, "moped")]
    assert set(truth(source, other, 4, "ignore")) == {(None, None)}
    assert sorted(set(truth(source, None, 4))) == [(0, "cat"), (1, "cup"), (2, "man"), (3, "moped")]


def test_a_folder_that_is_no_class_keeps_its_name_beside_those_that_are(photos):
    assert (None, "moped") in truth(open_source(photos), ["cat", "cup", "man"], 3)


def test_folders_called_by_numbers_are_in_the_order_of_their_names(tmp_path, crops):
    for n in range(11):
        (tmp_path / str(n)).mkdir()
        crops["cat"][0].save(tmp_path / str(n) / "a.png")
    source = open_source(tmp_path)
    assert source.names[:4] == ["0", "1", "10", "2"]
    assert dict(truth(source, None, 11)) == {n: name for n, name in enumerate(source.names)}
    assert dict(truth(source, [f"c{n}" for n in range(11)], 11)) == {n: name for n, name in enumerate(source.names)}
    assert truth(source, [str(n) for n in range(11)], 11)[2] == (10, "10")  # names that are known are names


def test_nested_and_flat_folders(tmp_path, crops):
    for place in ("a/deep/er", "a", "", "b"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        crops["cat"][0].save(tmp_path / place / "same.png")
    source = open_source(tmp_path)
    found = {item.path.removeprefix(f"{tmp_path}/"): item.label for item in items(source)}
    assert found == {"same.png": None, "a/same.png": 0, "a/deep/er/same.png": 0, "b/same.png": 1}
    flat = tmp_path / "flat"
    flat.mkdir()
    crops["cat"][0].save(flat / "one.png")
    assert open_source(flat).names is None and items(open_source(flat))[0].label is None


def test_unicode_names_and_hidden_files(tmp_path, crops):
    (tmp_path / "Кошка").mkdir()
    crops["cat"][0].save(tmp_path / "Кошка" / "猫 é.jpg")
    crops["cat"][0].save(tmp_path / "Кошка" / ".hidden.jpg")
    source = open_source(tmp_path)
    assert [(item.path, source.names[item.label]) for item in items(source)] == [
        (str(tmp_path / "Кошка" / "猫 é.jpg"), "Кошка")
    ]
    item, picture = source.load(0)
    assert picture.shape == (70, 90, 3) and item.path.endswith("猫 é.jpg")


def test_results_inside_the_folder_are_no_photographs(photos, crops):
    (photos / "out").mkdir()
    crops["cat"][0].save(photos / "out" / "a.png")
    source = open_source(photos, without=[photos / "out"])
    assert len(source) == 20 and "out" not in source.names


@pytest.mark.parametrize("given", ["folder", "list", "pattern", "table"])
def test_nothing_to_explain_is_said(tmp_path, given):
    (tmp_path / "empty").mkdir()
    (tmp_path / "t.csv").write_text("path\n")
    source = {
        "folder": tmp_path / "empty",
        "list": [],
        "pattern": str(tmp_path / "*.jpg"),
        "table": tmp_path / "t.csv",
    }[given]
    with pytest.raises(ValueError, match=r"^expected (photographs|paths)"):
        open_source(source)


@pytest.mark.parametrize("source", [3, {"a": 1}, [3], None, object()])
def test_what_is_no_source_is_refused(source):
    with pytest.raises(TypeError, match="source must be|of paths"):
        open_source(source)


# Lists and tables


def test_lists_of_files_and_patterns(photos):
    source = open_source([photos / "cat" / "0.jpg", str(photos / "cup" / "*.jpg"), photos / "gone.jpg"])
    assert [item.path.removeprefix(f"{photos}/") for item in items(source)] == [
        "cat/0.jpg",
        *(f"cup/{n}.jpg" for n in range(5)),
        "gone.jpg",
    ]
    with pytest.raises(ValueError, match="there is no such file"):
        source.load(6)


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_tables(photos, ending):
    rows = [
        ("cat/0.jpg", "cat"),
        (str(photos / "cup/1.jpg"), "cup"),
        ("man/0.jpg", ""),
        ("cat/0.jpg", "cup"),
        ("moped/1.jpg", "x"),
    ]
    file = photos / f"table.{ending}"
    if ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"file": [r[0] for r in rows], "class": [r[1] for r in rows]}), file)
    else:
        with open(file, "w", newline="") as stream:
            csv.writer(stream, delimiter="\t" if ending == "tsv" else ",").writerows([("file", "class"), *rows])
    source = open_source(file, "file", "class")
    assert [item.path.removeprefix(f"{photos}/") for item in items(source)] == [
        "cat/0.jpg",
        "cup/1.jpg",
        "man/0.jpg",
        "moped/1.jpg",
    ]
    assert truth(source) == [(0, "cat"), (1, "cup"), (None, None), (None, "x")]
    assert source.load(1)[1].shape == (70, 97, 3)


def test_numbers_in_tables(photos):
    file = photos / "table.csv"
    file.write_text("path,label\ncat/0.jpg,3\ncup/0.jpg,-1\nman/0.jpg,\n")
    assert truth(open_source(file)) == [(3, "man"), (None, None), (None, None)]
    file.write_text("path,label\ncat/0.jpg,0.5\n")
    with pytest.raises(ValueError, match="expected class numbers or names in the column 'label'"):
        open_source(file)


def test_columns_that_are_missing_are_named(photos):
    file = photos / "table.csv"
    file.write_text("file,class\ncat/0.jpg,3\n")
    with pytest.raises(
        ValueError, match=r"expected a column 'path' in .*; there are 'file', 'class'; name yours by path_column="
    ):
        open_source(file)
    with pytest.raises(ValueError, match="expected a column 'truth'"):
        open_source(file, "file", "truth")
    with pytest.raises(ValueError, match="cannot read .* as a table"):
        open_source(photos / "gone.csv")


# Tar shards


def tar(path, entries):
    with tarfile.open(path, "w") as archive:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def jpeg(picture):
    stream = io.BytesIO()
    picture.save(stream, "JPEG")
    return stream.getvalue()


def test_tar_shards(tmp_path, crops):
    pytest.importorskip("webdataset")
    tar(tmp_path / "a-0.tar", [("x/0.jpg", jpeg(crops["cat"][0])), ("x/0.cls", b"3"), ("x/1.JPG", b"broken")])
    tar(
        tmp_path / "a-1.tar",
        [("k.jpg", jpeg(crops["cup"][1])), ("k.json", b'{"label": "cup"}'), ("t.txt", b"no picture"), ("t.cls", b"1")],
    )
    for given in (
        str(tmp_path / "a-{0..1}.tar"),
        [tmp_path / "a-0.tar", tmp_path / "a-1.tar"],
        str(tmp_path / "a-*.tar"),
    ):
        source = open_source(given)
        found = streamed(source)
        good = [entry for entry in found if not isinstance(entry, Unreadable)]
        assert [(item.path.removeprefix(f"{tmp_path}/"), item.label, item.label_name) for item, _ in good] == [
            ("a-0.tar/x/0.jpg", 3, None),
            ("a-1.tar/k.jpg", None, "cup"),
        ]
        assert [item.index for item, _ in good] == [0, 2**32]
        assert [picture.shape for _, picture in good] == [(70, 90, 3), (70, 97, 3)]
        bad = [
            (error.path.removeprefix(f"{tmp_path}/"), error.reason) for error in found if isinstance(error, Unreadable)
        ]
        assert [path for path, _ in bad] == ["a-0.tar/x/1.jpg", "a-1.tar/t"]
        assert "no image" in bad[0][1] and "it holds no picture, but" in bad[1][1]


def test_a_tar_that_is_cut_short_gives_what_is_whole(tmp_path, crops):
    pytest.importorskip("webdataset")
    tar(tmp_path / "a.tar", [(f"{n}.jpg", jpeg(crops["cat"][n])) for n in range(4)])
    whole = (tmp_path / "a.tar").read_bytes()
    third = sum(512 + -(-len(jpeg(crops["cat"][n])) // 512) * 512 for n in range(2))
    (tmp_path / "a.tar").write_bytes(whole[: third + 1000])
    first, last = streamed(open_source(tmp_path / "a.tar"))
    assert first[0].path.endswith("a.tar/0.jpg")
    assert isinstance(last, Unreadable) and last.path.endswith("a.tar") and "ends early: " in last.reason
    assert "(" not in last.reason
    with pytest.raises(ValueError, match="which does not exist"):
        open_source(tmp_path / "gone.tar")


# Data sets of torch


class Pictures(torch.utils.data.Dataset):
    classes = ("cat", "cup")

    def __init__(self, crops, form=lambda picture, n: (picture, n % 2)):
        self.entries = [form(picture, n) for n, picture in enumerate(crops["cat"])]

    def __len__(self):
        return len(self.entries)

    def __getitem__(self, index):
        return self.entries[index]


@pytest.mark.parametrize(
    "form",
    [
        lambda picture, n: (picture, n % 2),
        lambda picture, n: [picture, torch.tensor(n % 2), "more"],
        lambda picture, n: {"image": picture, "label": n % 2},
        lambda picture, n: (np.asarray(picture), np.int64(n % 2)),
    ],
)
def test_data_sets_of_pictures(crops, form):
    source = open_source(Pictures(crops, form))
    assert source.names == ["cat", "cup"] and not source.by_path
    loaded = [source.load(n) for n in range(len(source))]
    assert [(item.index, item.path, item.label) for item, _ in loaded] == [(n, str(n), n % 2) for n in range(5)]
    assert np.asarray(loaded[1][1]).shape == (70, 97, 3)


@pytest.mark.parametrize(
    "form", [lambda picture, n: picture, lambda picture, n: (picture, {"boxes": []}), lambda picture, n: (picture, -1)]
)
def test_data_sets_without_labels(crops, form):
    assert open_source(Pictures(crops, form)).load(2)[0].label is None


def test_paths_of_image_folders_and_their_parts(photos):
    datasets = pytest.importorskip("torchvision.datasets")
    whole = datasets.ImageFolder(photos)
    source = open_source(Subset(Subset(whole, list(range(5, 20))), [2, 0]))
    assert [source.item(n).path for n in range(2)] == [whole.samples[7][0], whole.samples[5][0]]
    assert source.names == whole.classes and source.load(0)[0].label == 1


def test_loaders_in_a_fixed_order(crops):
    tensors = TensorDataset(torch.rand(5, 3, 32, 32), torch.arange(5))
    found = streamed(open_source(DataLoader(tensors, batch_size=2)))
    assert [(item.index, item.label) for item, _ in found] == [(n, n) for n in range(5)]
    assert all(picture.equal(tensors[n][0]) for n, (_, picture) in enumerate(found))
    with pytest.raises(ValueError, match="shuffle=False"):
        open_source(DataLoader(tensors, shuffle=True))


def test_data_sets_without_a_length(crops):
    class Endless(IterableDataset):
        def __iter__(self):
            return iter([(crops["cat"][0], 1), (crops["cat"][1], "cup")])

    found = streamed(open_source(Endless()))
    assert [(item.index, item.label, item.label_name) for item, _ in found] == [(0, 1, None), (1, None, "cup")]
