"""The part of a sweep's page on speed and size, from lines that are made up here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lab.sweeps.frontier import frontier_section
from lab.sweeps.report import Row, Table

from tests.tables import unpadded


def _line(seed: int, **more: Any) -> dict[str, Any]:
    curve = [
        {"sparsity": s, "removed_prunable": s, "removed_of_all": s, "metrics": {"accuracy": a}}
        for s, a in ((0.0, 0.9), (0.5, 0.8 + 0.02 * seed))
    ]
    facts = {"metric": "accuracy", "lower_is_better": False, "method": "targeted_dropout"}
    return {"seed": seed, "curve": curve, **facts, **more}


def _costs(compact: float) -> list[dict[str, Any]]:
    return [
        {"sparsity": s, "bytes": b, "latency": {"dense": {"median": 6.0}, "compact": {"median": t}}}
        for s, b, t in ((0.0, 80_000_000, 6.0), (0.5, 50_000_000, compact))
    ]


def _table(*lines: dict[str, Any]) -> Table:
    return Table("sst2", "heads", [Row("targeted dropout", lines, {})], [])


def test_means_of_the_seeds_are_shown_and_plotted(tmp_path):
    table = _table(_line(0, costs=_costs(3.0)), _line(1, costs=_costs(2.0)))
    page = unpadded("\n".join(frontier_section([table], tmp_path / "page")))
    assert "| heads: targeted dropout | 0% | 1.00 | 80.0 | 0.9000 ± 0.0000 |" in page
    assert "| heads: targeted dropout | 50% | 2.50 | 50.0 | 0.8100 ± 0.0141 |" in page
    for kind in ("speed", "size"):
        assert f"(page-sst2-{kind}.png)" in page
        assert (tmp_path / f"page-sst2-{kind}.png").stat().st_size > 1000


def test_a_model_that_starts_smaller_has_no_speed(tmp_path):
    small = _line(0, costs=[{**cost, "bytes": 40_000_000} for cost in _costs(3.0)])
    tables = [_table(_line(0, costs=_costs(3.0))), replace(_table(small), level="layers")]
    page = unpadded("\n".join(frontier_section(tables, tmp_path / "page")))
    assert "| heads: targeted dropout | 50% | 2.00 | 50.0 | 0.8000 |" in page
    assert "| layers: targeted dropout | 50% | | 40.0 | 0.8000 |" in page


def test_cells_without_costs_have_no_such_part(tmp_path):
    assert not list(frontier_section([_table(_line(0), _line(1))], tmp_path / "page"))


def test_a_seed_without_costs_leaves_its_row_out(tmp_path):
    table = _table(_line(0, costs=_costs(3.0)), _line(1))
    assert not list(frontier_section([table], tmp_path / "page"))
