"""camfast live in a real browser: the picture changes, the controls act, and the console is empty."""

from __future__ import annotations

import asyncio
import shutil
import threading

import pytest

pytest.importorskip("av")
pytest.importorskip("aiohttp")

from live_server import Served, small_clip, small_hub, threads_left
from PIL import Image


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return small_clip(tmp_path_factory.mktemp("live"))


@pytest.fixture
def hub(clip):
    return small_hub(clip)


@pytest.fixture(autouse=True)
def nothing_left_behind():
    yield
    assert threads_left() == []


@pytest.fixture
def browser(tmp_path):
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    alone = ("gpu", "quic", "dev-shm-usage", "background-networking", "component-update", "sync")
    for argument in (
        "headless=new",
        "no-sandbox",
        "no-first-run",
        "window-size=1440,900",
        *(f"disable-{n}" for n in alone),
    ):
        options.add_argument(f"--{argument}")
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


def test_in_a_browser(hub, browser, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    ready, done = threading.Event(), threading.Event()
    address = []

    async def serve():
        async with Served(hub) as served:
            address.append(served.address)
            ready.set()
            await asyncio.to_thread(done.wait)

    server = threading.Thread(target=asyncio.run, args=(serve(),))
    server.start()
    try:
        ready.wait()
        wait = WebDriverWait(browser, 30)
        browser.get(address[0])
        picture = browser.find_element(By.ID, "picture")
        wait.until(lambda _: browser.execute_script("return arguments[0].naturalWidth", picture) == 64)
        first = picture.get_attribute("src")
        wait.until(lambda _: picture.get_attribute("src") != first)
        assert len(browser.find_elements(By.CSS_SELECTOR, ".score")) == 4
        assert "frames/s" in browser.find_element(By.ID, "facts").text

        Select(browser.find_element(By.ID, "method")).select_by_value("hires_cam")
        wait.until(lambda _: hub.engine.method == "hires_cam")
        Select(browser.find_element(By.ID, "colormap")).select_by_value("viridis")
        wait.until(lambda _: hub.engine.colormap == "viridis")
        browser.find_element(By.ID, "target").send_keys("tree\n")
        wait.until(lambda _: hub.engine.targets == 3)
        browser.find_element(By.ID, "auto").click()
        wait.until(lambda _: hub.engine.targets is None)
        browser.find_element(By.ID, "fix").click()
        wait.until(lambda _: hub.engine.targets is not None)
        slide = "arguments[0].value = 0.9; arguments[0].dispatchEvent(new Event('input'))"
        browser.execute_script(slide, browser.find_element(By.ID, "alpha"))
        wait.until(lambda _: hub.engine.alpha == 0.9)
        browser.execute_script(slide.replace("0.9", "0.5"), browser.find_element(By.ID, "smooth"))
        wait.until(lambda _: hub.engine.smooth == 0.5)
        browser.find_element(By.ID, "layer").send_keys("0\n")
        wait.until(lambda _: hub.engine.layers == ("0",))
        browser.find_element(By.ID, "snapshot").click()
        (snapshot,) = wait.until(lambda _: list(tmp_path.glob("camfast-*.jpg")))
        assert Image.open(snapshot).size == (64, 48)
        browser.find_element(By.ID, "pause").click()
        wait.until(lambda _: hub.paused)
        wait.until(lambda _: browser.find_element(By.ID, "pause").text == "Go on")
        browser.find_element(By.ID, "target").clear()
        browser.find_element(By.ID, "target").send_keys("no such class\n")
        wait.until(lambda _: "no such class" in browser.find_element(By.ID, "problem").text)
        assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []
    finally:
        done.set()
        server.join(20)
    assert not server.is_alive()
