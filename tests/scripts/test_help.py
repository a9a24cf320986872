"""--help of every script prints help, and starts nothing."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys

import pytest

from tests.programs import SCRIPTS

PROGRAMS = sorted(SCRIPTS.glob("*.py"))
SHELL_SCRIPTS = sorted(SCRIPTS.glob("*.sh"))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_a_program_prints_its_first_sentence(program, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(program), "--help"])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(program), run_name="__main__")
    assert not exit.value.code
    words = capsys.readouterr().out.split()
    assert words[0] == "usage:"
    first = program.read_text().partition('"""')[2].partition("\n")[0].removesuffix('"""')
    assert first in " ".join(words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=lambda path: path.name)
@pytest.mark.parametrize("words", [["--help"], ["-h"], ["folder", "--help"]], ids=" ".join)
def test_a_shell_script_prints_its_comment(script, words, tmp_path):
    folder = tmp_path / "scripts"
    folder.mkdir()
    for path in SHELL_SCRIPTS:
        shutil.copy(path, folder)
    done = subprocess.run(
        ["bash", str(folder / script.name), *words],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == script.read_text().splitlines()[1].removeprefix("# ")
    assert f"scripts/{script.name}" in done.stdout
    assert "set -euo" not in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["scripts"]
