"""The report's page in a browser, opened from disk: what it shows, how it filters, and that nothing in a name can change it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from chromium import chromium
from PIL import Image
from runs import both, row, write_run

import camfast

HOSTILE = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """60 photographs: 20 tabbies taken for espresso, one named by an enemy; 10 espresso for rockets; 30 right."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "photos").mkdir()
    rows, boxes = [], ["path,left,top,right,bottom"]
    heat = np.zeros((8, 8))
    heat[:, :4] = 1
    for n in range(60):
        path = folder / "photos" / (HOSTILE if n == 7 else f"ö {n:02d} #?.png")
        Image.new("RGB", (96, 64), (0, 90, 255)).save(path)
        boxes.append(f'"{path}",16,0,{48 if n % 2 else 32},64')
        sure = {"probability": n / 100 + 0.2, "heat": heat}
        if n < 30:
            rows += both(str(path), n, 1 if n < 20 else 2, 0 if n < 20 else 1, **sure)
        else:
            rows.append(row(str(path), n, n % 3, n % 3, **sure))
    (folder / "boxes.csv").write_text("\n".join(boxes), encoding="utf-8")
    run = write_run(folder / "run", rows, unreadable=[(HOSTILE, "it is <b>empty</b>")])
    return camfast.report(run, boxes=folder / "boxes.csv", pictures=20, progress=False)


@pytest.fixture(scope="module")
def window():
    with chromium("window-size=1280,900") as browser:
        yield browser


@pytest.fixture
def page(report, window):
    window.get("about:blank")
    window.get_log("browser")
    window.get(report.as_uri())
    wait(window, "return document.querySelectorAll('#cards .photo').length === 24")
    yield window
    assert [entry for entry in window.get_log("browser") if entry["level"] == "SEVERE"] == []


