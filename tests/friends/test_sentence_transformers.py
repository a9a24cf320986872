"""SentenceTransformer models train with the callback, and load again once they are compact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.testing import assert_close

from hf_td import TargetedDropoutCallback, compact_model, patch_model, prune_model, unpatch_model
from hf_td.ranking.activations import FILE
from tests.friends.helpers import (
    QUIET,
    RISING,
    UPDATES,
    DroppedGradients,
    assert_logged,
    friend,
    sentences,
    tiny_encoder,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the libraries, about each other
]
every_level = pytest.mark.parametrize("level", ["weight", "unit"])


def tiny_sentence_model(folder: Path) -> Any:
    return friend("sentence_transformers").SentenceTransformer(tiny_encoder(folder), device="cpu")


def trainer_of(model: Any, folder: Path, callbacks: Any) -> Any:
    library = friend("sentence_transformers")
    losses = friend("sentence_transformers.sentence_transformer.losses")
    pairs = {"anchor": sentences(16), "positive": sentences(16, 1)}
    arguments = {**QUIET, "save_strategy": "steps", "save_steps": UPDATES}
    return library.SentenceTransformerTrainer(
        model,
        args=library.SentenceTransformerTrainingArguments(str(folder), **arguments),
        train_dataset=Dataset.from_dict(pairs),
        loss=losses.MultipleNegativesRankingLoss(model),
        callbacks=callbacks,
    )


def embedded(model: Any) -> torch.Tensor:
    return model.eval().encode(sentences(4, 3), convert_to_tensor=True)


@every_level
@pytest.mark.parametrize("part", ["encoder", "whole"])
def test_a_sentence_model_trains_and_is_made_compact(part, level, tmp_path):
    model = tiny_sentence_model(tmp_path / "dense")
    encoder = model[0].auto_model
    example = None if part == "encoder" else {"input": model.preprocess(sentences(2))}
    patched = encoder if part == "encoder" else model
    patch_model(patched, level=level, importance="activation", example_inputs=example, **RISING)
    check = DroppedGradients(patched)
    trainer = trainer_of(model, tmp_path / "run", [TargetedDropoutCallback(), check])
    trainer.train()
    check.assert_annealed()
    assert_logged(trainer.state.log_history)
    assert (tmp_path / f"run/checkpoint-{UPDATES}" / FILE).is_file()

    unpatch_model(patched)
    prune_model(patched, 0.5, level=level, example_inputs=example)
    before = encoder.num_parameters()
    if level == "unit":
        compact_model(patched, multiple_of=1, example_inputs=example)
        assert encoder.num_parameters() < before
    expected = embedded(model)
    model.save_pretrained(str(tmp_path / "out"))
    library = friend("sentence_transformers")
    again = library.SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert_close(embedded(again), expected, rtol=0, atol=0)
    assert again[0].auto_model.num_parameters() == encoder.num_parameters()


def test_a_run_continues_as_if_it_was_not_stopped(tmp_path):
    def run(folder: Path, **how: Any) -> dict[str, torch.Tensor]:
        model = tiny_sentence_model(tmp_path / "dense")
        patch_model(model[0].auto_model, level="weight", importance="activation", **RISING)
        trainer = trainer_of(model, folder, [TargetedDropoutCallback()])
        trainer.args.save_steps = UPDATES // 2
        trainer.train(**how)
        return model.state_dict()

    expected = run(tmp_path / "run")
    halfway = tmp_path / f"run/checkpoint-{UPDATES // 2}"
    assert_close(run(tmp_path / "run", resume_from_checkpoint=str(halfway)), expected)
