"""The arguments and the configuration of an experiment."""

from __future__ import annotations

import pytest
from accelerate.state import PartialState

from hf_td.tasks.experiment.checks import check_arguments
from hf_td.tasks.experiment.parsing import parse_arguments
from hf_td.tasks.glue.task import GlueArguments


@pytest.mark.parametrize(
    ("words", "sparsities"),
    [
        ("", [0, 0.25, 0.5, 0.75, 0.9, 0.95]),
        ("--level unit", [0, 0.25, 0.5, 0.75]),
        ("--method none --level unit", [0, 0.25, 0.5, 0.75]),
        ("--targeting 0.5", [0, 0.25, 0.5]),
        ("--pattern 2:4", [0, 0.25, 0.5]),
        ("--sparsities 0.9 --level unit", [0.9]),
        ("--fixed_sparsity 0.8", [0.8]),
        ("--fixed_sparsity 0.8 --do_eval", [0, 0.25, 0.5, 0.75, 0.9, 0.95]),
    ],
)
def test_by_default_the_sparsities_are_those_that_are_trained_for(words, sparsities, caplog):
    needed = "--model_name_or_path new:bert --task_name sst2 --output_dir unused"
    arguments = parse_arguments([*needed.split(), *words.split()], GlueArguments)
    assert arguments.sparsities == sparsities
    check_arguments(arguments)
    assert ("above the targeting" in caplog.text) == ("0.9" in words)


def test_checkpoints_are_no_part_of_what_an_experiment_is():
    needed = "--model_name_or_path m --task_name sst2 --output_dir unused".split()
    plain = parse_arguments(needed, GlueArguments).configuration()
    more = ["--checkpoint_minutes", "9", "--save_total_limit", "5"]
    assert parse_arguments([*needed, *more], GlueArguments).configuration() == plain
    assert plain["arguments"]["save_strategy"] == "no"  # as in the hashes of recorded cells


def test_to_ask_what_an_experiment_is_changes_nothing_of_its_processes(tmp_path):
    words = ["--model_name_or_path", "m", "--task_name", "sst2", "--output_dir", str(tmp_path)]
    arguments = parse_arguments([*words, "--use_cpu", "--learning_rate", "1"], GlueArguments)
    before = dict(PartialState._shared_state)
    assert before["_cpu"]
    found = arguments.configuration()["arguments"]
    assert found["learning_rate"] == 1
    assert found["use_cpu"]
    assert dict(PartialState._shared_state) == before
