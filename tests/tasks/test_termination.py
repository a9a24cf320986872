"""SIGTERM ends the scripts and the command line as Ctrl-C does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from hf_td.tasks.termination import STATUS, unwinding_on_sigterm
from tests.tiny import tiny_model

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are those of POSIX")

ROOT = Path(__file__).parents[2]


# A shell starts what it puts in the background with SIGINT ignored.
HEARS_SIGINT = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"


def run(code: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    script = f"{HEARS_SIGINT}\n{textwrap.dedent(code)}"
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_line_leaves_no_draft(tmp_path, number):
    tiny_model("llama").save_pretrained(tmp_path / "dense")
    done = run(
        f"""
        import os, sys, time
        from hf_td import cli
        from hf_td.hub.forms.stock import Stock
        write = Stock.write
        def ended(*arguments):
            write(*arguments)
            assert list(arguments[2].iterdir())
            os.kill(os.getpid(), {int(number)})
            time.sleep(60)
        Stock.write = ended
        sys.argv = ["hf-td", "prune", sys.argv[1], sys.argv[2], "--sparsity", "0.5"]
        cli.main()
        """,
        tmp_path / "dense",
        tmp_path / "export",
    )
    assert done.returncode == (STATUS if number == signal.SIGTERM else 130), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]
    assert "Traceback" not in done.stderr


def test_a_script_ends_the_process_that_it_waits_for(tmp_path):
    done = run(
        """
        import os, subprocess, sys
        from hf_td.tasks.errors import run_program
        def main():
            child = f"import os, signal, time; print(os.getpid(), flush=True); "
            child += f"os.kill({os.getpid()}, signal.SIGTERM); time.sleep(60)"
            subprocess.run([sys.executable, "-c", child])
        run_program(main)
        """
    )
    assert done.returncode == STATUS, done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_a_second_signal_does_not_disturb_the_cleaning_up(tmp_path):
    done = run(
        """
        import os, signal, sys, time
        from hf_td.tasks.errors import run_program
        def main():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                print("cleaned up")
        run_program(main)
        """
    )
    assert (done.returncode, done.stdout) == (STATUS, "cleaned up\n")


def test_a_forked_process_ends_at_once(tmp_path):
    with unwinding_on_sigterm():
        child = os.fork()
        if not child:
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                os._exit(1)  # it would have unwound
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM


def test_a_handler_of_the_program_is_kept():
    def own(*_: Any) -> None:
        pass

    before = signal.signal(signal.SIGTERM, own)
    try:
        with unwinding_on_sigterm():
            assert signal.getsignal(signal.SIGTERM) is own
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_default_is_back_at_the_end():
    with unwinding_on_sigterm():
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_thread_sets_no_handler():
    found: list[Any] = []

    def enter() -> None:
        with unwinding_on_sigterm():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("run_*.py")), ids=lambda p: p.name)
def test_every_training_script_is_run_by_run_program(path):
    assert path.read_text().rstrip().endswith("run_program(main)")
