import time

import pytest
from lab.sweeps import read_sweep
from lab.sweeps.grid import selects

from hf_td.tasks.errors import UsageError
from tests.lab.sweeps.grids import GRID, write_grid


def _places(folder, **changes):
    return read_sweep(write_grid(folder, **changes)).places


def test_every_method_has_its_first_seed_before_any_has_its_second(tmp_path):
    places = _places(tmp_path)
    assert len(places) == 2 * 2 * 2 * 2
    assert [place.seed for place in places] == 8 * [0] + 8 * [1]
    assert [str(place) for place in places[:4]] == [
        "sst2 weight none seed 0",
        "sst2 weight targeted_dropout seed 0",
        "sst2 unit none seed 0",
        "sst2 unit targeted_dropout seed 0",
    ]


def test_a_method_may_have_seeds_of_its_own(tmp_path):
    methods = {"none": {"seeds": [3, 4, 5]}, "targeted_dropout": None}
    places = _places(tmp_path, methods=methods, seeds=[7])
    assert {p.seed for p in places if p.method == "none"} == {3, 4, 5}
    assert {p.seed for p in places if p.method == "targeted_dropout"} == {7}
    assert [p.seed for p in places[:4]] == [3, 7, 3, 7]


def test_the_later_arguments_count_and_null_takes_one_away(tmp_path):
    methods = {
        "none": {"num_train_epochs": 3, "tasks": {"cola": {"num_train_epochs": 4}}},
        "targeted_dropout": {"num_train_epochs": None, "levels": {"unit": {"use_cpu": False}}},
        "paper": {"method": "targeted_dropout", "label": "as in the paper"},
    }
    places = {str(p): p for p in _places(tmp_path, methods=methods, seeds=[0])}
    assert places["sst2 weight none seed 0"].arguments["num_train_epochs"] == 3
    assert places["cola weight none seed 0"].arguments["num_train_epochs"] == 4
    targeted = places["sst2 unit targeted_dropout seed 0"].arguments
    assert "num_train_epochs" not in targeted
    assert targeted["use_cpu"] is False
    assert targeted["method"] == "targeted_dropout"
    paper = places["sst2 unit paper seed 0"]
    assert (paper.arguments["method"], paper.label) == ("targeted_dropout", "as in the paper")
    assert not {"label", "seeds", "tasks", "levels"} & paper.arguments.keys()


def test_false_leaves_a_method_out(tmp_path):
    methods = {"none": {"levels": {"unit": False}}, "targeted_dropout": {"tasks": {"cola": False}}}
    places = _places(tmp_path, methods=methods, seeds=[0])
    assert [str(p) for p in places] == [
        "sst2 weight none seed 0",
        "sst2 weight targeted_dropout seed 0",
        "sst2 unit targeted_dropout seed 0",
        "cola weight none seed 0",
    ]


def test_knobs_are_all_combinations_and_come_between_first_and_second_seeds(tmp_path):
    grid = {"learning_rate": [1e-4, 2e-4], "targeting": [0.8, 0.9]}
    knobs = {"tasks": ["sst2"], "levels": ["weight"], "methods": {"targeted_dropout": grid}}
    places = _places(tmp_path, knobs=knobs)
    parts = [place.part for place in places]
    assert parts == 8 * ["grid"] + 4 * ["knobs"] + 8 * ["grid"]
    found = [dict(place.knobs) for place in places if place.part == "knobs"]
    assert found == [{"learning_rate": a, "targeting": b} for a in (1e-4, 2e-4) for b in (0.8, 0.9)]
    assert places[8].arguments["learning_rate"] == 1e-4
    assert "[learning_rate=0.0001 targeting=0.8]" in str(places[8])


def test_changes_reach_every_place(tmp_path):
    places = read_sweep(write_grid(tmp_path), {"dataset_name": "here"}).places
    assert {place.arguments["dataset_name"] for place in places} == {"here"}


def test_filters_select(tmp_path):
    places = _places(tmp_path)
    chosen = [p for p in places if selects({"task": ["sst2"], "seed": ["1"]}, p)]
    assert len(chosen) == 4
    assert {(p.task, p.seed) for p in chosen} == {("sst2", 1)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": {}}, r"a sweep has unknown names \['task'\]"),
        ({"methods": None}, "methods must hold names with their arguments, got None"),
        ({"methods": {"none": {"tasks": {"sst": {}}}}}, r"the tasks of none has unknown names"),
        ({"knobs": {"methods": {"l0": {}}}}, r"the methods of knobs has unknown names \['l0'\]"),
        ({"knobs": {"methods": {"none": {"learning_rate": 3}}}}, "the knobs of none must be lists"),
        ({"seeds": 3}, r"the seeds of the sweep must be a list such as \[0, 1, 2\], got 3"),
        ({"methods": {"none": {"seeds": "0"}}}, "the seeds of none must be a list .* got '0'"),
        ({"knobs": {"seeds": [0.5]}}, r"the seeds of knobs must be a list .* got \[0\.5\]"),
        (
            {"methods": {"none": {"seed": [0, 1]}}},
            r"weight none seed 0: seed .* seeds: \[0, 1, 2\]",
        ),
        ({"common": {"output_dir": "here"}}, "output_dir is no argument of a sweep"),
        ({"common": 3}, "common must hold names with their arguments, got 3"),
        ({"levels": {"unit": "unit"}}, "unit of levels must hold names .* got 'unit'"),
        ({"methods": {"none": {"tasks": {"cola": True}}}}, "cola in the tasks of none must hold"),
    ],
)
def test_what_is_no_sweep_is_refused(changes, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        _places(tmp_path, **changes)


def aliased(depth: int) -> str:
    """Return YAML whose value has ten to the power of `depth` parts."""
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for level in range(1, depth):
        uses = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} [{uses}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"title: \xff\xfe", "utf-8"),
        (b"[" * 100_000, "recursion|nested"),
        (aliased(9).encode(), "more than 100000 values"),
        (b"a: &a [*a]", "more than 100000 values|recursive"),
    ],
)
def test_a_file_that_means_harm_is_refused_at_once(content, message, tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_bytes(content)
    begun = time.process_time()  # others may use the processor
    with pytest.raises(UsageError, match=message):
        read_sweep(path)
    assert time.process_time() - begun < 10


def test_a_sweep_of_a_million_places_is_refused(tmp_path):
    knobs = {"methods": {"none": {f"x{i}": list(range(10)) for i in range(6)}}}
    with pytest.raises(UsageError, match="at most 100000 places of a kind, got 1000000"):
        _places(tmp_path, knobs=knobs)


@pytest.mark.parametrize("text", ["a: [", "just words", ""])
def test_what_is_no_mapping_is_refused(text, tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"sweep\.yaml"):
        read_sweep(path)
    with pytest.raises(UsageError, match=r"absent\.yaml cannot be read"):
        read_sweep(tmp_path / "absent.yaml")


def test_the_title_is_the_name_of_the_file_where_it_says_none(tmp_path):
    assert read_sweep(write_grid(tmp_path)).title == "A title"
    path = write_grid(tmp_path, title="x")
    path.write_text(path.read_text().replace("title: x\n", ""))
    assert GRID["title"] not in path.read_text()
    assert read_sweep(path).title == "sweep"


def test_two_methods_of_one_label_are_refused(tmp_path):
    methods = {"none": {"label": "same"}, "targeted_dropout": {"label": "same"}}
    with pytest.raises(UsageError, match="two methods have the label 'same'"):
        _places(tmp_path, methods=methods)
