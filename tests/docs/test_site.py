"""The documentation's site: it builds without a warning, its own search answers the FAQ's questions, and figures have commands."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from chromium import chromium
from test_snippets import PAGES, ROOT

FAQ = re.findall(r"^## (.+)$", (ROOT / "docs" / "faq.md").read_text(), re.M)
MEASURED = re.compile(
    r"(?<![\w.-])\d[\d,.]*( ?x\b(?! \d)|x longer| ms\b| us\b| times (faster|longer|as long)| ?% of|\d?x \|)"
)

FOUND = "[data-md-component=search-result] .md-search-result__item"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip('needs mkdocs: pip install "camfast[docs]"')
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def browser():
    with chromium("window-size=1280,900") as window:
        yield window


def test_the_sites_own_search_answers_the_faq(site, browser):
    """Typed as they stand, from a folder and without a server; each answer is among the first three pages found."""
    from selenium.webdriver.support import expected_conditions
    from selenium.webdriver.support.ui import WebDriverWait

    anchors = re.findall(r'<h2 id="([^"]+)"', (site / "faq.html").read_text())
    assert len(anchors) == len(FAQ) >= 10
    lost = []
    for question, anchor in zip(FAQ, anchors, strict=True):
        browser.get((site / "index.html").as_uri())
        browser.execute_script("document.querySelector('[data-md-toggle=search]').click()")
        field = browser.find_element("css selector", "[data-md-component=search-query]")
        WebDriverWait(browser, 20).until(expected_conditions.element_to_be_clickable(field))
        field.send_keys(re.sub(r"[^\w\s-]", " ", question))
        WebDriverWait(browser, 20).until(lambda b: b.find_elements("css selector", FOUND))
        links = browser.execute_script(
            "return [...document.querySelectorAll(arguments[0])].slice(0, 3)"
            ".flatMap(item => [...item.querySelectorAll('a')].map(a => a.href))",
            FOUND,
        )
        if not any(re.search(rf"faq\.html(\?.*)?#{anchor}$", link) for link in links):
            lost.append((question, links))
    assert not lost


def test_nothing_is_loaded_from_elsewhere(site):
    for page in site.rglob("*.html"):
        assert not re.findall(
            r"<(?:script|link|img)[^>]*(?:src|href)=.?https?://[^>]*\.(?:js|css|png|svg)", page.read_text()
        )
    assert "unpkg" not in (site / "index.html").read_text()


@pytest.mark.parametrize("size", [(1280, 900, False), (390, 844, True)], ids=["desktop", "phone"])
def test_pages_fit_the_window(site, browser, size):
    width, height, mobile = size
    emulated = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", emulated)
    try:
        for page in sorted(site.glob("*.html")):
            browser.get(page.as_uri())
            wide = browser.execute_script("return document.documentElement.scrollWidth")
            broken = browser.execute_script(
                "return [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
            )
            assert wide <= width and not broken, page.name
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_figures_stand_with_the_command_that_measures_them():
    """Each section that shows what was measured names a program of the benchmarks, or a test."""
    bare, seen = [], 0
    for page in PAGES:
        for section in re.split(r"^#+ ", page.read_text(), flags=re.M):
            if MEASURED.search(section):
                seen += 1
                if not re.search(r"benchmarks/\w+\.(py|sh)|tests/\w+", section):
                    bare.append((page.name, section.splitlines()[0], MEASURED.search(section)[0]))
    assert seen >= 4 and bare == []
