"""Sparse variational dropout (Molchanov et al., arXiv 1701.05369)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from hf_td.anatomy import Stack
from hf_td.baselines.base import ByChannel, Learning, Penalised, Treatment
from hf_td.config import TargetedDropoutConfig
from hf_td.ranking.importance import fan_in_dim
from hf_td.ranking.sites import Site, UnitSite

# Of the approximation of the divergence.
K1, K2, K3 = 0.63576, 1.8732, 1.48695
_LIMIT = 8.0  # of log alpha
_EPSILON = 1e-8


def log_alpha(log_variance: Tensor, mean: Tensor) -> Tensor:
    """Log of the variance over the squared mean, in [-8, 8]: how much of a weight is noise."""
    return (log_variance - torch.log(mean.square() + _EPSILON)).clamp(-_LIMIT, _LIMIT)


def divergence(log_alpha: Tensor) -> Tensor:
    """From the posterior to the log-uniform prior, elementwise; 0 where all is noise."""
    fit = K1 * torch.sigmoid(K2 + K3 * log_alpha) - 0.5 * torch.log1p(torch.exp(-log_alpha))
    return K1 - fit


@dataclass(frozen=True, kw_only=True)
class VariationalDropout(Penalised, Learning):
    """Learns how much Gaussian noise each weight or unit bears; what bears much can go.

    Noise on weights is drawn as noise on the outputs that they make (local reparametrisation). At
    the unit level each unit is multiplied by noise of mean 1, drawn for every token. The cost is
    the divergence over the number of training examples. Evaluation uses the means; pruning ranks
    by log alpha. The paper trains without weight decay, which is the default of the Trainer too.

    Attributes:
        penalty: what multiplies the cost; the paper's.
        warmup: the paper grows the penalty linearly.
        initial: log of the initial variance. The paper's is -10; of a unit, whose mean is 1 where a
            weight's is some hundredths, that is below all that log alpha can tell, so it is -3.
        threshold: of log alpha, from which on a weight or unit is removed at the end; the paper's
            is 3. None removes nothing, and leaves it to pruning.
        learning_rate: of the log variances.
    """

    UNIT: ClassVar[Mapping[str, Any]] = {"initial": -3.0}
    PER: ClassVar[Literal["", "example", "site"]] = "example"

    penalty: float = 0.01
    warmup: float = 0.5
    initial: float = -10.0
    threshold: float | None = None

    def treat(self, sites: Sequence[Site], config: TargetedDropoutConfig) -> Treatment:
        """Noise on the site.

        Raises:
            TypeError: the site is of experts, whose inputs and outputs do not show.
        """
        if any(isinstance(site.layer, Stack) for site in sites):
            raise TypeError(
                f"variational dropout cannot reach {sites[0].name}: it adds noise to what a layer "
                "reads or returns, and experts keep that to themselves; exclude="
                f"[{sites[0].name!r}]"
            )
        kind = _UnitNoise if isinstance(sites[0], UnitSite) else _WeightNoise
        return kind(sites, self)


class _LearnedNoise(Treatment, ABC):
    """Log variances, and the hooks that add the noise.

    Attributes:
        threshold: of log alpha, from which on there is nothing left at the end.
        log_variance: of what the site ranks.
        hooks: on the layers.
    """

    def __init__(self, sites: Sequence[Site], method: VariationalDropout) -> None:
        super().__init__(sites)
        self.threshold = method.threshold
        self.log_variance = nn.Parameter(self.ranked_like(method.initial))
        self.hooks: list[RemovableHandle] = []

    @abstractmethod
    def mean(self) -> Tensor:
        """What the variance is compared with, float32."""

    def cost(self) -> Tensor:
        return divergence(log_alpha(self.log_variance, self.mean())).sum()

    def scores(self) -> Tensor:
        return -log_alpha(self.log_variance, self.mean())

    def detach(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def finish(self) -> None:
        self.detach()
        if self.threshold is not None:
            gone = self.scores() <= -self.threshold
            for site in self.sites:
                site.remove(gone)


class _WeightNoise(_LearnedNoise):
    def mean(self) -> Tensor:
        return self.site.layer.weight.float()

    def attach(self) -> None:
        for site in self.sites:
            self.hooks.append(site.layer.register_forward_hook(self._add_noise))

    def _add_noise(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Any:
        if not layer.training:
            return None
        variance = torch.exp(self.log_variance)
        rows = variance if fan_in_dim(layer) == 1 else variance.T
        noise = F.linear(inputs[0].to(variance.dtype).square(), rows)
        return (output + (noise + _EPSILON).sqrt() * torch.randn_like(output)).to(output.dtype)


class _UnitNoise(_LearnedNoise):
    def mean(self) -> Tensor:
        return torch.ones_like(self.log_variance)

    def attach(self) -> None:
        self.spreads = nn.ModuleList(ByChannel(s) for s in self.sites if isinstance(s, UnitSite))
        for site, spread in zip(self.sites, self.spreads, strict=True):
            hook = partial(self._multiply, spread)
            self.hooks.append(site.layer.register_forward_pre_hook(hook))

    def _multiply(self, spread: nn.Module, layer: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        if not layer.training:
            return None
        tokens, *others = inputs
        units = (*tokens.shape[:-1], self.log_variance.shape[-1])
        drawn = torch.randn(units, dtype=self.log_variance.dtype, device=tokens.device)
        noise = 1 + drawn * torch.exp(self.log_variance / 2)
        return ((tokens * spread(noise)).to(tokens.dtype), *others)
