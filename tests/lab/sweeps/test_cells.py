import pytest
from lab.sweeps import plan_cells, read_sweep
from lab.sweeps.naming import parse_words

from hf_td.recipes import RECIPES
from hf_td.tasks.errors import UsageError
from tests.lab.sweeps.grids import GRID, cells_of, titles, write_grid

TARGETING = RECIPES["fine_tuning"].at("weight")["targeting"]


def _named(cells) -> dict:
    return {str(place): cell for cell in cells.values() for place in cell.places}


def test_a_cell_is_a_command_line_of_run_glue(tmp_path):
    methods = {"none": {"bf16": True, "method_settings": {"penalty": 0.1, "fast": True}}}
    grid = {"methods": {"none": {"bf16": True, "include": ["a", "b"], "warmup_steps": "0.1"}}}
    (cell, *_) = cells_of(tmp_path, **grid, seeds=[3]).values()
    assert cell.argv(tmp_path)[:2] == ["--model_name_or_path", "builtin-minilm"]
    command = cell.command(tmp_path)
    assert "--sparsities 0 0.5 " in command
    assert "--bf16 true --include a b --warmup_steps 0.1" in command
    assert command.endswith(f"--seed 3 --output_dir {tmp_path}/cells/{cell.name}")
    with pytest.raises(
        UsageError, match=r"sst2 weight none seed 0 .*unknown arguments \['no_such_thing'\]"
    ):
        cells_of(tmp_path, methods={"none": {"no_such_thing": methods}})


def test_a_sweep_of_language_models_runs_run_clm(tmp_path):
    grid = {
        "kind": "language_modelling",
        "common": {"model_name_or_path": "new:gpt2", "recipe": "language_model", "use_cpu": True},
        "tasks": {"text": {"dataset_name": "some/text", "block_size": 64}},
        "levels": {"unit": {"level": "unit", "sparsities": [0, 0.5]}},
        "methods": {"none": None, "targeted_dropout": None},
    }
    cells = cells_of(tmp_path, **grid)
    commands = [cell.command(tmp_path) for cell in cells.values()]
    assert all(one.startswith("python scripts/run_clm.py --model_name_or_path") for one in commands)
    assert all("--block_size 64" in command for command in commands)
    parsed = parse_words(tuple(next(iter(cells.values())).argv(tmp_path)), "language_modelling")
    assert parsed.training.targeted_dropout().recipe == "language_model"
    assert parsed.data.block_size == 64


def test_an_unknown_kind_of_sweep_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"the kind of a sweep is one of .*got 'cakes'"):
        cells_of(tmp_path, kind="cakes")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tasks": {"sst2": {"task": "sst2"}}, "methods": {"none": None}},
            r"lacks \['task_name'\], and has unknown arguments \['task'\]\. Did you mean task_name",
        ),
        ({"methods": {"targetted": {}}}, "argument --method: invalid choice: 'targetted'"),
        ({"methods": {"none": {"learning_rate": [1, 2]}}}, "arguments: 2. The option before"),
        (
            {
                "common": {"model_name_or_path": "m", "sparsities": [0, 50]},
                "levels": {"unit": {}},
                "methods": {"none": None},
            },
            r"in \[0, 1\]\. Got \[50\.0\]",
        ),
        ({"methods": {"l1": {"method_settings": "strength=1"}}}, "strength"),
    ],
)
def test_a_mistake_is_found_before_anything_runs(changes, message, tmp_path):
    with pytest.raises(UsageError, match=rf"^sst2 \w+ \w+ seed 0.*{message}"):
        cells_of(tmp_path, **changes)


def test_the_name_depends_on_the_configuration_alone(tmp_path):
    first = _named(cells_of(tmp_path))
    turned = {name: GRID["methods"][name] for name in ("targeted_dropout", "none")}
    other = _named(cells_of(tmp_path, methods=turned, seeds=[1, 0], title="another"))
    assert {k: c.name for k, c in first.items()} == {k: c.name for k, c in other.items()}
    assert len({cell.name for cell in first.values()}) == 16


def test_what_changes_a_run_changes_the_name(tmp_path):
    first = _named(cells_of(tmp_path))
    methods = {**GRID["methods"], "targeted_dropout": {"targeting": 0.8}}
    other = _named(cells_of(tmp_path, methods=methods))
    same = {place for place in first if first[place].name == other[place].name}
    assert same == {place for place in first if "none" in place}


def test_a_default_that_is_written_out_does_not(tmp_path):
    spelt = {**GRID["methods"], "targeted_dropout": {"targeting": TARGETING, "max_seq_length": 128}}
    plain = {**GRID["methods"], "targeted_dropout": None}
    place = "sst2 weight targeted_dropout seed 0"
    names = [_named(cells_of(tmp_path, methods=m))[place].name for m in (spelt, plain)]
    assert names[0] == names[1]


