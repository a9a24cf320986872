"""The settings come from the command line, from JSON and from YAML."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import HfArgumentParser

from hf_td import (
    Schedule,
    TargetedDropoutArguments,
    TargetedDropoutConfig,
    TargetedDropoutSeq2SeqArguments,
)
from hf_td.recipes import RECIPES
from hf_td.training.arguments import TargetedDropoutFields
from tests.training.models import SETTINGS, arguments

FLAT: dict[str, Any] = {
    "level": "unit",
    "feed_forward_level": "weight",
    "targeting": 0.6,
    "targeting_schedule": "cosine",
    "targeting_initial": 0.1,
    "targeting_begin": 0.2,
    "targeting_end": 0.8,
    "targeting_sampled": 0.25,
    "targeting_off": 0.5,
    "drop_rate": 0.7,
    "drop_rate_schedule": "piecewise",
    "drop_rate_end": 0.4,
    "include": ["*.layer.*", "*.attn.*"],
    "exclude": ["*.query"],
    "layers": [0, 2],
    "importance": "random",
    "draw": "element",
    "rank_over": "matrix",
    "matrix_cap": 0.9,
    "fixed_sparsity": 0.5,
    "fixed_from": 0.75,
}
EXPECTED = TargetedDropoutConfig(
    level="unit",
    feed_forward_level="weight",
    targeting=0.6,
    targeting_schedule=Schedule(
        shape="cosine", initial=0.1, begin=0.2, end=0.8, sampled=0.25, off=0.5
    ),
    drop_rate=0.7,
    drop_rate_schedule=Schedule(shape="piecewise", initial=0.3, end=0.4),
    include=("*.layer.*", "*.attn.*"),
    exclude=("*.query",),
    layers=(0, 2),
    importance="random",
    draw="element",
    rank_over="matrix",
    matrix_cap=0.9,
    fixed_sparsity=0.5,
    fixed_from=0.75,
    seed=7,
)


def from_command_line(parser: HfArgumentParser, values: dict[str, Any], folder: Path) -> Any:
    words = []
    for name, value in values.items():
        given = value if isinstance(value, list) else [value]
        words += [f"--{name}", *map(str, given)]
    return parser.parse_args_into_dataclasses(words)


def from_json(parser: HfArgumentParser, values: dict[str, Any], folder: Path) -> Any:
    path = folder / "settings.json"
    path.write_text(json.dumps(values))
    return parser.parse_json_file(str(path))


def from_yaml(parser: HfArgumentParser, values: dict[str, Any], folder: Path) -> Any:
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(values))
    return parser.parse_yaml_file(str(path))


ARGUMENTS: Any = [TargetedDropoutArguments]
every_source = pytest.mark.parametrize("parse", [from_command_line, from_json, from_yaml])
every_kind: Any = pytest.mark.parametrize(
    "kind", [TargetedDropoutArguments, TargetedDropoutSeq2SeqArguments]
)


@every_source
@every_kind
def test_settings_come_from_the_command_line_json_and_yaml(parse, kind, tmp_path):
    values = {**FLAT, "output_dir": str(tmp_path), "seed": 7, "use_cpu": True}
    (args,) = parse(HfArgumentParser(kind), values, tmp_path)
    assert isinstance(args, kind)
    assert args.targeted_dropout() == EXPECTED
    assert args.seed == 7


@every_kind
def test_the_defaults_are_those_of_the_configuration(kind, tmp_path):
    args = kind(str(tmp_path), use_cpu=True, seed=0)
    assert args.targeted_dropout() == TargetedDropoutConfig()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"targeting": 1.0}, r"targeting is a fraction in \[0, 1\), got 1.0"),
        ({"drop_rate": -0.5}, "drop_rate is a probability"),
        ({"drop_rate_end": 1.5}, "would outlast the run"),
        ({"targeting_begin": 0.9}, "0 <= begin < end"),
    ],
)
@every_source
def test_bad_settings_are_refused_when_they_are_parsed(parse, bad, message, tmp_path):
    values = {**bad, "output_dir": str(tmp_path), "use_cpu": True}
    with pytest.raises(ValueError, match=message):
        parse(HfArgumentParser(ARGUMENTS), values, tmp_path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("eval_sparsity", r"the fraction to remove, in \[0, 1\]"),
        ("untargeted_lr_scale", "a positive number"),
        ("fixed_lr_scale", "a number of at least 0"),
        ("average", r"a decay in \[0, 1\]"),
    ],
)
def test_numbers_of_another_type_are_refused_by_name(name, kind, tmp_path):
    wrong: dict[str, Any] = {name: "0.5"}
    with pytest.raises(TypeError, match=f"{name} is {kind}, got '0.5'"):
        TargetedDropoutArguments(str(tmp_path), **wrong)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("level", ["weight", "unit"])
def test_a_recipe_brings_its_values(recipe, level, tmp_path):
    args = TargetedDropoutArguments(str(tmp_path), use_cpu=True, recipe=recipe, level=level)
    config = args.targeted_dropout()
    for name, value in RECIPES[recipe].at(level).items():
        assert getattr(config, name) == value


def test_a_recipe_brings_the_rate_of_what_is_not_targeted(tmp_path):
    def scale(**given: Any) -> Any:
        return TargetedDropoutArguments(str(tmp_path), use_cpu=True, **given).untargeted_lr_scale

    assert scale() == 2
    assert scale(recipe="language_model") == 1
    assert scale(recipe="language_model", untargeted_lr_scale=3.0) == 3
    with pytest.raises(ValueError, match="untargeted_lr_scale is positive"):
        scale(untargeted_lr_scale=0.0)


def test_every_argument_is_a_setting_or_has_a_use():
    parts = {f"{rate}_{f.name}" for rate in ("targeting", "drop_rate") for f in fields(Schedule)}
    shapes = {"targeting_schedule", "drop_rate_schedule"}
    settings = {f.name for f in fields(TargetedDropoutConfig)} - {"seed"}
    own = {"average", "eval_sparsity", "fixed_lr_scale", "untargeted_lr_scale"}
    flat = {field.name for field in fields(TargetedDropoutFields)}
    assert flat == settings | (parts - {"targeting_shape", "drop_rate_shape"}) | shapes | own


@pytest.mark.parametrize("name", ["recipe", "level", "importance", "draw", "drop_rate_schedule"])
def test_a_choice_that_is_none_is_refused_on_the_command_line(name, tmp_path, capsys):
    parser = HfArgumentParser(ARGUMENTS)
    with pytest.raises(SystemExit, match="2"):
        from_command_line(parser, {"output_dir": str(tmp_path), name: "nonsense"}, tmp_path)
    assert f"argument --{name}" in capsys.readouterr().err


def test_arguments_survive_their_json_form(tmp_path):
    args = arguments(tmp_path, **{k: v for k, v in FLAT.items() if k not in SETTINGS})
    written = json.loads(args.to_json_string())
    assert written["targeting"] == 0.75
    assert written["layers"] == [0, 2]


def test_a_sparsity_above_that_of_the_pattern_is_refused_at_once(tmp_path):
    TargetedDropoutArguments(str(tmp_path), use_cpu=True, pattern="2:4", eval_sparsity=0.5)
    with pytest.raises(ValueError, match=r"2:4 removes 0.5 .* eval_sparsity is 0.75"):
        TargetedDropoutArguments(str(tmp_path), use_cpu=True, pattern="2:4", eval_sparsity=0.75)


def test_a_run_too_short_for_its_fixed_phase_is_refused_at_once(tmp_path):
    def make(steps: int) -> Any:
        return arguments(tmp_path, recipe="one_sparsity", max_steps=steps)

    assert make(3).targeted_dropout().fixed_sparsity == 0.9
    with pytest.raises(ValueError, match=r"none of 2 updates begins there.*--fixed_from"):
        make(2)


def test_the_metric_that_chooses_names_the_sparsity_to_measure(tmp_path):
    def sparsity(metric: str, **given: Any) -> Any:
        return arguments(tmp_path, metric_for_best_model=metric, **given).eval_sparsity

    assert sparsity("accuracy_at_0.5") == 0.5
    assert sparsity("precision_at_1") is None
    assert sparsity("accuracy", eval_sparsity=0.75) == 0.75
    with pytest.raises(ValueError, match=r"another sparsity than eval_sparsity=0.5"):
        sparsity("accuracy_at_0.75", eval_sparsity=0.5)


@pytest.mark.parametrize("given", [{"distill": "layers"}, {"distill_temperature": 4.0}])
def test_a_setting_of_distillation_needs_a_teacher(given, tmp_path):
    arguments(tmp_path, teacher="somewhere", **given)
    with pytest.raises(ValueError, match=f"{next(iter(given))} is of distillation.*no teacher"):
        arguments(tmp_path, **given)


def test_a_teacher_is_named(tmp_path):
    with pytest.raises(TypeError, match="the folder of a fine-tuned model"):
        arguments(tmp_path, teacher=torch.nn.Linear(1, 1))
