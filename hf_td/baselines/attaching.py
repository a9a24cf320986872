"""Attaches a baseline to a model, advances it with training, and restores the stock model."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from hf_td.anatomy import Anatomy
from hf_td.anatomy.given import anatomy_of
from hf_td.baselines.base import Baseline, Penalised, Treatment
from hf_td.config import TargetedDropoutConfig
from hf_td.patching.layers import check_targetable
from hf_td.patching.patch import find_patch
from hf_td.ranking.learned import attach_learned
from hf_td.ranking.sites import Site, plan_sites, tied_groups

ModelT = TypeVar("ModelT", bound=nn.Module)

# The name of the submodule that a model gets. Its parameters are trained and saved with it.
NAME = "hf_td_baseline"

# In place of an update, keys the draws that are made once, when a baseline is attached.
_START = -1


class AttachedBaseline(nn.Module):
    """A baseline on a model.

    Attributes:
        baseline: the method and its settings.
        config: selects the sites; its seed keys all draws.
        treatments: one for each site, or for a group of tied sites, by the index of the site.
        examples: size of the training set; None if it is not known.
        progress: progress at the current update, in [0, 1].
        update: the number of the current update.
    """

    def __init__(
        self, baseline: Baseline, config: TargetedDropoutConfig, examples: int | None
    ) -> None:
        super().__init__()
        self.baseline = baseline
        self.config = config
        self.examples = examples
        self.treatments = nn.ModuleDict()
        self.progress, self.update = 0.0, 0

    def __iter__(self) -> Iterator[tuple[int, Treatment]]:
        """Yield the index of each site with its treatment."""
        for index, treatment in self.treatments.items():
            assert isinstance(treatment, Treatment)
            yield int(index), treatment

    def add(self, sites: list[Site]) -> None:
        """Create the treatment of sites that share one index."""
        index = sites[0].index
        with keyed_draws(self.config.seed, _START, index):
            self.treatments[str(index)] = self.baseline.treat(sites, self.config)

    def attach(self) -> None:
        """Attach all treatments, or none if one fails."""
        try:
            for _, treatment in self:
                treatment.attach()
        except Exception:
            for _, treatment in self:
                treatment.detach()
            raise

    @torch.no_grad()
    def advance(self, progress: float, update: int) -> None:
        """Prepare an update. Call it before each update.

        Args:
            progress: completed updates over all updates, in [0, 1].
            update: the number of completed updates, which keys the draws.
        """
        self.progress, self.update = progress, update
        for index, treatment in self:
            with keyed_draws(self.config.seed, update, index):
                treatment.advance(progress)

    def penalty(self) -> Tensor | None:
        """Return the scalar to add to the loss of an update; None for methods without a penalty."""
        if not isinstance(self.baseline, Penalised):
            return None
        costs = [cost for _, treatment in self if (cost := treatment.cost()) is not None]
        divisors = {"": lambda: 1, "site": lambda: len(costs), "example": self._require_examples}
        share = self.baseline.penalty_at(self.progress) / divisors[self.baseline.PER]()
        return torch.stack(costs).sum() * share

    def _require_examples(self) -> int:
        if not self.examples:
            raise ValueError(
                f"{type(self.baseline).__name__} divides its penalty by the size of the training "
                "set, which is not known. Pass examples=... to attach_baseline, or give the "
                "Trainer a dataset that has a length"
            )
        return self.examples


def attach_baseline(
    model: ModelT,
    baseline: Baseline,
    config: TargetedDropoutConfig | None = None,
    *,
    examples: int | None = None,
    anatomy: Anatomy | None = None,
    example_inputs: Mapping[str, Any] | None = None,
) -> ModelT:
    """Prepare a model for training by a baseline, in place. After an error it is as it was.

    In a training loop, call `find_baseline(model).advance(progress, update)` before each update,
    add its `penalty()` to the loss, and call `finish_baseline(model)` at the end.
    `BaselineTrainer` does this.

    Args:
        model: a model that is not patched.
        baseline: the method with its settings.
        config: level, include, exclude, layers and seed select what is treated. The targeting is
            the sparsity of methods that have no setting for it.
        examples: size of the training set, for methods that divide their penalty by it.
        anatomy: what `read_anatomy(model)` returned; None reads the model.
        example_inputs: as for `patch_model`.

    Returns:
        `model` itself.

    Raises:
        TypeError: a layer is of a class that cannot be treated.
        ValueError: the model is patched or has a baseline already, nothing matches, or whole
            experts are to be treated.
    """
    if find_patch(model) is not None or find_baseline(model) is not None:
        raise ValueError(
            "the model is patched, or has a baseline already. Call unpatch_model or "
            "finish_baseline first"
        )
    config = config or TargetedDropoutConfig()
    for kind in ("experts", "layers"):
        if config.level_of(kind) != "none":
            raise ValueError(
                "baselines treat weights, heads and neurons. Only targeted dropout ranks whole "
                f"{kind}. Use {kind}_level='none'"
            )
    sites = plan_sites(model, anatomy_of(model, anatomy, example_inputs), config)
    for site in sites:
        check_targetable(site.name, site.layer)
    attached = AttachedBaseline(baseline, config, examples)
    for tied in tied_groups(sites).values():
        attached.add(tied)
    attached.attach()
    model.add_module(NAME, attached)
    attached.train(model.training)
    return model


def find_baseline(model: nn.Module) -> AttachedBaseline | None:
    """Return the baseline on a model, also through wrappers; None if there is none."""
    return next((m for m in model.modules() if isinstance(m, AttachedBaseline)), None)


@torch.no_grad()
def finish_baseline(model: ModelT) -> ModelT:
    """Restore the stock model in place, with the weights that the baseline computes with.

    Scores that the method has learned stay with the model, and `prune_model` ranks by them
    (`hf_td.ranking.learned`).

    Raises:
        ValueError: the model has no baseline.
    """
    attached = find_baseline(model)
    if attached is None:
        raise ValueError(f"{type(model).__name__} has no baseline. Call attach_baseline first")
    attached.advance(attached.progress, attached.update + 1)  # includes the last update
    learned = {}
    for _, treatment in attached:
        scores = treatment.scores()
        treatment.finish()
        if scores is not None:
            learned |= {site.name: scores.detach().float() for site in treatment.sites}
    delattr(model, NAME)
    attach_learned(model, learned)
    return model


@contextmanager
def keyed_draws(*key: int) -> Iterator[None]:
    """Seed the random numbers by a key; restore all random states on exit."""
    accelerator = torch.accelerator.current_accelerator()
    kind = accelerator.type if accelerator else "cuda"
    devices = range(torch.accelerator.device_count())
    with torch.random.fork_rng(devices, device_type=kind):
        torch.manual_seed(random.Random(repr(key)).getrandbits(63))
        yield