@pytest.mark.parametrize(
    ("method", "settings", "same"),
    [
        ("none", {"bf16": True}, True),
        ("targeted_dropout", {"bf16": True}, True),
        ("none", {"targeting": 0.8, "targeting_schedule": "linear", "drop_rate": 0.5}, True),
        ("l1", {"targeting": 0.8, "drop_rate_schedule": "cosine"}, True),
        ("soft_movement", {"method_settings": "penalty=100"}, True),
        ("soft_movement", {"method_settings": "penalty=10"}, False),
        ("movement", {"targeting_schedule": "linear"}, True),
        ("movement", {"targeting": 0.8}, False),
        ("random_subnetwork", {"targeting": 0.8}, False),
        ("targeted_dropout", {"targeting_schedule": "linear"}, False),
        ("gradual_magnitude", {"targeting": 0.8}, False),
    ],
)
def test_what_a_method_does_not_look_at_does_not(method, settings, same, tmp_path):
    grids = [{"methods": {method: given}, "seeds": [0]} for given in ({}, settings)]
    first, other = (list(cells_of(tmp_path, **grid)) for grid in grids)
    assert (first == other) is same


def test_where_the_data_lie_does_not(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder / "glue").mkdir(parents=True)
    names = [
        set(plan_cells(read_sweep(write_grid(tmp_path), {"dataset_name": str(path)})))
        for path in (tmp_path / "a" / "glue", tmp_path / "b" / "glue", "elsewhere")
    ]
    assert names[0] == names[1]
    assert not names[0] & names[2]


def test_equal_experiments_are_one_cell(tmp_path):
    knobs = {"methods": {"targeted_dropout": {"targeting": [TARGETING]}}, "levels": ["weight"]}
    cells = cells_of(tmp_path, knobs=knobs)
    assert len(cells) == 16
    places = _named(cells)["sst2 weight targeted_dropout seed 0"].places
    assert [place.part for place in places] == ["grid", "knobs"]


def test_a_reference_is_the_model_of_another_cell(tmp_path):
    cells = _named(cells_of(tmp_path))
    for seed in (0, 1):
        cell, other = (cells[f"cola {level} none seed {seed}"] for level in ("unit", "weight"))
        assert cell.models["model_name_or_path"].name == other.name
        assert f"--model_name_or_path {other.model(tmp_path)} " in cell.command(tmp_path)
        assert other.model(tmp_path) == tmp_path / "cells" / other.name / f"seed-{seed}"
    assert not cells["cola unit targeted_dropout seed 0"].models


def test_a_variant_refers_to_the_same_variant_of_its_own_method_and_else_to_the_grid(tmp_path):
    knobs = {"methods": {name: {"learning_rate": [0.1, 0.2]} for name in GRID["methods"]}}
    methods = {
        **GRID["methods"],
        "targeted_dropout": {"model_name_or_path": "{method=none level=weight}"},
    }
    cells = _named(cells_of(tmp_path, methods=methods, knobs=knobs))
    for place, target in (
        (
            "sst2 unit none [learning_rate=0.1] seed 0",
            "sst2 weight none [learning_rate=0.1] seed 0",
        ),
        ("sst2 unit targeted_dropout [learning_rate=0.1] seed 0", "sst2 weight none seed 0"),
    ):
        assert cells[place].models["model_name_or_path"].name == cells[target].name


def test_the_name_depends_on_what_is_referred_to(tmp_path):
    first = _named(cells_of(tmp_path))["sst2 unit none seed 0"]
    tasks = {**GRID["tasks"], "sst2": {"task_name": "sst2", "num_train_epochs": 9}}
    assert _named(cells_of(tmp_path, tasks=tasks))["sst2 unit none seed 0"].name != first.name
    plain = {"none": {"num_train_epochs": 9}, "targeted_dropout": None}
    chained = {"none": {**plain["none"], "levels": GRID["methods"]["none"]["levels"]}}
    other = _named(cells_of(tmp_path, methods={**plain, **chained}))["sst2 unit none seed 0"]
    assert other.name != first.name


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("{method=l0}", r"refers to \{method=l0\}, which is no place of the grid"),
        ("{metod=none}", r"refers to \{metod=none\}, which is no place of the grid"),
        ("{level=weight}", "refers to itself"),
        ("{method=none level=unit}", "only measures and has no model"),
        ("{method=none seed=5}", "is no place of the grid"),
    ],
)
def test_a_reference_that_leads_nowhere_is_refused(reference, message, tmp_path):
    row = {"model_name_or_path": reference}
    methods = {**GRID["methods"], "targeted_dropout": row}
    with pytest.raises(UsageError, match=message):
        cells_of(tmp_path, methods=methods)


def test_titles_are_in_the_order_of_the_places(tmp_path):
    cells = cells_of(tmp_path)
    assert titles(cells.values()) == [str(p) for p in read_sweep(write_grid(tmp_path)).places]
