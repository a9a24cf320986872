"""A new baseline is a new module and a new row."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hf_td
from hf_td.baselines import BASELINES, Baseline
from hf_td.tasks.experiment.methods import METHODS

PACKAGE = Path(hf_td.__file__).parent
LABELS = {
    "dropout": "dropout",
    "quantal": "quantal synaptic dilution",
    "l1": "L1",
    "l0": "L0",
    "variational": "variational dropout",
    "smallify": "Smallify",
    "random_subnetwork": "random subnetwork",
    "movement": "movement pruning",
    "soft_movement": "soft movement pruning",
}


def subclasses(cls: type) -> set[type]:
    own = set(cls.__subclasses__())
    return own.union(*map(subclasses, own))


def uses(path: Path, name: str) -> bool:
    """Return whether a module of the package imports a baseline by this name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    own = [node for node in imports if (node.module or "").startswith("hf_td.baselines")]
    return any(alias.name == name for node in own for alias in node.names)


def test_tables_call_the_methods_what_they_have_called_them():
    assert {name: baseline.LABEL for name, baseline in BASELINES.items()} == LABELS
    assert {name: METHODS[name].label for name in LABELS} == LABELS


def test_every_row_is_a_method_of_experiments():
    rows = {n: method.baseline for n, method in METHODS.items() if method.baseline is not None}
    assert rows == BASELINES
    for baseline in BASELINES.values():
        assert isinstance(baseline.make("unit", {}), baseline)


def test_every_concrete_baseline_of_the_package_has_a_row():
    own = {c for c in subclasses(Baseline) if c.__module__.startswith("hf_td.")}
    concrete = {c for c in own if "LABEL" in vars(c)}
    assert concrete == set(BASELINES.values())
    assert len({c.LABEL for c in BASELINES.values()}) == len(BASELINES)
    # The others are bases: a method without a label would be missing from every table.
    assert {c.__name__ for c in own - concrete} == {"Learning", "Penalised", "_Movement"}


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_touches_its_module_and_the_registry(name):
    users = [path for path in PACKAGE.rglob("*.py") if uses(path, BASELINES[name].__name__)]
    assert users == [PACKAGE / "baselines" / "__init__.py"]
