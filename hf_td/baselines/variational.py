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
from hf_td.ranking.sites import Site, general

# Constants of the approximation of the divergence.
K1, K2, K3 = 0.63576, 1.8732, 1.48695
_LIMIT = 8.0  # log alpha is clamped to [-8, 8]
_EPSILON = 1e-8


def log_alpha(log_variance: Tensor, mean: Tensor) -> Tensor:
    """Return the log of the variance over the squared mean, in [-8, 8]: the share of noise."""
    return (log_variance - torch.log(mean.square() + _EPSILON)).clamp(-_LIMIT, _LIMIT)


def divergence(log_alpha: Tensor) -> Tensor:
    """Return the divergence of the posterior from the log-uniform prior; 0 for pure noise."""
    fit = K1 * torch.sigmoid(K2 + K3 * log_alpha) - 0.5 * torch.log1p(torch.exp(-log_alpha))
    return K1 - fit


@dataclass(frozen=True, kw_only=True)
class VariationalDropout(Penalised, Learning):
    """Gaussian noise of a learned variance on each weight or unit; what bears much is removed.

    Noise on weights is drawn as noise on the outputs that they make (local reparametrisation). At
    the unit level each unit is multiplied by noise of mean 1, drawn for every token. The cost is
    the divergence over the number of training examples. Evaluation uses the means, and pruning
    ranks by log alpha. The paper trains without weight decay, like the Trainer by default.

    Attributes:
        penalty: the factor of the cost; the default is the paper's.
        warmup: progress until which the penalty grows linearly, as in the paper.
        initial: log of the initial variance; the paper's is -10. The mean of a unit is 1, that of a
            weight some hundredths. Log alpha of a unit at -10 would be clamped, so a unit has -3.
        threshold: the log alpha from which a weight or unit is removed at the end; the paper's is
            3. None removes nothing: pruning does.
        learning_rate: the learning rate of the log variances.
    """

    LABEL: ClassVar[str] = "variational dropout"
    UNIT: ClassVar[Mapping[str, Any]] = {"initial": -3.0}
    PER: ClassVar[Literal["", "example", "site"]] = "example"

    penalty: float = 0.01
    warmup: float = 0.5
    initial: float = -10.0
    threshold: float | None = None

    def treat(self, sites: Sequence[Site], config: TargetedDropoutConfig) -> Treatment:
        """Create noise on the site.

        Raises:
            TypeError: the site is inside experts, whose inputs and outputs no hook sees.
        """
        if any(isinstance(site.layer, Stack) for site in sites):
            inside = f"{general(sites[0].name).rpartition('.')[0]}.*"
            raise TypeError(
                f"variational dropout cannot reach {sites[0].name}: it adds noise to the inputs or "
                "outputs of a layer, which the module of the experts does not expose. Pass "
                f"exclude=[{inside!r}]"
            )
        noise = _WeightNoise if sites[0].kind == "weight" else _UnitNoise
        return noise(sites, self)


class _LearnedNoise(Treatment, ABC):
    """Log variances, and the hooks that add the noise.

    Attributes:
        threshold: the log alpha from which weights or units are removed at the end, or None.
        log_variance: the log variances, of the shape that the site ranks.
        hooks: the hooks on the layers.
    """

    def __init__(self, sites: Sequence[Site], method: VariationalDropout) -> None:
        super().__init__(sites)
        self.threshold = method.threshold
        self.log_variance = nn.Parameter(self.ranked_like(method.initial))
        self.hooks: list[RemovableHandle] = []

    @abstractmethod
    def mean(self) -> Tensor:
        """Return the means that the variances are compared with, float32."""

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
            removed = self.scores() <= -self.threshold
            for site in self.sites:
                site.remove(removed)


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
        self.by_channel = nn.ModuleList(ByChannel(site) for site in self.sites)
        for site, by_channel in zip(self.sites, self.by_channel, strict=True):
            hook = partial(self._multiply, by_channel)
            self.hooks.append(site.layer.register_forward_pre_hook(hook))

    def _multiply(self, by_channel: nn.Module, layer: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        if not layer.training:
            return None
        tokens, *others = inputs
        units = (*tokens.shape[:-1], self.log_variance.shape[-1])
        drawn = torch.randn(units, dtype=self.log_variance.dtype, device=tokens.device)
        noise = 1 + drawn * torch.exp(self.log_variance / 2)
        return ((tokens * by_channel(noise)).to(tokens.dtype), *others)
