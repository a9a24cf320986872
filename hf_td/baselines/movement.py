"""Movement pruning (Sanh et al., arXiv 2005.07683)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from hf_td import kernels
from hf_td.baselines.base import Gate, Learning, Penalised
from hf_td.config import TargetedDropoutConfig
from hf_td.ranking.sites import Site
from hf_td.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class _Movement(Learning):
    """The cubic schedule that both kinds share.

    Attributes:
        begin: progress at which the schedule starts, in [0, 1).
        end: progress at which the schedule reaches its final value, in (begin, 1].
        learning_rate: the learning rate of the scores.
    """

    begin: float = 0.1
    end: float = 0.7
    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.schedule  # validates begin and end

    @property
    def schedule(self) -> Schedule:
        """The schedule, from progress to a fraction of the final value."""
        return Schedule(shape="cubic", begin=self.begin, end=self.end)


@dataclass(frozen=True, kw_only=True)
class Movement(_Movement):
    """A mask of the weights or units with the lowest learned scores, more of them over the run.

    A score gets the gradient of the mask (straight through). At the weight level this is the
    gradient of the masked weight times the weight: the score grows if the weight moves away from
    zero. At the unit level it is the sum over what the consumer reads of the unit (block movement
    pruning, Lagunas et al., arXiv 2109.04838). The highest scores are taken inside each output
    unit, as pruning does here; the paper takes them of each matrix. Pruning ranks by the scores.

    Attributes:
        sparsity: the final fraction that is masked, in [0, 1); None takes the targeting.
    """

    LABEL: ClassVar[str] = "movement pruning"

    sparsity: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_fractions("sparsity")

    def treat(self, sites: Sequence[Site], config: TargetedDropoutConfig) -> Gate:
        """Create scores and a mask on the site."""
        sparsity = config.targeting if self.sparsity is None else self.sparsity
        return _TopMask(sites, self.schedule, sparsity)


@dataclass(frozen=True, kw_only=True)
class SoftMovement(_Movement, Penalised):
    """A mask of the weights or units whose learned score is below a threshold.

    As `Movement`, but a mask is 1 where the sigmoid of the score is above the threshold. The
    penalty, on the mean of the sigmoids of each layer (averaged over layers), controls how many are
    masked. Threshold and penalty grow by the schedule.

    Attributes:
        penalty: the final factor of the mean.
        threshold: the final threshold, in (0, 1).
    """

    LABEL: ClassVar[str] = "soft movement pruning"
    PER: ClassVar[Literal["", "example", "site"]] = "site"

    penalty: float = 100.0
    threshold: float = 0.1
    learning_rate: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold is in (0, 1), got {self.threshold}")

    def penalty_at(self, progress: float) -> float:
        """Return the factor of the cost at a progress in [0, 1]."""
        return super().penalty_at(progress) * self.schedule(progress)

    def treat(self, sites: Sequence[Site], config: TargetedDropoutConfig) -> Gate:
        """Create scores and a mask on the site."""
        return _ThresholdMask(sites, self.schedule, self.threshold)


class _Mask(Gate):
    """A mask that passes its gradient on to learned scores.

    Attributes:
        schedule: from progress to a fraction of `final`.
        final: the final value of the sparsity or the threshold.
        importance: the learned scores.
        mask: the mask of the current update, a function of the scores and the progress.
    """

    mask: Tensor

    def __init__(self, sites: Sequence[Site], schedule: Schedule, final: float) -> None:
        super().__init__(sites)
        self.schedule, self.final = schedule, final
        self.importance = nn.Parameter(self.ranked_like(0.0))
        self.register_buffer("mask", self.ranked_like(1.0), persistent=False)

    def factor(self) -> Tensor:
        # The difference is 0. It passes the gradient of the mask on to the scores.
        return self.mask + (self.importance - self.importance.detach())

    def scores(self) -> Tensor:
        return self.importance


class _TopMask(_Mask):
    def advance(self, progress: float) -> None:
        fraction = self.final * self.schedule(progress)
        lowest = kernels.candidate_mask(self.importance.detach(), fraction, self.site.dim)
        self.mask.copy_(~lowest)


class _ThresholdMask(_Mask):
    def advance(self, progress: float) -> None:
        self.mask.copy_(self.importance.sigmoid() > self.final * self.schedule(progress))

    def cost(self) -> Tensor:
        return self.importance.sigmoid().mean()
