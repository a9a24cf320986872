"""Runs the tests on the oldest supported versions and on the newest, side by side.

    python -m scripts.versions [--newest "torch==2.13.*"] [-- pytest arguments]

Makes two environments, `.versions/floor` with the lower bounds of pyproject.toml and
`.versions/newest` with whatever pip finds, and prints a table. Where PyPI has no CPU build of the
newest torch, `--newest` names one that is at hand.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import rich
from packaging.requirements import Requirement
from rich.table import Table

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".versions"
SHOWN: tuple[str, ...] = (
    "torch",
    "transformers",
    "huggingface_hub",
    "accelerate",
    "datasets",
    "peft",
)
# What old releases use of others' may be deprecated by now: that is not what the floor is about.
WARNINGS: dict[str, list[str]] = {"floor": ["-W", "default::DeprecationWarning"]}
_VERSIONS = "import importlib.metadata as m; print(*(m.version(n) for n in {names!r}))"


@dataclass(frozen=True)
class Outcome:
    """What the tests said in one environment.

    Attributes:
        versions: of the libraries in `SHOWN`.
        counts: tests that `passed`, `failed` and were `skipped`.
        failed: ids of those that failed.
    """

    versions: dict[str, str]
    counts: dict[str, int]
    failed: list[str]


def main(argv: Sequence[str] | None = None) -> None:
    """Make both environments, run the tests in each, print the table; exit 1 where one fails."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--newest", nargs="+", default=[], help="constraints of the newest side")
    parser.add_argument("tests", nargs="*", help="arguments of pytest, after --")
    options = parser.parse_args(argv)
    sides = {"floor": lowest_versions(ROOT / "pyproject.toml"), "newest": options.newest}
    with ThreadPoolExecutor() as pool:
        tried = pool.map(lambda side: try_side(side[0], side[1], options.tests), sides.items())
        outcomes = dict(zip(sides, tried, strict=True))
    rich.print(versions_table(outcomes))
    for name, outcome in outcomes.items():
        print(*(f"{name}: {test} failed" for test in outcome.failed), sep="\n")
    sys.exit(any(outcome.failed or not outcome.counts["passed"] for outcome in outcomes.values()))


def lowest_versions(pyproject: Path) -> list[str]:
    """Constraints that pin every dependency with a lower bound to the releases of that bound."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {}).values()
    found = map(Requirement, [*project["dependencies"], *(text for e in extras for text in e)])
    bounds = [(r.name, s.version) for r in found for s in r.specifier if s.operator == ">="]
    return [f"{name}=={version}.*" for name, version in bounds]


def try_side(name: str, constraints: Iterable[str], tests: Sequence[str]) -> Outcome:
    """Install the package under constraints into an environment of its own, and run the tests."""
    folder = FOLDER / name
    venv.create(folder, with_pip=True)
    python, limits = str(folder / "bin" / "python"), folder / "constraints.txt"
    limits.write_text("".join(f"{constraint}\n" for constraint in constraints), encoding="utf-8")
    install = ["-m", "pip", "install", "--quiet", "--upgrade", "--constraint", str(limits)]
    if subprocess.run([python, *install, "--editable", f"{ROOT}[dev]"]).returncode:
        sys.exit(f"{name}: pip found no versions that go together under {limits}")
    report = run_tests(python, folder, [*WARNINGS.get(name, []), *tests])
    shown = subprocess.run(
        [python, "-c", _VERSIONS.format(names=SHOWN)], capture_output=True, text=True, check=True
    )
    versions = dict(zip(SHOWN, shown.stdout.split(), strict=True))
    return Outcome(versions, *read_report(report))


def run_tests(python: str, folder: Path, tests: Sequence[str]) -> Path:
    """Run pytest, its output into `tests.log` of the folder, and return its JUnit report there."""
    report, log = folder / "tests.xml", folder / "tests.log"
    report.unlink(missing_ok=True)
    run = [python, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
    # The sides share the cores: threads of both that wait for each other would double the time.
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w", encoding="utf-8") as output:
        subprocess.run(run, cwd=ROOT, env=one_thread, stdout=output, stderr=subprocess.STDOUT)
    if not report.exists():
        sys.exit(f"{folder.name}: pytest wrote no report; see {log}")
    return report


def read_report(report: Path) -> tuple[dict[str, int], list[str]]:
    """The counts, and the ids of the tests that failed, of a JUnit report of pytest."""
    counts, failed = {"passed": 0, "failed": 0, "skipped": 0}, []
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        state = "failed" if kinds & {"failure", "error"} else "skipped" * ("skipped" in kinds)
        counts[state or "passed"] += 1
        if state == "failed":
            failed.append(f"{case.get('classname')}::{case.get('name')}")
    return counts, failed


def versions_table(outcomes: dict[str, Outcome]) -> Table:
    """A column for each side: its versions, and how its tests went."""
    table = Table(title="the tests on the oldest and on the newest versions")
    table.add_column("")
    for name in outcomes:
        table.add_column(name, justify="right")
    for library in SHOWN:
        table.add_row(library, *(outcome.versions[library] for outcome in outcomes.values()))
    table.add_section()
    for state in ("passed", "failed", "skipped"):
        table.add_row(state, *(str(outcome.counts[state]) for outcome in outcomes.values()))
    return table


if __name__ == "__main__":
    main()
