"""lm_eval measures a stock export on a local task."""

from __future__ import annotations

import json
import math

import pytest
import torch

from tests.friends.helpers import friend, logits_of, pruned_export, sentences, tiny_tokenizer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the libraries
]
TASK = """
task: words
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{start}}}}"
doc_to_choice: "{{{{ends}}}}"
doc_to_target: "{{{{right}}}}"
metric_list: [{{metric: acc}}]
"""


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_the_accuracy_of_a_local_task_is_that_of_the_logits(family, tmp_path, monkeypatch):
    friend("lm_eval")
    evaluator, tasks = friend("lm_eval.evaluator"), friend("lm_eval.tasks")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    model, folder = pruned_export(family, tmp_path / "stock")
    rows = [
        {"start": text, "ends": ["w5", "w9"], "right": number % 2}
        for number, text in enumerate(sentences(12))
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "words.yaml").write_text(TASK.format(file=file))
    manager = tasks.TaskManager(include_path=str(tmp_path), include_defaults=False)
    arguments = f"pretrained={folder},dtype=float32,add_bos_token=False"
    found = evaluator.simple_evaluate(
        model="hf",
        model_args=arguments,
        tasks=["words"],
        task_manager=manager,
        device="cpu",
        batch_size=1,
        bootstrap_iters=0,
    )
    tokenizer = tiny_tokenizer()
    right = []
    for row in rows:
        logits = logits_of(model, tokenizer(row["start"])["input_ids"])[-1]
        ends = torch.tensor([tokenizer(end)["input_ids"][-1] for end in row["ends"]])
        right.append(int(logits[ends].argmax()) == row["right"])
    accuracy = found["results"]["words"]["acc,none"]
    assert math.isclose(accuracy, sum(right) / len(right))
