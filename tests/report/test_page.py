"""The page holds all that it needs, escapes what it is given, and invents nothing."""

from __future__ import annotations

import re
from base64 import b64encode
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser

import pytest

from hf_td.report import Report, render_page
from tests.report.examples import SPARSITIES, report, series

HOSTILE = "<script>alert('x')</script> \"$a_b$ & {{ 7 * 7 }} #000000"


class Page(HTMLParser):
    """The parsed page: its tags with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.tags)


@pytest.fixture(scope="module")
def text() -> str:
    return render_page(report())


def test_the_page_loads_nothing(text):
    addresses = [
        value or ""
        for _, attributes in Page(text).tags
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "action", "data")
    ]
    assert all(address.startswith("#") for address in addresses)
    assert not re.search(r"@import|url\((?!#)|@font-face", text)


def test_the_policy_allows_this_script_and_no_other(text):
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = b64encode(sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for _, a in Page(text).tags if "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_equal_reports_give_equal_pages(text):
    assert render_page(report()) == text


def test_every_sparsity_has_its_rows_and_every_chart_a_name(text):
    page = Page(text)
    assert page.count("tbody") == len(SPARSITIES)
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(drawings) == 5  # the curve, two frontiers, the units, the log
    ids = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
    assert set(ids.values()) == {1}
    for drawing in drawings:
        assert drawing["role"] == "img"
        assert set((drawing["aria-labelledby"] or "").split()) <= ids.keys()


def test_the_text_of_a_chart_is_text_and_its_ink_follows_the_page(text):
    curve = text[text.index("<svg") : text.index("</svg>")]
    assert "sparsity asked for" in curve
    for percent in ("0", "50", "90", "95"):
        assert f">{percent}<" in curve
    assert "var(--ink)" in curve
    assert "#010101" not in curve


def test_what_comes_from_files_is_escaped():
    hostile = series(HOSTILE, facts={HOSTILE: HOSTILE}, notes=(HOSTILE,), timing=HOSTILE)
    found = render_page(report(hostile, title=HOSTILE, task=HOSTILE, split=HOSTILE))
    assert Page(found).count("script") == 1
    assert "alert('x')</script>" not in found
    assert "49" not in re.findall(r"{{.*?}}", found)
    assert HOSTILE in Page(found).text


def test_what_was_not_measured_is_said_and_not_drawn():
    unknown = {"parameters": None, "bytes": None, "milliseconds": None, "units": ()}
    points = tuple(replace(point, **unknown) for point in series().points)
    page = Page(render_page(report(series(points=points, log=(), timing=None))))
    assert page.count("svg") == 1
    assert page.text.count("not measured") == 3 * len(SPARSITIES)
    assert "did not record which units" in page.text
    assert "recorded no loss" in page.text


def test_the_words_count_what_was_removed(text):
    assert "At 50%: 4 of 8 heads are removed (2 in each of 2 blocks)" in Page(text).text


def test_several_runs_have_a_row_each_and_their_own_charts():
    shorter = series("plain fine-tuning")
    shorter = replace(shorter, points=shorter.points[:2])
    page = Page(render_page(report(series(), shorter)))
    assert page.count("tbody") == len(SPARSITIES)
    assert page.count("svg") == 7
    assert page.text.count("plain fine-tuning") > len(SPARSITIES)
    assert "not measured" in page.text


def test_a_metric_that_is_not_finite_is_said():
    points = (replace(series().points[0]), replace(series().points[1], metric=()))
    assert "not finite" in render_page(report(series(points=points)))


def test_a_report_needs_points_and_labels_of_their_own():
    with pytest.raises(ValueError, match="no sparsity was measured"):
        report(series(points=()))
    with pytest.raises(ValueError, match="labels of runs have to differ"):
        report(series(), series())
    with pytest.raises(ValueError, match="any run"):
        Report(title="", task="", split="", metric="", lower_is_better=False, series=())
