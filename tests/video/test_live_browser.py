"""camfast live in a real browser: the picture changes, the controls act, and the console is empty."""

from __future__ import annotations

import asyncio
import base64
import os
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("av")
pytest.importorskip("aiohttp")

import numpy as np
import torch
from chromium import chromium
from clips import make
from live_server import NAMES, Served, sleepy_hub
from PIL import Image

import camfast
from camfast.methods import METHODS
from camfast.video.live import Hub, Keys, Source

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.fixture
def browser(tmp_path):
    camera = ("use-fake-device-for-media-stream", "use-fake-ui-for-media-stream")
    with chromium("window-size=1440,900", *camera, downloads=tmp_path) as window:
        yield window


@contextmanager
def serving(hub, keys=None, port=0):
    """The page of ``hub`` in a thread; gives its address."""
    ready, done = threading.Event(), threading.Event()
    address = []

    async def serve():
        async with Served(hub, keys=keys, port=port) as served:
            address.append(served.address)
            ready.set()
            await asyncio.to_thread(done.wait)

    server = threading.Thread(target=asyncio.run, args=(serve(),))
    server.start()
    try:
        assert ready.wait(20)
        yield address[0]
    finally:
        done.set()
        server.join(20)
    assert not server.is_alive()


class Page:
    """The page as a test looks at it."""

    def __init__(self, browser) -> None:
        self.browser = browser

    def __getitem__(self, name):
        return self.browser.find_element("id", name)

    def wait(self, condition, seconds=30):
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.browser, seconds, 0.1).until(lambda _: condition())

    def width(self) -> int:
        """Of the picture that is shown."""
        return self.browser.execute_script("return arguments[0].naturalWidth", self["picture"])

    def texts(self, selector, of="textContent") -> list[str]:
        """What the elements say, read at once: the page makes many of them anew with each frame."""
        script = "return [...document.querySelectorAll(arguments[0])].map(element => element[arguments[1]])"
        return self.browser.execute_script(script, selector, of)

    def click(self, selector) -> None:
        """Clicks what may be made anew between finding and clicking."""
        from selenium.common.exceptions import StaleElementReferenceException

        def clicked() -> bool:
            try:
                self.browser.find_element("css selector", selector).click()
            except StaleElementReferenceException:
                return False
            return True

        self.wait(clicked)

    def dim(self) -> bool:
        return "dim" in self["figure"].get_attribute("class")

    def complaints(self) -> list:
        return [entry for entry in self.browser.get_log("browser") if entry["level"] != "INFO"]

    def fits(self) -> bool:
        """Nothing is wider than the window."""
        return self.browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")

    def picture(self, name) -> None:
        folder = os.environ.get("CAMFAST_SCREENSHOTS")
        if folder:
            self.browser.save_screenshot(str(Path(folder) / f"{name}.png"))


@pytest.fixture(params=["desktop", "phone"])
def page(request, browser):
    if request.param == "phone":
        metrics = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    made = Page(browser)
    made.kind = request.param
    return made


