"""SetFit's Trainer hands callbacks no module: the callback is given the model."""

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


def tiny_setfit(folder: Path) -> Any:
    model = friend("setfit").SetFitModel.from_pretrained(tiny_encoder(folder), labels=["no", "yes"])
    return model.to("cpu")


def trainer_of(model: Any, folder: Path, callbacks: Any, **options: Any) -> Any:
    setfit = friend("setfit")
    arguments: dict[str, Any] = {
        "max_steps": UPDATES,
        "batch_size": 4,
        "body_learning_rate": 1e-2,
        "logging_steps": 1,
        "logging_first_step": False,
        "report_to": "none",
        "save_strategy": "steps",
        "save_steps": UPDATES,
        **options,
    }
    texts = {"text": sentences(8), "label": [0, 1] * 4}
    return setfit.Trainer(
        model,
        setfit.TrainingArguments(str(folder), **arguments),
        train_dataset=Dataset.from_dict(texts),
        eval_dataset=Dataset.from_dict(texts),
        callbacks=callbacks,
    )


@every_level
def test_a_setfit_model_trains_and_is_made_compact(level, tmp_path):
    model = tiny_setfit(tmp_path / "dense")
    encoder = model.model_body[0].auto_model
    patch_model(encoder, level=level, importance="activation", **RISING)
    check = DroppedGradients(encoder)
    trainer = trainer_of(model, tmp_path / "run", [TargetedDropoutCallback(encoder), check])
    trainer.train()
    check.assert_annealed()
    assert_logged(trainer.st_trainer.state.log_history)
    assert (tmp_path / f"run/checkpoint-{UPDATES}" / FILE).is_file()

    unpatch_model(encoder)
    prune_model(encoder, 0.5, level=level)
    before = encoder.num_parameters()
    if level == "unit":
        compact_model(encoder, multiple_of=1)
        assert encoder.num_parameters() < before
    expected = model.predict_proba(sentences(4, 3))
    model.save_pretrained(str(tmp_path / "out"))
    again = friend("setfit").SetFitModel.from_pretrained(str(tmp_path / "out")).to("cpu")
    assert_close(again.predict_proba(sentences(4, 3)), expected, rtol=0, atol=0)
    assert again.model_body[0].auto_model.num_parameters() == encoder.num_parameters()


def test_the_best_checkpoint_is_loaded_with_its_activations(tmp_path):
    model = tiny_setfit(tmp_path / "dense")
    patch_model(model.model_body[0].auto_model, importance="activation", **RISING)
    best = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    callback = TargetedDropoutCallback(model.model_body)
    trainer = trainer_of(model, tmp_path / "run", [callback], **best, load_best_model_at_end=True)
    trainer.train()
    assert Path(trainer.st_trainer.state.best_model_checkpoint, FILE).is_file()
    names = dict(model.model_body.named_parameters())
    assert all(torch.isfinite(parameter).all() for parameter in names.values())


def test_a_callback_without_the_model_says_how_to_give_it(tmp_path):
    model = tiny_setfit(tmp_path / "dense")
    patch_model(model.model_body[0].auto_model, **RISING)
    message = r"a SetFitModel as the model, where a .*Module was expected.*Callback\(model\)"
    with pytest.raises(TypeError, match=message):
        trainer_of(model, tmp_path / "run", [TargetedDropoutCallback()]).train()
