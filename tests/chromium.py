"""Headless Chromium for tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def chromium(*arguments: str, downloads: Any = None) -> Iterator[Any]:
    """A window of Chromium whose console is kept, with ``arguments`` as on its command line; a folder for ``downloads``."""
    webdriver = pytest.importorskip("selenium.webdriver")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    alone = ("gpu", "quic", "dev-shm-usage", "background-networking", "component-update", "sync")
    for argument in ("headless=new", "no-sandbox", "no-first-run", *(f"disable-{name}" for name in alone), *arguments):
        options.add_argument(f"--{argument}")
    if downloads is not None:
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield window
    finally:
        window.quit()
