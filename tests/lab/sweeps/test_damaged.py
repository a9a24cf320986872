"""Files of a sweep that were damaged: a cell runs anew, and a line that is none is shown."""

from __future__ import annotations

import json

import pytest
from lab.sweeps import Ledger
from lab.sweeps.cells import recorded_runs
from lab.sweeps.workers import _clear_useless

from hf_td.tasks.errors import UsageError
from hf_td.tasks.experiment.output import RESULTS
from tests.lab.sweeps.grids import cells_of

DAMAGED = ["", "{", "[]", "3", '{"runs": 3}', "{}", "[" * 100_000, "\xff"]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_cell_with_a_damaged_record_runs_anew(content, tmp_path):
    cell = next(iter(cells_of(tmp_path).values()))
    folder, model = cell.folder(tmp_path), cell.model(tmp_path)
    model.mkdir(parents=True)
    (folder / RESULTS).write_text(content, encoding="latin-1")
    assert recorded_runs(folder) is None
    assert not cell.has_model(tmp_path)
    _clear_useless(folder, model)
    assert not folder.exists()


def test_a_cell_with_a_whole_record_stays(tmp_path):
    cell = next(iter(cells_of(tmp_path).values()))
    folder, model = cell.folder(tmp_path), cell.model(tmp_path)
    model.mkdir(parents=True)
    (folder / RESULTS).write_text(json.dumps({"runs": [{"seed": 0}]}))
    assert cell.has_model(tmp_path)
    _clear_useless(folder, model)
    assert model.is_dir()


@pytest.mark.parametrize("line", ["3", "[]", "null", '"cell"'])
def test_a_line_that_is_no_mapping_is_shown(line, tmp_path):
    ledger = Ledger(tmp_path)
    ledger.lines.write_text('{"cell": "a"}\n' + line + "\n")
    with pytest.raises(UsageError, match=r"each line of .*cells\.jsonl should be a mapping, got"):
        ledger.ended()
