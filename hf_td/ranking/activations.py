"""Mean squares of the inputs of linear layers, by which importance by activation scales scores.

Of a router they are of the weights that it gives its experts.

This is not in the paper. The authors' code has an early form of it (`targeted_ard`), and Wanda (Sun
et al., arXiv 2306.11695) ranks single weights in this way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hf_td.anatomy import evaluating
from hf_td.config import trained_with
from hf_td.modules.routing import routed_squares
from hf_td.ranking.saved import Saved

ACTIVATIONS = Saved("activations.safetensors", "_hf_td_activations", "activations")
FILE = ACTIVATIONS.file

# One update of so many is measured: averages change slowly, and launching a sum for each layer
# takes a GPU about as long as launching the layer.
INTERVAL = 8
# The decay of the moving averages. About ten measured updates count, since what an update drops
# shows in its activations.
_DECAY = 0.9
# Every so many rows are measured: neighbours are alike, and a few are enough. Few sequence lengths
# are multiples of a prime. Otherwise the same positions would be taken of each sequence, among them
# the first, whose activations are often far larger than all others.
_ROW_STEP = 13


class Activations:
    """Mean squares of the inputs of linear layers; ones until something is measured.

    Nothing here waits for the device, so that training does not either.

    Attributes:
        mean_squares: by dotted name of the layer, tensors of shape `(fan_in,)`, float32.
        measured: by the same names, boolean tensors of no dimension.
    """

    def __init__(self, mean_squares: Mapping[str, Tensor] | None = None) -> None:
        self.mean_squares = dict(mean_squares or {})
        self.measured = {n: torch.ones_like(s[0]).bool() for n, s in self.mean_squares.items()}

    def scale(self, name: str, features: int) -> Tensor | None:
        """Return the root mean square of each input feature of a layer; None if it is not known.

        Args:
            name: of the layer.
            features: how many it has; of a router, how many experts.

        Returns:
            `(features,)`.

        Raises:
            ValueError: they were measured of another number of features.
        """
        found = self.mean_squares.get(name)
        if found is None:
            return None
        if found.numel() != features:
            raise ValueError(
                f"The activations of {name} are of {found.numel()} features, and it has {features}."
                " They were measured on another model, or on this one before features were taken "
                "out. Measure them anew by calibration=..."
            )
        return found.sqrt()

    def update(self, seen: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Add the sums of one update to the moving averages.

        Args:
            seen: by the names of layers, the sum of the squared inputs, `(fan_in,)`, and the number
                of rows that it is of, no dimension; nothing changes where that is 0.
        """
        by_device: dict[torch.device, list[str]] = {}
        for name, (squares, _) in seen.items():
            by_device.setdefault(squares.device, []).append(name)
        for device, names in by_device.items():
            self._update(device, names, *zip(*(seen[name] for name in names), strict=True))

    def _update(self, device: torch.device, names: Sequence[str], squares: Any, rows: Any) -> None:
        """Update all layers of a device in one tensor, with a few operations in all."""
        sizes = [len(one) for one in squares]

        def spread(numbers: Iterable[Tensor]) -> Tensor:
            return torch.cat([n.expand(size) for n, size in zip(numbers, sizes, strict=True)])

        never = torch.zeros((), dtype=torch.bool, device=device)
        measured = [self.measured.get(name, never).to(device) for name in names]
        before = torch.cat([self._before(*one) for one in zip(names, squares, strict=True)])
        counts = spread(rows)
        mean = torch.cat(squares) / counts.clamp(min=1)
        average = torch.where(spread(measured), before.lerp(mean, 1 - _DECAY), mean)
        average = torch.where(counts > 0, average, before)
        now_measured = torch.stack(measured) | (torch.stack(rows) > 0)
        self.measured.update(zip(names, now_measured.unbind(), strict=True))
        self.mean_squares.update(zip(names, average.split(sizes), strict=True))

    def take(self, other: Activations) -> None:
        """Replace these activations by others."""
        self.mean_squares, self.measured = dict(other.mean_squares), dict(other.measured)

    def _before(self, name: str, squares: Tensor) -> Tensor:
        return self.mean_squares.get(name, torch.ones_like(squares)).to(squares.device)

    def names(self) -> set[str]:
        """Return the names of the layers of which something was measured."""
        return {name for name, measured in self.measured.items() if measured}

    def save(self, folder: str | Path) -> None:
        """Write what was measured to `FILE` in an existing folder; no file where nothing was."""
        ACTIVATIONS.save(folder, {name: self.mean_squares[name] for name in self.names()})

    @classmethod
    def load(cls, folder: str | Path) -> Activations | None:
        """Return what `save` wrote; None where a folder has none."""
        path = Path(folder) / FILE
        return cls(load_file(path)) if path.is_file() else None