def wait(window, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(window, 30).until(lambda browser: browser.execute_script(script))


def cards(window) -> list[int]:
    return window.execute_script(
        "return [...document.querySelectorAll('#cards .card')].map(c => Number(c.dataset.image))"
    )


def put(window, **values) -> str:
    """Sets filters as a person does; returns what the page says of the count."""
    for name, value in values.items():
        window.execute_script(
            f"const one = document.getElementById('{name}'); one.value = {json.dumps(value)}; one.dispatchEvent(new Event('input'))"
        )
    window.execute_async_script("setTimeout(arguments[arguments.length - 1], 300)")
    return window.find_element("id", "count").text


def test_errors_come_first_and_the_surest_of_them(page):
    assert cards(page) == list(range(29, 5, -1))
    assert page.find_element("id", "count").text == "60 of 60 images, 50.0 % of those with a label right"
    page.find_element("id", "more").click()
    assert cards(page)[24:31] == [5, 4, 3, 2, 1, 0, 59] and len(cards(page)) == 48


def test_pairs_show_both_heats(page):
    heads = [head.text.split("\n") for head in page.find_elements("css selector", ".pair-head")]
    assert heads == [
        ["tabby", "taken for", "espresso", "20 images", "Show all"],
        ["espresso", "taken for", "rocket", "10 images", "Show all"],
    ]
    wait(page, "return document.querySelectorAll('#pairs .photo').length === 24")
    names = page.execute_script(
        "return [...document.querySelectorAll('#pairs .card:first-child small')].map(s => s.textContent)"
    )
    assert names == ["espresso", "tabby", "rocket", "espresso"]
    page.find_element("css selector", ".pair-head button").click()
    assert page.find_element("id", "count").text.startswith("20 of 60 images, 0.0 %")
    assert page.current_url.endswith("#outcome=wrong&label=0&prediction=1")


def test_filters_search_and_clear(page):
    assert put(page, label="1") == "20 of 60 images, 50.0 % of those with a label right"
    assert put(page, low="45", high="50").startswith("5 of 60") and cards(page) == [29, 28, 27, 26, 25]
    assert put(page, low="", high="", label="", outcome="right").startswith("30 of 60")
    assert put(page, outcome="", words="ONERROR").startswith("1 of 60") and cards(page) == [7]
    assert put(page, words="rocket ö").startswith("20 of 60")
    assert put(page, words="nothing such").startswith("0 of 60") and cards(page) == []
    page.find_element("id", "reset").click()
    wait(page, "return document.getElementById('count').textContent.startsWith('60 of 60')")
    assert "#" not in page.current_url


def test_orders(page):
    found = {}
    for button in page.find_elements("css selector", "#orders button"):
        button.click()
        found[button.text] = cards(page)[:3]
        assert button.get_attribute("aria-pressed") == "true"
    assert found == {
        "Errors first": [29, 28, 27],
        "Least certain": [0, 1, 2],
        "Most certain": [59, 58, 57],
        "Heat outside": [0, 2, 4],
        "As they came": [0, 1, 2],
    }


def test_an_address_keeps_what_was_asked_for(report, window):
    window.get(report.as_uri() + "#words=rocket&order=uncertain&heat=both")
    window.refresh()
    assert window.find_element("id", "count").text.startswith("20 of 60") and cards(window)[:2] == [20, 21]


def test_heat_lies_where_the_network_looked(page):
    """Left half of the crop, from 16 to 48 of 96 pixels, whatever the size of the card; the rest of the photograph is grey."""
    wait(page, "return [...document.querySelectorAll('#cards img')].every(i => i.complete && i.naturalWidth)")
    edges = page.execute_script(
        "const photo = document.querySelector('#cards .photo').getBoundingClientRect(),"
        "heat = document.querySelector('#cards canvas').getBoundingClientRect();"
        "return [(heat.left - photo.left) / photo.width, (heat.right - photo.left) / photo.width, heat.height / photo.height]"
    )
    assert edges == pytest.approx([16 / 96, 80 / 96, 1], abs=0.01)
    colors = page.execute_script(
        "const heat = document.querySelector('#cards canvas'), at = heat.getContext('2d');"
        "return [.2, .8].map(x => [...at.getImageData(x * heat.width, heat.height / 2, 1, 1).data])"
    )
    inferno = camfast.colormaps.table("inferno")
    assert colors == [[*inferno[255].tolist(), 255], [*inferno[0].tolist(), 255]]
    sides = page.execute_script("return document.querySelector('#cards .photo').querySelectorAll('.unseen').length")
    assert sides == 2


def test_an_image_large(page):
    page.find_element("css selector", "#cards .card button").click()
    wait(page, "return document.querySelector('#one-stage img')?.naturalWidth === 96")
    facts = page.find_element("id", "one-facts").text
    assert "True class: espresso" in facts and "rocket, 75.0 %" in facts and "ö 29 #?.png" in facts
    assert "97 % of this heat is inside. The boxes cover 50 % of what the network saw." in facts
    page.find_elements("css selector", ".targets button")[1].click()
    wait(page, "return document.getElementById('one-facts').textContent.includes('3 % of this heat is inside')")
    page.find_element("id", "next").click()
    wait(page, "return document.getElementById('one-name').textContent === 'ö 28 #?.png'")
    assert page.find_element("id", "previous").is_enabled()
    page.find_element("id", "close").click()
    assert not page.find_element("id", "one").is_displayed()


def test_names_are_text(page):
    from selenium.webdriver.support import expected_conditions

    put(page, words="onerror")
    wait(page, "return document.querySelector('#cards img')?.naturalWidth > 0")
    assert page.find_element("css selector", "#cards .card a").text == HOSTILE
    page.find_element("css selector", "#summary details summary").click()
    assert f"{HOSTILE}: it is <b>empty</b>" in page.find_element("css selector", "#summary details").text
    assert not expected_conditions.alert_is_present()(page)
    assert page.execute_script("return document.querySelectorAll('img[src=x]').length") == 0


def test_a_photograph_that_is_gone_leaves_its_heat(tmp_path, window):
    run = write_run(tmp_path / "run", [row("gone.png", 0, 0)])
    window.get(camfast.report(run, progress=False).as_uri())
    wait(window, "return document.querySelector('#cards em')?.textContent.startsWith('No picture')")
    assert window.execute_script("return document.querySelectorAll('#cards canvas').length") == 1
    hidden = window.execute_script(
        "return ['confused', 'label', 'outcome'].map(id => !document.getElementById(id).offsetParent)"
    )
    assert hidden == [True, True, True]
    window.get_log("browser")


@pytest.mark.parametrize("size", [(1280, 900, False), (390, 844, True)], ids=["desktop", "phone"])
def test_the_page_fits_the_window(page, size):
    width, height, mobile = size
    emulated = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", emulated)
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
        lines = "el => el.getBoundingClientRect().height / parseFloat(getComputedStyle(el).lineHeight)"
        chances = page.execute_script(
            f"return [...document.querySelectorAll('#cards .top span:last-child')].map({lines}).filter(n => !(n < 1.5))"
        )
        assert chances == []  # "76.5 %" stays on one line
        page.execute_script("document.querySelector('#cards .card button').click()")
        wait(page, "return document.querySelector('#one-facts').textContent")
        assert page.execute_script("return document.getElementById('one').scrollWidth") <= width
        page.execute_script("document.getElementById('one').close()")
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
