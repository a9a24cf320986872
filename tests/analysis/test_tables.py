"""Markdown tables, as GitHub reads them."""

from __future__ import annotations

from hf_td.analysis.tables import markdown_table


def test_cells_are_kept_as_they_are_printed():
    table = markdown_table(["model", "loss", "n"], [["a", "0.10", "1,000"], ["b", "+1e-3", ""]])
    head, rule, *rows = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in table.split("\n")
    )
    assert head == ["model", "loss", "n"]
    assert rows == [["a", "0.10", "1,000"], ["b", "+1e-3", ""]]
    assert [(mark[0], mark[-1]) for mark in rule] == [(":", "-"), ("-", ":"), ("-", ":")]


def test_a_table_without_rows_has_its_heads():
    table = markdown_table(["a", "b"], [], left_columns=2)
    assert [len(line.split("|")) for line in table.split("\n")] == [4, 4]
