"""Run the tests on the oldest supported versions and on the newest, side by side.

    python scripts/versions.py [--newest "torch==2.13.*"] [-- pytest arguments]

The tests run in two environments: `.versions/floor` has the lower bounds of pyproject.toml, and
`.versions/newest` the newest versions that pip finds. The result is a table. Where PyPI has no CPU
build of the newest torch, give another one with `--newest`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
from argparse import ArgumentParser, RawDescriptionHelpFormatter
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
# Old releases may use functions of other libraries that are deprecated by now.
WARNINGS: dict[str, list[str]] = {"floor": ["-W", "default::DeprecationWarning"]}
_VERSIONS = "import importlib.metadata as m; print(*(m.version(n) for n in {names!r}))"


@dataclass(frozen=True)
class Outcome:
    """The result of the tests in one environment.

    Attributes:
        versions: of the libraries in `SHOWN`.
        counts: numbers of tests that `passed`, `failed` and were `skipped`.
        failed: ids of the tests that failed.
    """

    versions: dict[str, str]
    counts: dict[str, int]
    failed: list[str]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the tests in both environments, print the table, and exit with 1 if a test fails."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        "--newest", nargs="+", default=[], help="constraints of the newest versions"
    )
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
    """Return constraints that pin every dependency to the releases of its lower bound."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {}).values()
    found = map(Requirement, [*project["dependencies"], *(text for e in extras for text in e)])
    bounds = [(r.name, s.version) for r in found for s in r.specifier if s.operator == ">="]
    return [f"{name}=={version}.*" for name, version in bounds]


def try_side(name: str, constraints: Iterable[str], tests: Sequence[str]) -> Outcome:
    """Install the package under constraints into its own environment, and run the tests."""
    folder = FOLDER / name
    venv.create(folder, with_pip=True)
    python, limits = str(folder / "bin" / "python"), folder / "constraints.txt"
    limits.write_text("".join(f"{constraint}\n" for constraint in constraints), encoding="utf-8")
    install = ["-m", "pip", "install", "--quiet", "--upgrade", "--constraint", str(limits)]
    if subprocess.run([python, *install, "--editable", f"{ROOT}[dev]"]).returncode:
        sys.exit(f"{name}: pip found no compatible versions under {limits}; see its output above")
    report = run_tests(python, folder, [*WARNINGS.get(name, []), *tests])
    shown = subprocess.run(
        [python, "-c", _VERSIONS.format(names=SHOWN)], capture_output=True, text=True, check=True
    )
    versions = dict(zip(SHOWN, shown.stdout.split(), strict=True))
    return Outcome(versions, *read_report(report))


def run_tests(python: str, folder: Path, tests: Sequence[str]) -> Path:
    """Run pytest, and return the path of its JUnit report; both it and a log are in the folder."""
    report, log = folder / "tests.xml", folder / "tests.log"
    report.unlink(missing_ok=True)
    run = [python, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
    # Both sides share the cores, and more threads would double the time.
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w", encoding="utf-8") as output:
        subprocess.run(run, cwd=ROOT, env=one_thread, stdout=output, stderr=subprocess.STDOUT)
    if not report.exists():
        sys.exit(f"{folder.name}: pytest wrote no report; see {log}")
    return report


def read_report(report: Path) -> tuple[dict[str, int], list[str]]:
    """Return the counts and the ids of failed tests in a JUnit report of pytest."""
    counts, failed = {"passed": 0, "failed": 0, "skipped": 0}, []
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        state = "failed" if kinds & {"failure", "error"} else "skipped" * ("skipped" in kinds)
        counts[state or "passed"] += 1
        if state == "failed":
            failed.append(f"{case.get('classname')}::{case.get('name')}")
    return counts, failed


def versions_table(outcomes: dict[str, Outcome]) -> Table:
    """Return a table with a column for each side: its versions, and its counts of tests."""
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
