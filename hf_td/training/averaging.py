"""Averages the weights over the updates of the fixed phase.

Every update of the phase trains the same network, so the mean of its weights is a network of the
same zeros, and often a better one (Izmailov et al., arXiv 1803.05407).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_td.files import replacing
from hf_td.patching.patch import find_patch
from hf_td.tensor_files import opened

FILE = "averaged.safetensors"


class AveragingCallback(TrainerCallback):
    """A callback that averages trainable weights after each update of the fixed phase.

    Means are float32 or wider.

    Args:
        decay: of an exponential mean, in (0, 1), which begins at the weights after the first update
            of the phase; 1 for the plain mean.
    """

    def __init__(self, decay: float) -> None:
        self.add = get_swa_multi_avg_fn() if decay == 1 else get_ema_multi_avg_fn(decay)
        self.mean: dict[str, Tensor] = {}
        self.count = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the weights of the update, if it was in the fixed phase."""
        patch = find_patch(kwargs["model"])
        if patch is not None and patch.is_fixed:
            self.update(kwargs["model"])

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add the weights that a model has now."""
        now = {name: _widened(p) for name, p in model.named_parameters() if p.requires_grad}
        if not self.count:
            self.mean = {name: value.clone() for name, value in now.items()}
        else:
            self.add([*self.mean.values()], [now[name] for name in self.mean], self.count)
        self.count += 1

    @torch.no_grad()
    def write_to(self, model: nn.Module) -> None:
        """Set the weights of a model to their means, if there are any."""
        for name, value in self.mean.items():
            model.get_parameter(name).copy_(value)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Set the weights to their means, and restore them on exit, bit for bit."""
        before = {name: model.get_parameter(name).detach().clone() for name in self.mean}
        self.write_to(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in before.items():
                    model.get_parameter(name).copy_(value)

    def save(self, folder: Path) -> None:
        """Write the means to a folder, which is made; no file before the fixed phase."""
        if self.count:
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / FILE) as free:
                save_file(self.mean, free, {"count": str(self.count)})

    def load(self, folder: Path | None, model: nn.Module) -> None:
        """Take the means of a checkpoint; none where it has none.

        Args:
            folder: the checkpoint, or None.
            model: the model of the weights.

        Raises:
            ValueError: the file is damaged, or of another model.
        """
        self.mean, self.count = {}, 0
        if folder is None or not (folder / FILE).is_file():
            return
        with opened(folder / FILE) as file:
            found = {name: file.get_tensor(name) for name in file.keys()}
            count = (file.metadata() or {}).get("count", "")
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        fits = {n: p.shape for n, p in parameters.items()} == {n: v.shape for n, v in found.items()}
        if not (fits and count.isdigit()):
            raise ValueError(
                f"{folder / FILE} should have the mean of each trainable weight of "
                f"{type(model).__name__}, and has others. Resume from a checkpoint of this run"
            )
        self.mean = {name: found[name].to(p.device) for name, p in parameters.items()}
        self.count = int(count)


def _widened(parameter: Tensor) -> Tensor:
    """Return the values, contiguous, in float32 or wider."""
    wide = torch.promote_types(parameter.dtype, torch.float32)
    return parameter.detach().to(wide).contiguous()


class AveragingMixin:
    """A mixin for Trainers whose model has the mean of its weights over the fixed phase.

    With `args.average` evaluations in the phase measure the means. Checkpoints have them beside the
    weights that go on training, and the model has them when `train` returns: those of the best
    checkpoint if it was loaded.
    """

    args: Any
    model: Any
    state: Any

    _averaging: AveragingCallback | None = None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the parent does, and set the weights to their means."""
        parent: Any = super()
        try:
            done = parent.train(*args, **kwargs)
            if self._averaging is not None:
                self._averaging.write_to(self.model)
        finally:
            if self._averaging is not None:
                parent.remove_callback(self._averaging)
            self._averaging = None  # what is evaluated later may have changed
        return done

    def _hp_search_setup(self, trial: Any) -> None:
        """Set the arguments of a trial, and average as they say.

        `train` calls this for every training.
        """
        parent: Any = super()
        parent._hp_search_setup(trial)
        decay = getattr(self.args, "average", None)
        if decay:
            self._averaging = AveragingCallback(decay)
            parent.add_callback(self._averaging)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate as the parent does, with the means in place of the weights."""
        parent: Any = super()
        if self._averaging is None:
            return parent.evaluation_loop(*args, **kwargs)
        with self._averaging.applied(self.model):
            return parent.evaluation_loop(*args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        parent: Any = super()
        if self._averaging is not None and self.args.should_save:
            run: str = parent._get_output_dir(trial=trial)
            self._averaging.save(Path(run) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        parent._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        parent: Any = super()
        parent._load_optimizer_and_scheduler(checkpoint)
        self._load_means(checkpoint)

    def _load_best_model(self) -> None:
        parent: Any = super()
        parent._load_best_model()
        self._load_means(self.state.best_model_checkpoint)

    def _load_means(self, checkpoint: str | None) -> None:
        if self._averaging is not None:
            folder = None if checkpoint is None else Path(checkpoint)
            self._averaging.load(folder, self.model)
