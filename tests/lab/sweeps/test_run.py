import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab.sweeps import Ledger, run_sweep
from lab.sweeps import run as sweep_run

from tests.lab.sweeps.grids import FakeWorkers, cells_of, titles, write_record
from tests.programs import SCRIPTS


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(tmp_path / "out")


def test_every_cell_is_run_once_in_order_and_never_again(tmp_path, ledger):
    cells, workers = cells_of(tmp_path), FakeWorkers()
    run_sweep(cells, ledger, workers)
    assert [cell.name for cell in workers.ran] == list(cells)
    assert list(ledger.ended()) == list(cells)
    again = FakeWorkers()
    run_sweep(cells, ledger, again)
    assert again.ran == []


def test_a_sweep_goes_on_where_it_was(tmp_path, ledger, capsys):
    cells, first, rest = cells_of(tmp_path), FakeWorkers(), FakeWorkers()
    assert run_sweep(cells, ledger, first, stop=lambda started: started == 5) == []
    assert (
        "5 of 16 cells finished, 0 failed, 11 left, about 0:11:00 of work"
        in capsys.readouterr().out
    )
    run_sweep(cells, ledger, rest)
    assert [cell.name for cell in (*first.ran, *rest.ran)] == list(cells)


def test_what_was_edited_is_run_and_the_rest_is_not(tmp_path, ledger):
    run_sweep(cells_of(tmp_path), ledger, FakeWorkers())
    methods = {"none": {"levels": {"unit": False}}, "targeted_dropout": {"targeting": 0.8}}
    workers = FakeWorkers()
    run_sweep(cells_of(tmp_path, methods=methods, seeds=[0]), ledger, workers)
    assert all("targeted_dropout" in title for title in titles(workers.ran))
    assert len(workers.ran) == 4


def test_what_a_cell_needs_is_run_first(tmp_path, ledger):
    cells, workers = cells_of(tmp_path), FakeWorkers()
    only = lambda cell: str(cell.places[0]) == "cola unit none seed 1"  # noqa: E731
    run_sweep(cells, ledger, workers, wanted=only)
    assert titles(workers.ran) == ["cola weight none seed 1", "cola unit none seed 1"]


def test_a_model_that_is_gone_is_made_again_when_it_is_needed(tmp_path, ledger):
    cells = cells_of(tmp_path)
    weights = lambda cell: cell.places[0].level == "weight"  # noqa: E731
    run_sweep(cells, ledger, FakeWorkers(), wanted=weights)
    trained = next(c for c in cells.values() if str(c.places[0]) == "sst2 weight none seed 0")
    shutil.rmtree(trained.folder(ledger.root))
    workers = FakeWorkers()
    run_sweep(cells, ledger, workers)
    ran = titles(workers.ran)
    assert ran.count("sst2 weight none seed 0") == 1
    assert len(ran) == 9
    assert ran.index("sst2 weight none seed 0") < ran.index("sst2 unit none seed 0")


def test_a_model_that_another_process_trains_again_is_waited_for(tmp_path, ledger, monkeypatch):
    cells = cells_of(tmp_path)
    run_sweep(cells, ledger, FakeWorkers(), wanted=lambda c: c.places[0].level == "weight")
    trained = next(c for c in cells.values() if str(c.places[0]) == "sst2 weight none seed 0")
    write_record(trained, ledger.root, runs=[])  # its folder is there, its model is not yet
    claim = ledger.claim(trained.name)
    assert claim is not None

    def end(_: float) -> None:
        write_record(trained, ledger.root, runs=[{"seed": 0}])
        claim.release()

    monkeypatch.setattr(sweep_run.time, "sleep", end)
    workers = FakeWorkers()
    only = lambda c: str(c.places[0]) == "sst2 unit none seed 0"  # noqa: E731
    run_sweep(cells, ledger, workers, wanted=only)
    assert titles(workers.ran) == ["sst2 unit none seed 0"]


class _ForgetfulWorkers(FakeWorkers):
    def start(self, cell, root, *, keep):
        super().start(cell, root, keep=False)


def test_a_model_that_does_not_come_is_not_asked_for_again_and_again(tmp_path, ledger):
    workers = _ForgetfulWorkers()
    run_sweep(cells_of(tmp_path), ledger, workers)
    assert len(titles(workers.ran)) == len(set(titles(workers.ran))) == 12


def test_a_failed_cell_is_recorded_and_stops_only_what_needs_it(tmp_path, ledger, capsys):
    cells, workers = cells_of(tmp_path), FakeWorkers(broken=("sst2 weight none seed 0",))
    broken = run_sweep(cells, ledger, workers)
    assert titles(broken) == ["sst2 weight none seed 0", "sst2 unit none seed 0"]
    failed = {str(cells[n].places[0]) for n, line in ledger.ended().items() if "error" in line}
    assert failed == {"sst2 weight none seed 0"}
    assert len(workers.ran) == 15
    assert "sst2 unit none seed 0" not in titles(workers.ran)
    assert "14 of 16 cells finished, 1 failed, 1 left" in capsys.readouterr().out


