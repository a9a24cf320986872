"""A report page works in Chromium: no error, no request, the slider, and no axe violation.

Chromium is `chromium` on the path, or $CHROMIUM. axe is $AXE, the path of axe.min.js of the npm
package axe-core, or lies in node_modules here.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hf_td.report import render_page
from tests.friends.helpers import friend
from tests.report.examples import report, series

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
AXE = Path(os.environ.get("AXE", "node_modules/axe-core/axe.min.js"))
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
LIGHT: dict[str, Any] = {"color_scheme": "light", "viewport": {"width": 1100, "height": 900}}
DARK: dict[str, Any] = {**LIGHT, "color_scheme": "dark"}
PHONE: dict[str, Any] = {**LIGHT, "viewport": {"width": 375, "height": 800}}
RUNS = {"one run": (series(),), "two runs": (series(), series("plain fine-tuning"))}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = friend("playwright.sync_api")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("no Chromium: put `chromium` on the path, or its path into CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="module", params=RUNS)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page(report(*RUNS[request.param])), encoding="utf-8")
    return path


@pytest.fixture(params=[LIGHT, DARK, PHONE], ids=["light", "dark", "phone"])
def page(browser: Any, file: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Open the page; afterwards no message was logged and nothing was requested."""
    context = browser.new_context(**request.param, bypass_csp=False)
    opened = context.new_page()
    seen: list[str] = []
    opened.on("console", lambda message: seen.append(message.text))
    opened.on("pageerror", lambda error: seen.append(str(error)))
    opened.on("request", lambda asked: seen.append(asked.url))
    opened.goto(file.as_uri())
    yield opened
    context.close()
    assert seen == [file.as_uri()]


def shown(page: Any) -> list[str]:
    return page.locator("#figures tbody:visible td[data-head=sparsity]").all_inner_texts()


def test_the_slider_moves_the_table_by_keyboard(page: Any) -> None:
    runs = len(shown(page))
    page.locator("#sparsity").focus()
    for percent in ("50%", "90%", "95%"):
        page.keyboard.press("ArrowRight")
        assert [text.rpartition(" ")[2] for text in shown(page)] == [percent] * runs
        assert page.locator("#sparsity-shown").inner_text() == percent
        assert page.locator("#sparsity").get_attribute("aria-valuetext") == f"{percent} removed"
    page.keyboard.press("Home")
    assert {text.rpartition(" ")[2] for text in shown(page)} == {"0%"}


def test_nothing_is_wider_than_the_screen(page: Any) -> None:
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_text_of_charts_is_readable(page: Any) -> None:
    heights = page.evaluate(
        "[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)"
    )
    assert len(heights) > 50
    assert min(heights) >= 9


def test_all_rows_are_printed_and_the_slider_is_not(page: Any) -> None:
    rows = page.locator("#figures tbody tr").count()
    page.emulate_media(media="print")
    assert page.locator("#figures tbody tr:visible").count() == rows
    assert not page.locator("#sparsity").is_visible()


def test_without_scripts_all_rows_are_shown(browser: Any, file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(file.as_uri())
    assert len(shown(opened)) == opened.locator("#figures tbody tr").count()
    context.close()


@pytest.mark.skipif(not AXE.is_file(), reason="no axe: npm install axe-core, its path into AXE")
@pytest.mark.parametrize("look", [LIGHT, DARK, PHONE], ids=["light", "dark", "phone"])
def test_axe_finds_no_violation(browser: Any, file: Path, look: dict[str, Any]) -> None:
    context = browser.new_context(**look, bypass_csp=True)  # axe is no script of the page
    opened = context.new_page()
    opened.goto(file.as_uri())
    opened.add_script_tag(content=AXE.read_text(encoding="utf-8"))
    found = opened.evaluate("axe.run()")
    context.close()
    assert len(found["passes"]) > 10
    assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []
