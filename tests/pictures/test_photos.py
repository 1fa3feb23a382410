"""Photographs of every kind become the same upright RGB; broken ones give one sentence; pictures appear whole."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from camfast.pictures import photos

ROWS, COLUMNS = 24, 40


@pytest.fixture
def scene() -> np.ndarray:
    """A picture without symmetry: red grows to the right, green downwards, and one corner is blue."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    picture = np.stack([x * 255 // (COLUMNS - 1), y * 255 // (ROWS - 1), np.zeros_like(x)], -1).astype(np.uint8)
    picture[:6, :6, 2] = 255
    return picture


def grey_of(scene: np.ndarray) -> np.ndarray:
    return scene[..., 0]


def test_rgb_is_returned_as_it_is(tmp_path, scene):
    Image.fromarray(scene).save(tmp_path / "a.png")
    got = photos.read(tmp_path / "a.png")
    assert got.dtype == np.uint8 and got.flags.writeable
    np.testing.assert_array_equal(got, scene)
    np.testing.assert_array_equal(photos.read(str(tmp_path / "a.png")), scene)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path, scene, orientation):
    # How a camera held in each position stores the scene: the inverse of what a viewer must do.
    stored = {
        1: scene,
        2: scene[:, ::-1],
        3: scene[::-1, ::-1],
        4: scene[::-1],
        5: scene.transpose(1, 0, 2),
        6: np.rot90(scene, 1),
        7: scene[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(scene, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(photos.read(tmp_path / "a.png"), scene)


def test_greyscale_becomes_three_equal_channels(tmp_path, scene):
    Image.fromarray(grey_of(scene)).save(tmp_path / "a.png")
    got = photos.read(tmp_path / "a.png")
    np.testing.assert_array_equal(got, np.repeat(grey_of(scene)[..., None], 3, -1))


def test_two_colours(tmp_path, scene):
    Image.fromarray(grey_of(scene) > 127).save(tmp_path / "a.png")
    got = photos.read(tmp_path / "a.png")
    np.testing.assert_array_equal(got[..., 1] == 255, grey_of(scene) > 127)
    assert set(np.unique(got)) == {0, 255}


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_lie_on_white(tmp_path, scene, mode):
    image = Image.fromarray(scene).convert(mode)
    alpha = np.full((ROWS, COLUMNS), 255, np.uint8)
    alpha[:, :10] = 0
    alpha[:, 10:20] = 128
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / "a.png")
    got = photos.read(tmp_path / "a.png").astype(int)
    opaque = np.asarray(Image.fromarray(scene).convert(mode[:-1]).convert("RGB")).astype(int)
    assert (got[:, :10] == 255).all()
    np.testing.assert_allclose(got[:, 10:20], (opaque[:, 10:20] * 128 + 255 * 127) / 255, atol=1.01)
    np.testing.assert_array_equal(got[:, 20:], opaque[:, 20:])


def test_palette_with_a_transparent_colour(tmp_path, scene):
    image = Image.fromarray(scene).quantize(16)
    corner = image.getpixel((0, 0))
    image.save(tmp_path / "a.gif", transparency=corner)
    got = photos.read(tmp_path / "a.gif")
    clear = np.asarray(image) == corner
    assert clear.any() and not clear.all()
    assert (got[clear] == 255).all()
    np.testing.assert_array_equal(got[~clear], np.asarray(image.convert("RGB"))[~clear])


def test_cmyk(tmp_path, scene):
    Image.fromarray(scene).convert("CMYK").save(tmp_path / "a.jpg", quality=100, subsampling=0)
    got = photos.read(tmp_path / "a.jpg").astype(int)
    assert np.abs(got - scene).mean() < 4  # JPEG loses a little; inverted inks would be off by about 128


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_keep_full_scale(tmp_path, scene, suffix):
    deep = grey_of(scene).astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(photos.read(tmp_path / f"a.{suffix}")[..., 2], grey_of(scene))


@pytest.mark.parametrize(
    "values, expected",
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 40.0, 200.0]], np.float32), [0, 40, 200]),
        (np.array([[-1.0, 0.0, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0, 70000, 140000]], np.int32), [0, 128, 255]),
        (np.array([[0, 514, 65535]], np.int32), [0, 2, 255]),
        (np.array([[3.0, 3.0]], np.float32), [3, 3]),
        (np.array([[-3.0, -3.0]], np.float32), [0, 0]),
    ],
)
def test_other_ranges(values, expected):
    got = np.asarray(photos.to_rgb(Image.fromarray(values)))
    np.testing.assert_array_equal(got[0, :, 0], expected)


