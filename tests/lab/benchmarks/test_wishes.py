"""Speeds that were wished for, and those that pruning reached."""

from __future__ import annotations

import pytest
from lab.benchmarks.wishes import wishes_table

from hf_td.files import read_json_lines
from tests.programs import argv_of, load_script
from tests.scripts.conftest import model  # noqa: F401 - a fixture
from tests.tables import unpadded

bench = load_script("bench_wishes")


def test_what_was_got_and_what_is_refused_have_lines(model, tmp_path):  # noqa: F811
    results = tmp_path / "wishes.jsonl"
    asked = {
        "label": "tiny",
        "model": model,
        "speedups": [1.01, 1000.0],
        "batches": [2],
        "length": 16,
        "rounds": 2,
        "results": results,
    }
    bench.main(argv_of(asked))
    met, refused = read_json_lines(results)
    assert (met["wanted"], refused["wanted"]) == (1.01, 1000.0)
    assert met["got"] or "cannot be met" in met["refused"]  # a tiny model may gain nothing
    assert not refused["got"]
    assert "speedup=1000 cannot be met" in refused["refused"]
    table = unpadded(results.with_suffix(".md").read_text()).splitlines()
    assert table[-1] == "| tiny | 2 | 1000.0 | refused | | |"


@pytest.mark.parametrize(
    ("got", "said"), [([2.1, 1.9, 2.0], "+0%"), ([2.5, 2.4, 2.6], "+25%, more than 10%")]
)
def test_the_median_is_set_against_the_wish(got, said):
    line = {"label": "a", "batch": 1, "wanted": 2.0, "got": got, "sparsities": [0.5, 0.625]}
    row = unpadded(wishes_table([line])).splitlines()[-1]
    assert row.endswith(f"[{min(got):.2f}, {max(got):.2f}] | {said} | 50% to 62% |")


def test_numbers_below_one_are_refused():
    with pytest.raises(bench.UsageError, match="--rounds is at least 1, got 0"):
        bench.parse(["--label", "a", "--rounds", "0"])