def scheme(browser, name):
    features = [{"name": "prefers-color-scheme", "value": name}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    return browser.execute_script("return getComputedStyle(document.body).backgroundColor")


def test_in_a_browser(hub, page, tmp_path):
    from selenium.webdriver.support.ui import Select

    with serving(hub) as address:
        browser = page.browser
        browser.get(address)
        page.wait(lambda: page.width() == 64)
        first = page["picture"].get_attribute("src")
        page.wait(lambda: page["picture"].get_attribute("src") != first)
        page.wait(lambda: len(page.texts(".score")) == 4)
        page.wait(lambda: "frames/s" in page["facts"].text and not page.dim())
        page.wait(lambda: page.texts("#chart-rate path", "outerHTML")[0].count("L") > 5)
        assert "%" in page["chart-score"].text and "ms" in page["chart-ms"].text
        assert page.fits()
        assert scheme(browser, "light") != scheme(browser, "dark")
        page.picture(f"live-{page.kind}")

        Select(page["method"]).select_by_value("hires_cam")
        page.wait(lambda: hub.engine.method == "hires_cam")
        Select(page["colormap"]).select_by_value("viridis")
        page.wait(lambda: hub.engine.colormap == "viridis")
        # The pickers offer the model's own classes and layers, and are searched by typing.
        page["target"].click()
        page.wait(lambda: page.texts("#target-list [role=option]") == NAMES)
        page["target"].send_keys("o")
        page.wait(lambda: page.texts("#target-list [role=option]") == ["dog", "boat"])
        page.picture(f"picker-{page.kind}")
        page.click("#target-list [role=option]:nth-child(2)")
        page.wait(lambda: hub.engine.targets == 2)
        page["target"].clear()
        page["target"].send_keys("tree\n")
        page.wait(lambda: hub.engine.targets == 3)
        page["auto"].click()
        page.wait(lambda: hub.engine.targets is None)
        page["fix"].click()
        page.wait(lambda: hub.engine.targets is not None)
        slide = "arguments[0].value = 0.9; arguments[0].dispatchEvent(new Event('input'))"
        browser.execute_script(slide, page["alpha"])
        page.wait(lambda: hub.engine.alpha == 0.9)
        browser.execute_script(slide.replace("0.9", "0.5"), page["smooth"])
        page.wait(lambda: hub.engine.smooth == 0.5)
        page["layer"].send_keys("0\n")
        page.wait(lambda: hub.engine.layers == ("0",))
        # A snapshot carries class and score, in its name and on a strip below the picture.
        page.wait(lambda: hub.latest.facts["layers"] == ["0"])
        page["snapshot"].click()
        (snapshot,) = page.wait(lambda: list(tmp_path.glob("camfast-*pct-*.jpg")))
        held = NAMES[hub.engine.targets]
        assert snapshot.name.startswith(f"camfast-{held}-")
        page.wait(lambda: snapshot.stat().st_size > 0)
        picture = Image.open(snapshot)
        assert picture.size == (64, 48 + 24)
        assert np.asarray(picture)[50:].max() > 150  # letters
        # What a control cannot do is said beside it.
        page["target"].clear()
        page["target"].send_keys("no such class\n")
        page.wait(lambda: "no such class" in page["targets-error"].text)
        page["layer"].clear()
        page["layer"].send_keys("99\n")
        page.wait(lambda: "99" in page["layers-error"].text)
        assert page.fits()
        page.picture(f"errors-{page.kind}")
        page["pause"].click()
        page.wait(lambda: hub.paused)
        page.wait(lambda: page["pause"].text == "Go on")
        assert page.complaints() == []


def test_heat_that_shows_nothing_is_told(hub, page):
    with torch.no_grad():
        hub.engine._original[0].weight.zero_()
        hub.engine._original[0].bias.fill_(-1)  # behind a ReLU: no map at all
    hub.engine.layers = "1"
    with serving(hub) as address:
        page.browser.get(address)
        page.wait(lambda: page.width() == 64 and not page.dim())
        page.wait(lambda: page["doubt"].text.startswith("No heat: nothing at this layer speaks for"))
        assert page.fits()
        page.picture(f"blank-{page.kind}")
        with torch.no_grad():
            hub.engine._original[0].weight.fill_(0.05)
            hub.engine._original[4].weight[:2] = 1.0
            hub.engine._original[4].weight[2:] = -1.0
        page.wait(lambda: not page["doubt"].is_displayed())


def test_the_chart_of_scores_begins_anew_with_another_class(hub, page):
    with serving(hub) as address:
        page.browser.get(address)
        page.wait(lambda: page.texts("#chart-scores path", "outerHTML")[0].count("L") > 30)
        assert page["chart-what"].text == "Top class:"
        page["fix"].click()
        page.wait(lambda: page["chart-what"].text == "Score of" and hub.engine.targets is not None)
        assert page["chart-class"].text == NAMES[hub.engine.targets]
        assert page.browser.execute_script("return past.rate.length - past.scores.length") > 25


def test_the_page_does_not_look_alive_when_it_is_not(hub, page, clip):
    """A clip that ends, a file that cannot be read, a server that stops and comes again."""
    hub.source = Source(str(clip))
    with serving(hub) as address:
        page.browser.get(address)
        page.wait(lambda: page.width() == 64)
        page.wait(lambda: page.dim() and "ended" in page["sentence"].text)
        assert page["facts"].text == "ended" and page["chart-fps"].text == ""
        page.picture(f"ended-{page.kind}")
        hub.source = Source(str(clip), loop=True)
        page["restart"].click()
        page.wait(lambda: not page.dim() and "frames/s" in page["facts"].text)
        assert not page["state"].is_displayed()
        assert page.complaints() == []
    page.wait(lambda: page.dim() and "cannot be reached" in page["sentence"].text)
    page.wait(lambda: "trying again in 2 s" in page["sentence"].text or "in 4 s" in page["sentence"].text)
    assert page["facts"].text == "not connected"
    page.picture(f"stopped-{page.kind}")
    with serving(hub, port=int(address.rpartition(":")[2])):
        page.wait(lambda: not page.dim() and "frames/s" in page["facts"].text)
    hub.source = Source(__file__)
    with serving(hub) as address:
        page.browser.get(address)
        page.wait(lambda: page.dim() and Path(__file__).name in page["sentence"].text)
        assert page["facts"].text == "stopped" and page["restart"].is_displayed() and page.fits()


def test_a_source_that_hangs_is_seen(hub, page, monkeypatch):
    with serving(hub) as address:
        page.browser.get(address)
        page.wait(lambda: page.width() == 64 and not page.dim())
        monkeypatch.setattr("camfast.video.live.source.Newest.get", lambda self, timeout: time.sleep(timeout))
        page.wait(lambda: page.dim() and "No new picture for" in page["sentence"].text)
        assert page["facts"].text == "waiting"
        monkeypatch.undo()
        page.wait(lambda: not page.dim() and not page["state"].is_displayed())


def test_a_slow_method(clip, page):
    from selenium.webdriver.support.ui import Select

    hub = sleepy_hub(clip)
    with serving(hub) as address:
        page.browser.get(address)
        page.wait(lambda: page.width() == 64 and not page.dim())
        page.wait(lambda: not hub._untried, 60)
        page.wait(lambda: set(page.texts("#method option", "value")) == set(METHODS) - set(hub.refused))
        Select(page["method"]).select_by_value("score_cam")
        page.wait(lambda: "score_cam takes long" in page["progress-text"].text and page.dim())
        assert (
            page["facts"].text == "explaining" and page["chart-fps"].text == ""
        )  # no figure stands as if it were of now
        page.picture(f"slow-{page.kind}")
        page["cancel"].click()
        page.wait(lambda: not page["progress"].is_displayed() and not page.dim())
        page.wait(lambda: "cancelled" in page["method-error"].text)
        assert hub.engine.method == "grad_cam" and page.fits()
        assert page.complaints() == []


def test_who_may_only_watch(hub, page):
    keys = Keys.made(local=True, read_only=True)
    with serving(hub, keys) as address:
        page.browser.get(address)
        page.wait(lambda: page.width() == 64)
        page.wait(lambda: page["watching"].is_displayed() and not page["method"].is_enabled())
        assert page["snapshot"].is_enabled() and not page["webcam"].is_enabled()
        page.browser.get(f"{address}/?key={keys.steer}")
        page.wait(lambda: page.width() == 64)
        page.wait(lambda: page["method"].is_enabled() and not page["watching"].is_displayed())
        assert page.complaints() == []


def test_the_webcam_stays_when_settings_come_before_its_first_picture(hub, page):
    with serving(hub) as address:
        page.browser.get(address)
        page.wait(lambda: page.width() == 64 and not page.dim())
        page.browser.execute_script("startCamera().then(() => stand({...settings, guest: ''}))")
        page.wait(lambda: page.width() not in (0, 64) and "webcam" in page["source"].text)
        page["dismiss"].click()
        page.wait(lambda: page.width() == 64 and page["webcam"].get_attribute("aria-pressed") == "false")
        assert page.complaints() == []


def test_lists_stay_while_they_are_open(hub, page):
    """Methods that cannot work go from the list one by one: the others' elements stay, a browser's open list too."""
    with serving(hub) as address:
        page.browser.get(address)
        page.wait(lambda: "grad_cam" in page.texts("#method option", "value"))
        page.browser.execute_script("window.kept = document.querySelector('#method [value=grad_cam]')")
        page.wait(lambda: not hub._untried and hub.refused, 60)
        page.wait(lambda: set(page.texts("#method option", "value")) == set(METHODS) - set(hub.refused))
        assert page.browser.execute_script("return window.kept.isConnected && window.kept.selected")


def test_webcam_and_photograph_of_the_browser(hub, page, tmp_path):
    photograph = tmp_path / "photo.jpg"
    Image.new("RGB", (120, 90), (10, 200, 30)).save(photograph)
    with serving(hub) as address:
        page.browser.get(address)
        page.wait(lambda: page.width() == 64 and not page.dim())
        page["webcam"].click()
        page.wait(lambda: page.width() not in (0, 64) and not page.dim())
        page.wait(lambda: "webcam" in page["source"].text)
        number = hub.latest.number
        page.wait(lambda: hub.latest.number > number + 5)
        page.picture(f"webcam-{page.kind}")
        drop = """
            const data = Uint8Array.from(atob(arguments[0]), c => c.charCodeAt(0)), moved = new DataTransfer();
            moved.items.add(new File([data], "photo.jpg", {type: "image/jpeg"}));
            document.getElementById("figure").dispatchEvent(new DragEvent("drop", {dataTransfer: moved, bubbles: true}));
        """
        page.browser.execute_script(drop, base64.b64encode(photograph.read_bytes()).decode())
        page.wait(lambda: page.width() == 120)
        page.wait(lambda: "photograph" in page["source"].text and page["dismiss"].is_displayed())
        page["dismiss"].click()
        page.wait(lambda: page.width() == 64)
        page["file"].send_keys(str(photograph))  # as by the button
        page.wait(lambda: page.width() == 120)
        assert page.complaints() == []


def test_controls_of_a_detector(clip, page):
    """The least score and the classes of boxes, on the page of a detector alone."""
    from squares import LIGHT, RED, Squares, scene

    frames = [scene((LIGHT, 2, 1 + i), (LIGHT, 4, 1 + i), (RED, 5, 9)) for i in range(8)]
    engine = camfast.Realtime(Squares().eval(), detect=True, input_size=96)
    hub = Hub(Source(str(make(clip.parent / "squares.mp4", frames)), loop=True), engine, engine.layer_names())
    with serving(hub) as address:
        page.browser.get(address)
        page.wait(lambda: page.width() == 96 and not page.dim())
        page.wait(lambda: page.texts(".score span:first-child") == ["light \u00d7 2", "red"])
        assert page["min_score"].is_displayed() and page["min_score-value"].text == "25 %"
        assert not page["fix"].is_displayed() and page["auto"].text == "All classes"
        assert page["chart-what"].text == "Surest box:" and page.fits()
        page.picture(f"detector-{page.kind}")
        page["target"].click()
        page["target"].send_keys("red, green\n")
        page.wait(lambda: hub.engine.targets == (RED, 2))
        page.wait(lambda: page.texts(".score span:first-child") == ["red"])
        slide = "arguments[0].value = 0.95; arguments[0].dispatchEvent(new Event('input'))"
        page.browser.execute_script(slide, page["min_score"])
        page.wait(lambda: hub.engine.min_score == 0.95)
        page.wait(lambda: page["doubt"].is_displayed() and "No box of these classes" in page["doubt"].text)
        page["auto"].click()
        page.wait(lambda: hub.engine.targets is None)
        assert page.fits() and page.complaints() == []
        page.picture(f"no-box-{page.kind}")


def test_a_classifier_has_no_least_score(hub, page):
    with serving(hub) as address:
        page.browser.get(address)
        page.wait(lambda: page.width() == 64 and not page.dim())
        assert not page["min_score"].is_displayed() and page["fix"].is_displayed()
        assert page["auto"].text == "Top class"
