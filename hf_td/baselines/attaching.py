"""Attaches a baseline to a model, leads it through the training, and gives the stock model back."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from hf_td.anatomy import read_anatomy
from hf_td.baselines.base import Baseline, Penalised, Treatment
from hf_td.config import TargetedDropoutConfig
from hf_td.patching.layers import check_targetable
from hf_td.patching.patch import find_patch
from hf_td.ranking.learned import attach_learned
from hf_td.ranking.sites import Site, plan_sites

ModelT = TypeVar("ModelT", bound=nn.Module)

# The submodule that a model gets. Its parameters are trained, saved and resumed with the model's.
NAME = "hf_td_baseline"

# Numbers the draws that are made once, when a baseline is attached.
_START = -1


class AttachedBaseline(nn.Module):
    """A baseline on a model.

    Attributes:
        baseline: the method and its settings.
        config: which sites it treats; its seed is that of all draws.
        treatments: one for each site, or for sites that are tied, by the number of the site.
        examples: size of the training set.
        progress: of the current update.
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
        """Number of the site and treatment."""
        for index, treatment in self.treatments.items():
            assert isinstance(treatment, Treatment)
            yield int(index), treatment

    def add(self, sites: list[Site]) -> None:
        """Prepare the treatment of sites that share one number."""
        index = sites[0].index
        with keyed_draws(self.config.seed, _START, index):
            self.treatments[str(index)] = self.baseline.treat(sites, self.config)

    def attach(self) -> None:
        """Attach all treatments, or none where one fails."""
        try:
            for _, treatment in self:
                treatment.attach()
        except Exception:
            for _, treatment in self:
                treatment.detach()
            raise

    @torch.no_grad()
    def advance(self, progress: float, update: int) -> None:
        """Prepare an update; call it before each one.

        Args:
            progress: completed updates over all updates, in [0, 1].
            update: the number of completed updates, which keys the draws.
        """
        self.progress, self.update = progress, update
        for index, treatment in self:
            with keyed_draws(self.config.seed, update, index):
                treatment.advance(progress)

    def penalty(self) -> Tensor | None:
        """What the loss of an update gets besides, a number; None without a penalty."""
        if not isinstance(self.baseline, Penalised):
            return None
        costs = [cost for _, treatment in self if (cost := treatment.cost()) is not None]
        parts = {"": lambda: 1, "site": lambda: len(costs), "example": self._require_examples}
        share = self.baseline.penalty_at(self.progress) / parts[self.baseline.PER]()
        return torch.stack(costs).sum() * share

    def _require_examples(self) -> int:
        if not self.examples:
            raise ValueError(
                f"{type(self.baseline).__name__} spreads its penalty over the training set: give "
                "attach_baseline the number of examples, or the Trainer a dataset that has a length"
            )
        return self.examples


def attach_baseline(
    model: ModelT,
    baseline: Baseline,
    config: TargetedDropoutConfig | None = None,
    *,
    examples: int | None = None,
    example_inputs: Mapping[str, Any] | None = None,
) -> ModelT:
    """Prepare a model for training by a baseline, in place; one that is refused stays as it was.

    In a training loop, call `find_baseline(model).advance(progress, update)` before each update,
    add its `penalty()` to the loss, and call `finish_baseline(model)` at the end;
    `BaselineTrainer` does all that.

    Args:
        model: one that is not patched.
        baseline: the method with its settings.
        config: level, include, exclude, layers and seed say what is treated, and the targeting how
            much goes where the method has no setting for it.
        examples: size of the training set, for methods that spread their penalty over it.
        example_inputs: as for `patch_model`.

    Returns:
        `model` itself.

    Raises:
        TypeError: a layer is of a class that cannot be treated.
        ValueError: the model is patched or has a baseline already, nothing matches, or whole
            experts are to be treated.
    """
    if find_patch(model) is not None or find_baseline(model) is not None:
        raise ValueError("the model is patched, or has a baseline already; take that off first")
    config = config or TargetedDropoutConfig()
    if config.experts_level != "none":
        raise ValueError(
            "baselines treat weights, heads and neurons; whole experts are for targeted dropout "
            "alone: use experts_level='none'"
        )
    sites = plan_sites(model, read_anatomy(model, example_inputs), config)
    for site in sites:
        check_targetable(site.name, site.layer)
    attached = AttachedBaseline(baseline, config, examples)
    for tied in _grouped(sites):
        attached.add(tied)
    attached.attach()
    model.add_module(NAME, attached)
    attached.train(model.training)
    return model


def _grouped(sites: tuple[Site, ...]) -> list[list[Site]]:
    """Sites by their number, which those have in common whose units are tied."""
    groups: dict[int, list[Site]] = {}
    for site in sites:
        groups.setdefault(site.index, []).append(site)
    return list(groups.values())


def find_baseline(model: nn.Module) -> AttachedBaseline | None:
    """The baseline on a model, also through wrappers; None where there is none."""
    return next((m for m in model.modules() if isinstance(m, AttachedBaseline)), None)


@torch.no_grad()
def finish_baseline(model: ModelT) -> ModelT:
    """Give the stock model back, in place, with the weights that the baseline computes with.

    What the method has learned of the importance of weights or units stays with the model, for
    `prune_model` to rank by (`hf_td.ranking.learned`).

    Raises:
        ValueError: the model has no baseline.
    """
    attached = find_baseline(model)
    if attached is None:
        raise ValueError(f"{type(model).__name__} has no baseline; call attach_baseline first")
    attached.advance(attached.progress, attached.update + 1)  # what the last update learned, too
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
    """Random numbers that are a function of the key; those of everybody else go on as they were."""
    accelerator = torch.accelerator.current_accelerator()
    kind = accelerator.type if accelerator else "cuda"
    devices = range(torch.accelerator.device_count())
    with torch.random.fork_rng(devices, device_type=kind):
        torch.manual_seed(random.Random(repr(key)).getrandbits(63))
        yield