def test_a_failed_cell_is_tried_again_once_and_only_when_asked(tmp_path, ledger):
    cells, broken = cells_of(tmp_path), ("sst2 weight none seed 0",)
    run_sweep(cells, ledger, FakeWorkers(broken))
    idle, still, fine = FakeWorkers(), FakeWorkers(broken), FakeWorkers()
    assert len(run_sweep(cells, ledger, idle)) == 2
    assert idle.ran == []
    assert len(run_sweep(cells, ledger, still, retry=True)) == 2
    assert titles(still.ran) == ["sst2 weight none seed 0"]
    assert run_sweep(cells, ledger, fine, retry=True) == []
    assert titles(fine.ran) == ["sst2 weight none seed 0", "sst2 unit none seed 0"]
    assert not any("error" in line for line in ledger.ended().values())


def test_what_failed_counts_only_where_it_was_chosen(tmp_path, ledger):
    cells, broken = cells_of(tmp_path), ("sst2 weight none seed 0",)
    run_sweep(cells, ledger, FakeWorkers(broken))
    other = lambda cell: cell.places[0].task == "cola"  # noqa: E731
    assert run_sweep(cells, ledger, FakeWorkers(), wanted=other) == []


def test_a_cell_of_another_process_is_left_alone(tmp_path, ledger):
    cells, workers = cells_of(tmp_path), FakeWorkers()
    taken = next(name for name, c in cells.items() if "targeted_dropout" in str(c.places[0]))
    lock = ledger.claim(taken)
    assert lock is not None
    run_sweep(cells, Ledger(ledger.root), workers)
    assert taken not in {cell.name for cell in workers.ran}
    assert len(workers.ran) == 15
    lock.release()
    run_sweep(cells, ledger, workers)
    assert workers.ran[-1].name == taken


def test_a_cell_waits_for_a_model_that_another_process_makes(tmp_path, ledger, monkeypatch):
    cells = cells_of(tmp_path, seeds=[0])
    made = next(cell for cell in cells.values() if str(cell.places[0]) == "sst2 weight none seed 0")
    lock = ledger.claim(made.name)
    assert lock is not None

    def finish_elsewhere(_: float) -> None:
        other = FakeWorkers()
        other.start(made, ledger.root, keep=True)
        ledger.append(other.next())
        lock.release()

    monkeypatch.setattr(sweep_run.time, "sleep", finish_elsewhere)
    workers = FakeWorkers()
    run_sweep(cells, ledger, workers, wanted=lambda cell: cell.seed == 0)
    assert "sst2 weight none seed 0" not in titles(workers.ran)
    assert "sst2 unit none seed 0" in titles(workers.ran)
    assert len(workers.ran) == 7


class _SlowWorkers(FakeWorkers):
    def start(self, cell, root, *, keep):
        super().start(cell, root, keep=keep)
        time.sleep(0.02)


def _share(folder: Path) -> None:
    run_sweep(cells_of(folder), Ledger(folder / "out"), _SlowWorkers())


@pytest.mark.slow
def test_processes_that_share_a_sweep_run_each_cell_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_share, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    lines = (tmp_path / "out" / "cells.jsonl").read_text().splitlines()
    names = [json.loads(line)["cell"] for line in lines]
    assert sorted(names) == sorted(cells_of(tmp_path))


_HOLD = f"""
import sys, time
sys.path.insert(0, {str(SCRIPTS)!r})
from lab.sweeps import Ledger
lock = Ledger(sys.argv[1]).claim("a")
print(lock.is_locked, flush=True)
time.sleep(60)
"""


def test_a_killed_process_leaves_no_claim_behind(ledger):
    words = [sys.executable, "-c", _HOLD, str(ledger.root)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        assert ledger.claim("a") is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert ledger.claim("a") is not None


def test_the_plan_is_written_when_it_is_new(tmp_path, ledger):
    cells = cells_of(tmp_path)
    for _ in range(2):
        ledger.record_plan("A title", cells)
    (line,) = ledger.lines.read_text().splitlines()
    plan = json.loads(line)
    assert plan["title"] == "A title"
    assert plan["plan"][0] == {
        "part": "grid",
        "task": "sst2",
        "level": "weight",
        "method": "none",
        "label": None,
        "seed": 0,
        "knobs": {},
        "cell": next(iter(cells)),
    }
    ledger.record_plan("Another", cells)
    assert len(ledger.lines.read_text().splitlines()) == 2
