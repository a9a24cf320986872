"""The settings: validation, defaults by level, and their JSON form."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from statistics import correlation
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_td import Schedule, TargetedDropoutConfig
from hf_td.config import CONFIG_KEY, configure, trained_with
from hf_td.recipes import RECIPES
from tests.test_schedules import schedules

part_levels = st.sampled_from([None, "weight", "unit", "none"])
patterns = st.lists(st.text("abc.*?[]", max_size=6), max_size=3)
configs = st.builds(
    TargetedDropoutConfig,
    level=st.sampled_from(["weight", "unit"]),
    attention_level=part_levels,
    feed_forward_level=part_levels,
    targeting=st.floats(0, 1, exclude_max=True),
    drop_rate=st.floats(0, 1),
    targeting_schedule=schedules,
    drop_rate_schedule=schedules,
    include=patterns.map(tuple),
    exclude=patterns.map(tuple),
    layers=st.none() | st.lists(st.integers(0, 40), max_size=4).map(tuple),
    importance=st.sampled_from(["magnitude", "activation", "random"]),
    draw=st.sampled_from(["unit", "element"]),
    seed=st.integers(-(2**63), 2**63),
    matrix_cap=st.floats(0, 1, exclude_min=True),
    fixed_sparsity=st.none() | st.floats(0, 1, exclude_min=True, exclude_max=True),
    fixed_from=st.floats(0, 1, exclude_min=True, exclude_max=True),
)


@given(configs)
def test_a_configuration_equals_the_one_read_from_its_json_form(config):
    assert TargetedDropoutConfig.from_json(config.to_json()) == config
    assert TargetedDropoutConfig.from_dict(config.to_dict()) == config
    assert json.loads(config.to_json()) == config.to_dict()


@given(configs)
def test_equal_settings_have_equal_hashes(config):
    assert hash(TargetedDropoutConfig.from_dict(config.to_dict())) == hash(config)


@given(configs, st.floats(0, 1))
def test_rates_are_the_final_rates_times_their_schedules(config, progress):
    targeting, drop_rate = config.rates(progress)
    assert targeting == config.targeting * config.targeting_schedule(progress)
    assert drop_rate == config.drop_rate * config.drop_rate_schedule(progress, stream="drop_rate")


@pytest.mark.parametrize("numbered", [True, False])
def test_the_two_rates_are_drawn_independently(numbered):
    sampled = Schedule(sampled=1.0)
    config = TargetedDropoutConfig(targeting_schedule=sampled, drop_rate_schedule=sampled)
    rates = [config.rates(i / 1000, i if numbered else None) for i in range(1000)]
    assert abs(correlation(*zip(*rates, strict=True))) < 0.1
    assert all(len(set(drawn)) == 1000 for drawn in zip(*rates, strict=True))


def test_sampled_targetings_equal_those_of_recorded_runs():
    sampled = Schedule(sampled=0.5, off=0.25)
    config = TargetedDropoutConfig(targeting=0.5, targeting_schedule=sampled, seed=3)
    drawn = [config.rates(0.5, update).targeting for update in range(4)]
    assert drawn == [0.0, 0.5, 0.2964943037211536, 0.5]
    assert config.rates(0.0).targeting == 0.26755625299441244


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"level": "units"}, "level must be one of ['weight', 'unit'], got 'units'"),
        ({"level": "none"}, "level must be one of ['weight', 'unit'], got 'none'"),
        ({"level": None}, "level must be one of"),
        ({"attention_level": "heads"}, "attention_level must be one of ['weight', 'unit', 'none'"),
        ({"feed_forward_level": ""}, "feed_forward_level must be one of"),
        (
            {"importance": "lowest"},
            "importance must be one of ['magnitude', 'activation'",
        ),
        ({"draw": "row"}, "draw must be one of ['unit', 'element']"),
        ({"targeting": 1.0}, "targeting is a fraction in [0, 1), got 1.0"),
        ({"targeting": -0.1}, "targeting is a fraction"),
        ({"targeting": math.nan}, "targeting is a fraction"),
        ({"drop_rate": 1.01}, "drop_rate is a probability in [0, 1], got 1.01"),
        ({"drop_rate": -1}, "drop_rate is a probability"),
        ({"drop_rate": math.nan}, "drop_rate is a probability"),
        ({"rank_over": "column"}, "rank_over must be one of ['row', 'matrix', 'model']"),
        ({"rank_over": "model", "level": "unit"}, "rank_over='model' ranks single weights, but"),
        ({"matrix_cap": 0}, "matrix_cap is a fraction in (0, 1], got 0"),
        ({"fixed_sparsity": 1.0}, "fixed_sparsity is a fraction in (0, 1), or None, got 1.0"),
        ({"fixed_sparsity": 0}, "fixed_sparsity is a fraction in (0, 1)"),
        ({"fixed_from": 1.0}, "fixed_from is a progress in (0, 1), got 1.0"),
        ({"fixed_sparsity": 0.5, "experts_level": "unit"}, "no checkpoint can say which experts"),
        ({"fixed_sparsity": 0.6, "pattern": "2:4"}, "removes 0.5 of the weights at most"),
        ({"targeting_schedule": "cubical"}, "schedule shape must be one of"),
        ({"drop_rate_schedule": {"ends": 1}}, "unknown schedule keys ['ends']"),
        ({"drop_rate_schedule": {"end": 2}}, "would outlast the run"),
    ],
)
def test_bad_values_are_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TargetedDropoutConfig(**settings)


PATTERNS = "is a sequence of patterns such as ['*.attention.*'], got"
INDICES = "is a sequence of indices such as [0, 1], got"
SCHEDULES = "a schedule is a Schedule, its JSON form, or the name of one of the shapes ['constant',"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targeting": "0.5"}, "targeting is a fraction in [0, 1), got '0.5'"),
        ({"targeting": False}, "targeting is a fraction in [0, 1), got False"),
        ({"drop_rate": True}, "drop_rate is a probability in [0, 1], got True"),
        ({"matrix_cap": "most"}, "matrix_cap is a fraction in (0, 1], got 'most'"),
        ({"fixed_sparsity": True}, "fixed_sparsity is a fraction in (0, 1), or None, got True"),
        ({"fixed_from": "half"}, "fixed_from is a progress in (0, 1), got 'half'"),
        ({"targeting_schedule": 3}, SCHEDULES),
        ({"drop_rate_schedule": ["linear"]}, SCHEDULES),
        ({"include": "*.attention.*"}, f"include {PATTERNS} '*.attention.*'"),
        ({"include": None}, f"include {PATTERNS} None"),
        ({"exclude": ["a", 3]}, f"exclude {PATTERNS} ['a', 3]"),
        ({"layers": 3}, f"layers {INDICES} 3"),
        ({"layers": "12"}, f"layers {INDICES} '12'"),
        ({"layers": [0, True]}, f"layers {INDICES} [0, True]"),
        ({"seed": "x"}, "seed is an integer, got 'x'"),
        ({"seed": 1.5}, "seed is an integer, got 1.5"),
        ({"seed": None}, "seed is an integer, got None"),
        ({"seed": True}, "seed is an integer, got True"),
    ],
)
def test_values_of_another_type_are_refused(settings, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        TargetedDropoutConfig(**settings)


def test_unknown_keys_are_refused():
    with pytest.raises(ValueError, match=r"unknown settings \['gamma'\]; known are \['attention_l"):
        TargetedDropoutConfig.from_dict({"gamma": 0.5})
    with pytest.raises(TypeError, match=r"unknown settings \['gamma'\]; known are"):
        configure(None, {"gamma": 0.5})


def test_settings_are_keyword_only_and_frozen():
    config: Any = TargetedDropoutConfig()
    with pytest.raises(AttributeError, match="cannot assign to field 'targeting'"):
        config.targeting = 0.5
    build: Any = TargetedDropoutConfig
    with pytest.raises(TypeError, match="positional argument"):
        build("weight")


def test_lists_dicts_and_names_are_normalised():
    build: Any = TargetedDropoutConfig
    config = build(
        include=(name for name in ["a"]),
        exclude=["b"],
        layers=[1, 2],
        targeting_schedule="linear",
        drop_rate_schedule={"shape": "cosine", "end": 0.5},
    )
    assert (config.include, config.exclude, config.layers) == (("a",), ("b",), (1, 2))
    assert config.targeting_schedule == Schedule(shape="linear")
    assert config.drop_rate_schedule == Schedule(shape="cosine", end=0.5)


@pytest.mark.parametrize(
    ("settings", "name", "layer", "selected"),
    [
        ({}, "a.0.query", 0, True),
        ({"include": ["*.query"]}, "a.0.query", 0, True),
        ({"include": ["*.query"]}, "a.0.key", 0, False),
        ({"include": ["*.QUERY"]}, "a.0.query", 0, False),
        ({"include": ["query"]}, "a.0.query", 0, False),
        ({"include": ["*.key", "*.query"]}, "a.0.query", 0, True),
        ({"exclude": ["*.query"]}, "a.0.query", 0, False),
        ({"exclude": ["*.key"]}, "a.0.query", 0, True),
        ({"include": ["*.query"], "exclude": ["a.0.*"]}, "a.0.query", 0, False),
        ({"include": []}, "a.0.query", 0, False),
        ({"layers": [0, 2]}, "a.0.query", 0, True),
        ({"layers": [0, 2]}, "a.1.query", 1, False),
        ({"layers": [0]}, "a.query", None, False),
        ({"layers": []}, "a.0.query", 0, False),
    ],
)
def test_selects_by_pattern_and_layer(settings, name, layer, selected):
    assert TargetedDropoutConfig(**settings).selects(name, layer) is selected


@pytest.mark.parametrize(
    ("settings", "attention", "feed_forward"),
    [
        ({}, "weight", "weight"),
        ({"level": "unit"}, "unit", "unit"),
        ({"attention_level": "unit"}, "unit", "weight"),
        ({"level": "unit", "feed_forward_level": "none"}, "unit", "none"),
    ],
)
def test_a_part_has_its_own_level_or_the_common_one(settings, attention, feed_forward):
    config = TargetedDropoutConfig(**settings)
    assert config.level_of("attention") == attention
    assert config.level_of("feed_forward") == feed_forward


def test_configure_replaces_only_the_given_settings():
    config = TargetedDropoutConfig(targeting=0.3, seed=5)
    assert configure(config, {"seed": 6}) == TargetedDropoutConfig(targeting=0.3, seed=6)
    assert configure(None, {}) == TargetedDropoutConfig()


@given(configs)
def test_another_level_brings_its_recipe(config):
    other = "unit" if config.level == "weight" else "weight"
    changed = configure(config, {"level": other})
    recipes = RECIPES[config.recipe]
    for name, value in recipes.at(config.level).items():
        was = getattr(config, name)
        assert getattr(changed, name) == (recipes.at(other)[name] if was == value else was)
    moving = {"level", *recipes.at(other)}
    assert replace(config, **{n: getattr(changed, n) for n in moving}) == changed


@pytest.mark.parametrize("level", ["weight", "unit"])
def test_another_recipe_replaces_defaults_by_its_own(level):
    plain = TargetedDropoutConfig(level=level, seed=1)
    changed = configure(plain, {"recipe": "language_model"})
    assert changed == TargetedDropoutConfig(level=level, seed=1, recipe="language_model")
    assert changed.targeting == 0.5 < plain.targeting
    kept = configure(replace(plain, targeting=0.3), {"recipe": "language_model"})
    assert kept.targeting == 0.3


def test_an_unknown_recipe_is_refused():
    with pytest.raises(ValueError, match="recipe must be one of"):
        TargetedDropoutConfig(recipe="cake")


@pytest.mark.parametrize("level", ["weight", "unit"])
def test_another_level_replaces_defaults_by_its_own(level):
    for before in ("weight", "unit"):
        changed = configure(TargetedDropoutConfig(level=before, seed=1), {"level": level})
        assert changed == TargetedDropoutConfig(level=level, seed=1)
    changed = configure(TargetedDropoutConfig(layers=(1,)), {"level": level, "targeting": 0.5})
    assert changed == TargetedDropoutConfig(level=level, layers=(1,), targeting=0.5)


def test_trained_with_returns_the_settings_that_a_model_records():
    config = TargetedDropoutConfig(level="unit", layers=(1,))
    model = SimpleNamespace(config=SimpleNamespace(**{CONFIG_KEY: config.to_dict()}))
    assert trained_with(model) == config
    assert trained_with(SimpleNamespace(config=SimpleNamespace())) is None
    assert trained_with(SimpleNamespace()) is None


RETIRED = {"resting": 0.25, "rescale": False}


def test_records_with_retired_settings_load():
    config = TargetedDropoutConfig(level="unit", targeting=0.5)
    recorded = {**config.to_dict(), **RETIRED}
    model = SimpleNamespace(config=SimpleNamespace(**{CONFIG_KEY: recorded}))
    assert trained_with(model) == config
    assert not set(RETIRED) & set(config.to_dict())
    recorded["restful"] = 1
    with pytest.raises(ValueError, match=r"unknown settings \['restful'\]; known are"):
        trained_with(model)


@pytest.mark.parametrize("name", RETIRED)
def test_retired_settings_are_refused_as_arguments(name):
    build: Any = TargetedDropoutConfig
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        build(**{name: RETIRED[name]})
    with pytest.raises(TypeError, match=rf"unknown settings \['{name}'\]"):
        configure(None, {name: RETIRED[name]})


def test_the_recipe_of_one_sparsity_has_the_fixed_phase_of_its_level_or_pattern():
    weight = TargetedDropoutConfig(recipe="one_sparsity")
    assert (weight.fixed_sparsity, weight.targeting, weight.rank_over) == (0.9, 0.9, "model")
    unit = configure(weight, {"level": "unit"})
    assert (unit.fixed_sparsity, unit.targeting, unit.rank_over) == (0.75, 0.75, "row")
    pattern = configure(weight, {"pattern": "2:4"})
    assert (pattern.fixed_sparsity, pattern.targeting) == (0.5, 0.5)
    assert configure(weight, {"fixed_sparsity": 0.8}).fixed_sparsity == 0.8
    assert configure(weight, {"recipe": "fine_tuning"}) == TargetedDropoutConfig()
    assert TargetedDropoutConfig(pattern="2:4").fixed_sparsity is None
