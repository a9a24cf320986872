"""The main job on real data: fine-tuned, pruned, made compact, published, and loaded again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
)

from hf_td import TargetedDropoutArguments, TargetedDropoutTrainer, prune_model
from hf_td.experiment import builtin_model
from hf_td.glue import load_task, tokenize
from hf_td.hub import export_model, push_to_hub

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
]

REPO = "someone/minilm-sst2"


def predictions_of(model, batches) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model.eval()(**batch).logits.argmax(-1) for batch in batches])


def test_a_published_compact_minilm_predicts_what_the_masked_one_does(
    hub, glue_folder: Path, tmp_path: Path
):
    model = AutoModelForSequenceClassification.from_pretrained(builtin_model())
    tokenizer = AutoTokenizer.from_pretrained(builtin_model())
    splits = load_task("sst2", str(glue_folder), max_train_samples=512)
    data = tokenize(splits, "sst2", tokenizer, max_length=64)
    collator = DataCollatorWithPadding(tokenizer)
    arguments = TargetedDropoutArguments(
        str(tmp_path / "run"),
        level="unit",
        num_train_epochs=1,
        learning_rate=1e-4,
        per_device_train_batch_size=32,
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    TargetedDropoutTrainer(
        model, arguments, train_dataset=data["train"], data_collator=collator
    ).train()
    report = prune_model(model, 0.75)
    validation = data["validation"].remove_columns("labels")
    rows = [validation[i] for i in range(len(validation))]
    batches = [collator(rows[i : i + 64]) for i in range(0, len(rows), 64)]
    masked = predictions_of(model, batches)

    dense = export_model(model, tmp_path / "dense", form="padded", check=False, multiple_of=10**6)
    export = export_model(model, tmp_path / "compact", processing_class=tokenizer, check=False)
    push_to_hub(export, REPO)
    again = AutoModelForSequenceClassification.from_pretrained(REPO, cache_dir=tmp_path / "cache")

    assert len(masked) == 872
    assert torch.equal(predictions_of(again, batches), masked)
    assert export.form == "compact"
    assert again.num_parameters() == export.parameters
    assert report.sparsity == pytest.approx(0.75, abs=0.01)
    assert export.bytes < dense.bytes * (1 - 0.9 * report.share_of_parameters)