def sampled_squares(inputs: Tensor) -> tuple[Tensor, int]:
    """Return the sum of squares of every thirteenth row, and the number of these rows.

    Args:
        inputs: `(..., fan_in)`.

    Returns:
        A float32 tensor `(fan_in,)`, and how many rows it sums.
    """
    rows = inputs.detach().reshape(-1, inputs.shape[-1])[::_ROW_STEP]
    if rows.dtype == torch.float64:
        rows = rows.float()  # the norm takes no type that it would have to narrow
    return torch.linalg.vector_norm(rows, dim=0, dtype=torch.float32).square(), rows.shape[0]


def _squares(layer: Any, inputs: Tensor, output: Any) -> tuple[Tensor, int]:
    """Return the squares of a router's weights, or of the inputs of any other layer."""
    if isinstance(output, tuple):
        return routed_squares(output, len(layer.weight))
    return sampled_squares(inputs)


@torch.no_grad()
def measure_activations(
    model: nn.Module, names: Iterable[str], batches: Iterable[Mapping[str, Any]]
) -> Activations:
    """Run a model in eval mode on some batches, and measure the inputs of the named layers.

    Args:
        model: any model.
        names: dotted names of linear layers and routers that a forward calls.
        batches: keyword arguments for `model`; use training data, never what will be reported.

    Raises:
        ValueError: there is no batch, or a forward calls none of the layers.
    """
    sums: dict[str, Tensor] = {}
    rows: dict[str, int] = {}

    def add(name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        total, count = _squares(layer, inputs[0], output)
        sums[name] = sums.get(name, 0) + total
        rows[name] = rows.get(name, 0) + count

    wanted = list(names)
    hooks = [model.get_submodule(name).register_forward_hook(partial(add, name)) for name in wanted]
    try:
        with evaluating(model):
            for batch in batches:
                model(**batch)
    finally:
        for hook in hooks:
            hook.remove()
    if not sums:
        raise ValueError("calibration needs batches that run through the layers; there was none")
    return Activations({name: total / rows[name] for name, total in sums.items()})


def attach_activations(model: nn.Module, activations: Activations | None) -> None:
    """Keep activations with a model; None says that those of an earlier training are stale."""
    ACTIVATIONS.attach(model, activations)


def find_activations(model: nn.Module) -> Activations | None:
    """Return the activations of a model by the rule of `hf_td.ranking.saved`, or None."""
    attached = ACTIVATIONS.attached(model)
    if attached is not None:
        return attached[0]
    found = ACTIVATIONS.find(model)
    return None if found is None else Activations(found)


def download_activations(model: nn.Module, **options: Any) -> Activations | None:
    """Return the activations in a model's repository on the Hub; see `Saved.download`.

    They are looked for only where the config of the model records that training measured some.
    """
    training = trained_with(model)
    if training is None or training.importance != "activation":
        return None
    found = ACTIVATIONS.download(model, **options)
    return None if found is None else Activations(found)


def save_activations(model: nn.Module, folder: str | Path) -> None:
    """Write a model's activations to an existing folder; nothing where it has none."""
    found = find_activations(model)
    if found is not None:
        found.save(folder)
