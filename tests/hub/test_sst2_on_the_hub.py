"""The main job on real data: fine-tuned, pruned, made compact, published, and loaded again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
)

from hf_td import TargetedDropoutArguments, TargetedDropoutTrainer, prune_model
from hf_td.hub import export_model, push_to_hub
from hf_td.tasks.glue.loading import load_glue, tokenize
from hf_td.tasks.models import builtin_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
]

REPO = "someone/minilm-sst2"


def predictions_of(model, batches) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model.eval()(**batch).logits.argmax(-1) for batch in batches])


@pytest.fixture
def fine_tuned(glue_folder: Path, tmp_path: Path) -> Path:
    """Return the folder of a MiniLM, fine-tuned on SST-2 with the recipe of the unit level.

    $HF_TD_SST2 names the folder of one that `scripts/run_glue.py` made; without it the model is
    trained on a few hundred sentences.
    """
    given = os.environ.get("HF_TD_SST2")
    return Path(given) if given else fine_tune(glue_folder, tmp_path / "run")


def fine_tune(glue_folder: Path, folder: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(builtin_model())
    splits = load_glue("sst2", str(glue_folder), max_train_samples=512, drop_fragments=True)
    arguments = TargetedDropoutArguments(
        str(folder),
        level="unit",
        num_train_epochs=1,
        learning_rate=1e-4,
        per_device_train_batch_size=32,
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = TargetedDropoutTrainer(
        AutoModelForSequenceClassification.from_pretrained(builtin_model()),
        arguments,
        train_dataset=tokenize(splits["train"], "sst2", tokenizer, max_length=64),
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.train()
    trainer.save_model()
    tokenizer.save_pretrained(folder)
    return folder


def test_a_published_compact_minilm_predicts_what_the_masked_one_does(
    hub, glue_folder: Path, fine_tuned: Path, tmp_path: Path
):
    model = AutoModelForSequenceClassification.from_pretrained(fine_tuned)
    tokenizer = AutoTokenizer.from_pretrained(fine_tuned)
    validation = load_glue("sst2", str(glue_folder))["validation"]
    encoded = tokenize(validation, "sst2", tokenizer, max_length=128).remove_columns("labels")
    collator = DataCollatorWithPadding(tokenizer)
    rows = [encoded[i] for i in range(len(encoded))]
    batches = [collator(rows[i : i + 64]) for i in range(0, len(rows), 64)]
    report = prune_model(model, 0.75)
    masked = predictions_of(model, batches)

    dense = export_model(model, tmp_path / "dense", form="padded", check=False, multiple_of=10**6)
    export = export_model(model, tmp_path / "compact", processing_class=tokenizer)
    push_to_hub(export, REPO)
    again = AutoModelForSequenceClassification.from_pretrained(REPO, cache_dir=tmp_path / "cache")

    assert len(masked) == 872
    assert torch.equal(predictions_of(again, batches), masked)
    assert export.form == "compact"
    assert again.num_parameters() == export.parameters
    assert report.sparsity == pytest.approx(0.75, abs=0.01)
    assert export.bytes < dense.bytes * (1 - 0.9 * report.share_of_parameters)
    accuracy = float((masked == torch.tensor(validation["label"][:])).float().mean())
    print(f"accuracy {accuracy:.4f}, {dense.bytes} bytes dense, {export.bytes} compact")
