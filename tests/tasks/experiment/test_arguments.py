"""The arguments and the configuration of an experiment."""

from __future__ import annotations

from accelerate.state import PartialState

from hf_td.tasks.experiment.parsing import parse_arguments
from hf_td.tasks.glue.task import GlueArguments


def test_to_ask_what_an_experiment_is_changes_nothing_of_its_processes(tmp_path):
    words = ["--model_name_or_path", "m", "--task_name", "sst2", "--output_dir", str(tmp_path)]
    arguments = parse_arguments([*words, "--use_cpu", "--learning_rate", "1"], GlueArguments)
    before = dict(PartialState._shared_state)
    assert before["_cpu"]
    found = arguments.configuration()["arguments"]
    assert found["learning_rate"] == 1
    assert found["use_cpu"]
    assert dict(PartialState._shared_state) == before