def test_not_a_number_is_refused(tmp_path):
    Image.fromarray(np.array([[0.0, np.nan]], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(photos.PhotoError, match="finite"):
        photos.read(tmp_path / "a.tif")


def test_first_frame_of_several(tmp_path, scene):
    first = Image.fromarray(scene).quantize(64)
    second = ImageOps.invert(Image.fromarray(scene)).quantize(64)
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    np.testing.assert_array_equal(photos.read(tmp_path / "a.gif"), np.asarray(first.convert("RGB")))


def broken(tmp_path, kind):
    file = tmp_path / f"{kind}.png"
    if kind == "folder":
        file.mkdir()
    elif kind == "empty":
        file.touch()
    elif kind == "text":
        file.write_text("not a picture")
    elif kind == "cut":
        noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
        Image.fromarray(noise).save(file)
        file.write_bytes(file.read_bytes()[:20000])
    elif kind == "header":
        Image.new("RGB", (50, 50)).save(file)
        data = bytearray(file.read_bytes())
        data[16:24] = b"\0" * 8  # width and height
        file.write_bytes(data)
    return file


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("missing", "no such file"),
        ("folder", "a folder"),
        ("empty", "empty"),
        ("text", "no image"),
        ("cut", "damaged"),
        ("header", ""),
    ],
)
def test_unreadable_files_give_one_sentence(tmp_path, kind, reason):
    file = broken(tmp_path, kind)
    with pytest.raises(photos.PhotoError) as caught:
        photos.read(file)
    message = str(caught.value)
    assert message.startswith(f"cannot read {file}: ") and reason in message
    assert "\n" not in message and not message.endswith(".")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, scene):
    Image.fromarray(scene).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(photos.PhotoError, match="too large"):
        photos.read(tmp_path / "a.png")


@pytest.fixture
def tree(tmp_path):
    for name in [
        "b.jpg",
        "a.PNG",
        "notes.txt",
        "deep/c.jpeg",
        "deep/er/d.webp",
        ".hidden/e.png",
        ".f.png",
        "out/g.png",
    ]:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path


def names(files, root):
    return [file.relative_to(root).as_posix() for file in files]


def test_folders_are_searched(tree):
    files, errors = photos.find([tree], without=[tree / "out"])
    assert names(files, tree) == ["a.PNG", "b.jpg", "deep/c.jpeg", "deep/er/d.webp"] and not errors
    assert names(photos.find([tree / "out"], without=[tree / "out"])[0], tree) == ["out/g.png"]
    assert names(photos.find([tree])[0], tree) == ["a.PNG", "b.jpg", "deep/c.jpeg", "deep/er/d.webp", "out/g.png"]


def test_patterns_files_and_duplicates(tree):
    files, errors = photos.find([tree / "b.jpg", f"{tree}/*.*", f"{tree}/**/*.jp*g", tree / "deep" / ".." / "b.jpg"])
    assert names(files, tree) == ["b.jpg", "a.PNG", "notes.txt", "deep/c.jpeg"] and not errors


def test_a_file_name_with_brackets_is_no_pattern(tmp_path):
    (tmp_path / "cat[1].jpg").touch()
    assert names(photos.find([tmp_path / "cat[1].jpg"])[0], tmp_path) == ["cat[1].jpg"]


def test_places_without_photographs_are_told(tree):
    (tree / "bare").mkdir()
    files, errors = photos.find([tree / "bare", f"{tree}/*.bmp", tree / "gone.jpg"])
    assert names(files, tree) == ["gone.jpg"]  # reading it gives the reason
    assert len(errors) == 2 and "bare" in str(errors[0]) and "*.bmp" in str(errors[1])


def test_write_makes_the_folder_and_leaves_nothing_else(tmp_path, scene):
    file = photos.write(scene, tmp_path / "new" / "a.png")
    np.testing.assert_array_equal(np.asarray(Image.open(file)), scene)
    photos.write(Image.fromarray(255 - scene), file)
    np.testing.assert_array_equal(np.asarray(Image.open(file)), 255 - scene)
    assert [f.name for f in file.parent.iterdir()] == ["a.png"]


def test_a_failed_write_keeps_the_old_file(tmp_path, scene, monkeypatch):
    file = photos.write(scene, tmp_path / "a.png")

    def fail(self, target, *args, **kwargs):
        with open(target, "wb") as half:
            half.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="no space"):
        photos.write(255 - scene, file)
    np.testing.assert_array_equal(np.asarray(Image.open(file)), scene)
    assert [f.name for f in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["a", "a.txt", "a.pth"])
def test_write_needs_the_suffix_of_a_picture(tmp_path, scene, name):
    with pytest.raises(ValueError, match=r"a\.png"):
        photos.write(scene, tmp_path / name)
