"""The page in a real browser (Chromium without a window): it runs, sorts, plays, fits the screen, and can be read aloud."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report_pages import write_example

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
FLAGS = (
    *"headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking".split(),
    *"disable-component-update disable-sync".split(),
    "host-resolver-rules=MAP * ~NOTFOUND",  # no page and no part of the browser reaches a network
)
pytestmark = pytest.mark.skipif(not CHROMIUM or not DRIVER, reason="there is no chromium with its chromedriver here")

OVERFLOWING = """
return [...document.querySelectorAll("body *")].filter((element) => {
  const scroll = element.closest(".scroll");
  return (!scroll || element === scroll) && element.getBoundingClientRect().right > innerWidth + 1;
}).map((element) => element.outerHTML.slice(0, 80));
"""
FIRST_COLUMN = "return [...document.querySelectorAll('table.sortable tbody th')].map((cell) => cell.textContent.trim())"
COLUMN = """
const rows = [...document.querySelectorAll("table.sortable tbody tr")];
return rows.map((row) => row.cells[arguments[0]].textContent.trim().split(" ")[0]);
"""
SORTED = (
    "return [...document.querySelectorAll('table.sortable thead th')].map((head) => head.getAttribute('aria-sort'))"
)
HEARD = """
const done = arguments[0], audio = document.querySelector("audio");
audio.scrollIntoView();
const answer = () => done([audio.readyState, audio.duration, audio.error && audio.error.message]);
if (audio.readyState > 0 || audio.error) answer();
else { audio.addEventListener("loadedmetadata", answer); audio.addEventListener("error", answer); audio.load(); }
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of 60 phonemes with all that there can be, clips and hostile labels among it."""
    return write_example(tmp_path_factory.mktemp("page"), n_classes=60)


def open_page(browser: Any, page: Path, width: int = 1400, scheme: str = "light", script: bool = True) -> None:
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not script})
    browser.get_log("browser")
    browser.get(page.as_uri())


def test_the_page_runs_without_an_error_and_no_label_runs(browser: Any, page: Path) -> None:
    open_page(browser, page)
    assert browser.title == "Phoneme report: Punjabi (pa) (synthetic speech)"  # hostile labels would change it
    assert browser.get_log("browser") == []
    requested = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in requested if not name.startswith("data:")] == []


def test_the_table_sorts_by_any_column(browser: Any, page: Path) -> None:
    open_page(browser, page)
    buttons = browser.find_elements("css selector", "table.sortable thead button")
    first = browser.execute_script(FIRST_COLUMN)
    assert len(buttons) == 9 and browser.execute_script(SORTED) == ["ascending"] + [None] * 8
    for column in (1, 3, 4, 5, 6):
        buttons[column].click()
        assert browser.execute_script(SORTED) == [None] * column + ["descending"] + [None] * (8 - column)
        found = browser.execute_script(COLUMN, column)
        known = [float(text) for text in found if text != "–"]
        assert known == sorted(known, reverse=True) and len(known) > 50
        assert set(found[len(known) :]) <= {"–"}, "what has no figure comes last"
        buttons[column].click()
        again = browser.execute_script(COLUMN, column)
        assert browser.execute_script(SORTED)[column] == "ascending"
        assert [float(text) for text in again[: len(known)]] == sorted(known)
        assert set(again[len(known) :]) <= {"–"}
    assert browser.execute_script(FIRST_COLUMN) != first
    buttons[0].send_keys("\ue007")  # Enter: by the keyboard too
    assert browser.execute_script(FIRST_COLUMN) == first  # articulatory order again
    buttons[7].click()
    places = browser.execute_script(COLUMN, 7)
    assert places == sorted(places)


def test_a_clip_can_be_played(browser: Any, page: Path) -> None:
    open_page(browser, page)
    browser.set_script_timeout(20)
    ready, duration, error = browser.execute_async_script(HEARD)
    assert error is None and ready >= 1
    assert 0.4 < duration < 1.0
    size = browser.execute_script("return document.querySelector('.clips svg image').getBoundingClientRect().width")
    assert size > 200


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_the_page_fits_the_screen(browser: Any, page: Path, width: int, scheme: str) -> None:
    open_page(browser, page, width, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.execute_script(OVERFLOWING) == []
    smallest = browser.execute_script(
        "return Math.min(...[...document.querySelectorAll('p, td, th, li, dd, figcaption')].map((element) => "
        "parseFloat(getComputedStyle(element).fontSize)))"
    )
    assert smallest >= 11  # pixels
    scale = (
        "const c = document.querySelector('.chart'); return c.getBoundingClientRect().width / c.viewBox.baseVal.width"
    )
    tick = "return parseFloat(getComputedStyle(document.querySelector('.chart .tick')).fontSize)"
    assert browser.execute_script(scale) * browser.execute_script(tick) >= 10


CONTRAST = """
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const light = (rgb) => rgb.slice(0, 3).map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const colour = parse(getComputedStyle(e).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour;
  }
  return parse(getComputedStyle(document.body).backgroundColor);
};
const low = [];
const kinds = "p, td, th, li, dt, dd, b, a, span, figcaption, caption, h1, h2, h3, pre, button, code, strong";
for (const element of document.querySelectorAll(kinds)) {
  if (![...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
  const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
  if ((a + 0.05) / (b + 0.05) < 4.5) low.push(`${element.className} ${element.textContent.trim().slice(0, 20)}`);
}
return [...new Set(low)];
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(browser: Any, page: Path, scheme: str) -> None:
    """Contrast of at least 4.5 to 1 (WCAG 2.2, level AA)."""
    open_page(browser, page, 1400, scheme)
    assert browser.execute_script(CONTRAST) == []


def test_the_page_can_be_read_aloud(browser: Any, page: Path) -> None:
    open_page(browser, page)
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    by_id = {node["nodeId"]: node for node in nodes}
    seen = [node for node in nodes if not node.get("ignored")]

    def role(node: dict[str, Any]) -> str:
        return str(node.get("role", {}).get("value"))

    def name(node: dict[str, Any]) -> str:
        return str(node.get("name", {}).get("value", "")).strip()

    def below(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for child in node.get("childIds", []):
            if child in by_id:
                yield by_id[child]
                yield from below(by_id[child])

    tables = [node for node in seen if role(node) == "table"]
    assert len(tables) >= 8 and all(name(table) for table in tables)
    for table in tables:
        inside = list(below(table))
        heads = [node for node in inside if role(node) in ("columnheader", "rowheader")]
        assert heads, f"the table '{name(table)}' has no header"
        if name(table).startswith(("F1 of each", "Rows: true", "The pairs", "The learning curve")):
            assert {role(node) for node in heads} == {"columnheader", "rowheader"}
        assert all(name(head) for head in heads)
    pictures = [node for node in seen if role(node) in ("image", "img", "graphics-document", "SvgRoot")]
    assert len([p for p in pictures if name(p)]) >= 7
    assert all(name(picture) for picture in pictures)
    controls = [node for node in seen if role(node) in ("button", "link", "Audio")]
    assert len(controls) > 20 and all(name(control) for control in controls)
    assert {"main", "navigation", "banner", "contentinfo"} <= {role(node) for node in seen}
    regions = [node for node in seen if role(node) == "region"]
    assert len({name(region) for region in regions}) == len(regions)


def test_the_page_serves_without_scripts(browser: Any, page: Path) -> None:
    open_page(browser, page, script=False)
    try:
        tree = browser.execute_cdp_cmd("DOM.getDocument", {"depth": 0})["root"]["nodeId"]
        found = browser.execute_cdp_cmd("DOM.querySelectorAll", {"nodeId": tree, "selector": "button"})["nodeIds"]
        rows = browser.execute_cdp_cmd("DOM.querySelectorAll", {"nodeId": tree, "selector": ".sortable tbody tr"})[
            "nodeIds"
        ]
        assert found == [] and len(rows) > 50
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
