"""The help of the experiments: two screens of main options, and all options once."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from hf_td.recipes import RECIPES, recipe_value
from hf_td.tasks.experiment.arguments import CurveArguments, ModelArguments
from hf_td.tasks.experiment.helping import MAIN, recipe_table
from hf_td.tasks.registry import TASKS, run_task

SCREEN = 58  # lines


def shown(name: str, *words: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit, match="0"):
        run_task(name, words, f"Runs {name}.")
    return capsys.readouterr().out


def options(text: str) -> list[str]:
    return re.findall(r"^  --(\w+)", text, flags=re.MULTILINE)


@pytest.mark.parametrize("name", TASKS)
def test_help_fits_two_screens_and_lists_the_main_options_and_the_data(name, capsys):
    text = shown(name, "--help", capsys=capsys)
    assert len(text.splitlines()) <= 2 * SCREEN
    assert max(map(len, text.splitlines())) <= 100
    found = options(text)
    assert len(found) == len(set(found))
    assert {name for names in MAIN.values() for name in names} <= set(found)
    assert {field.name for field in fields(TASKS[name].data)} <= set(found)


@pytest.mark.parametrize("name", TASKS)
def test_the_full_help_lists_every_option_once(name, capsys):
    found = options(shown(name, "--help-all", capsys=capsys))
    kind = TASKS[name]
    kinds = (ModelArguments, kind.data, CurveArguments, kind.training)
    known = [field.name for one in kinds for field in fields(one) if field.init]
    assert sorted(found) == sorted(known)


def test_help_counts_the_other_options(capsys):
    main = shown("glue", "--help", capsys=capsys)
    every = options(shown("glue", "--help-all", capsys=capsys))
    (others,) = re.findall(r"lists the other (\d+) options", main)
    assert int(others) == len(every) - len(options(main))


@pytest.mark.parametrize(
    ("words", "value"),
    [((), "[0.95; units 0.76]"), (("--recipe", "paper"), "[0.75]")],
    ids=["default", "paper"],
)
def test_a_setting_shows_the_value_of_its_recipe(words, value, capsys):
    text = " ".join(shown("glue", *words, "--help", capsys=capsys).split())
    assert f"that are candidates, in [0, 1) {value}" in text


def test_the_level_decides_the_default_of_the_batch(capsys):
    for level, size in (("weight", 16), ("unit", 32)):
        text = " ".join(shown("glue", "--level", level, "--help", capsys=capsys).split())
        assert f"batch size per device for training [{size}]" in text


def test_the_table_has_the_values_of_every_recipe():
    heading, *lines = recipe_table().splitlines()
    assert "recipes" in heading
    names, *rows = (re.split(r" {2,}", line) for line in lines)
    assert names == ["--recipe", *RECIPES]
    for setting, *cells in rows:
        for recipe, cell in zip(RECIPES, cells, strict=True):
            weight, unit = map(str, recipe_value(recipe, setting) or ())
            assert cell == (weight if weight == unit else f"{weight}; {unit}")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("targeting", (0.95, 0.76)),
        ("targeting_schedule", ("cubic", "linear")),
        ("drop_rate_off", (0.0, 0.0)),
        ("importance", ("activation", "activation")),
        ("learning_rate", None),
        ("drop_rate_name", None),
    ],
)
def test_flat_settings_of_a_recipe(setting, expected):
    assert recipe_value("fine_tuning", setting) == expected
