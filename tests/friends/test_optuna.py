"""A search by optuna trains each trial with its own settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from hf_td import TargetedDropoutTrainer
from hf_td.patching.patch import find_patch
from tests.friends.helpers import friend
from tests.tiny import tiny_model
from tests.training.models import arguments, examples

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the libraries, about each other
]


class Seen(TrainerCallback):
    """Pairs of what a trial asks for and what its model is patched with."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Any, Any]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        patch = find_patch(kwargs["model"])
        assert patch is not None
        wanted = (args.targeting, args.level)
        self.pairs.append((wanted, (patch.config.targeting, patch.config.level)))


def test_every_trial_trains_with_the_settings_that_optuna_suggests(tmp_path):
    optuna = friend("optuna")
    seen = Seen()
    args = arguments(tmp_path, max_steps=2, eval_sparsity=0.5)
    trainer = TargetedDropoutTrainer(
        args=args,
        model_init=lambda: tiny_model("bert"),
        train_dataset=examples("bert", 8),
        eval_dataset=examples("bert", 8),
        callbacks=[seen],
    )
    best: Any = trainer.hyperparameter_search(
        lambda trial: {
            "targeting": trial.suggest_float("targeting", 0.2, 0.8),
            "level": trial.suggest_categorical("level", ["weight", "unit"]),
        },
        n_trials=4,
        backend="optuna",
        direction="minimize",
        sampler=optuna.samplers.RandomSampler(seed=1),
    )
    assert len(seen.pairs) == 4
    assert all(wanted == used for wanted, used in seen.pairs)
    assert len({wanted for wanted, _ in seen.pairs}) == 4
    assert {level for _, (_, level) in seen.pairs} == {"weight", "unit"}
    assert (best.hyperparameters["targeting"], best.hyperparameters["level"]) in dict(seen.pairs)


def test_the_search_of_the_page_runs(tmp_path, monkeypatch):
    friend("optuna")
    page = Path(__file__).parents[2] / "docs" / "how-to" / "trackers.md"
    (block,) = [
        b for b in re.findall(r"```python\n(.*?)```", page.read_text(), re.S) if "space" in b
    ]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block.replace("# best", "best").replace("n_trials=20", "n_trials=2"), names)
    best = names["best"]
    assert best.hyperparameters.keys() == {"learning_rate", "targeting", "drop_rate_initial"}
    assert best.objective == pytest.approx(0.69, abs=0.2)  # the loss of a random classifier
