"""How large the inputs of linear layers are, which importance by activation scales with.

Of a router it is the weights that it gives to its experts.

Not in the paper; the authors' code has an early form of it (`targeted_ard`), and Wanda (Sun et al.,
arXiv 2306.11695) ranks single weights so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.utils.hub import cached_file

from hf_td.anatomy import evaluating
from hf_td.config import trained_with
from hf_td.modules.routing import routed_squares

# Lies beside the weights of a model that was trained with importance by activation.
FILE = "activations.safetensors"

_KEY = "_hf_td_activations"
# Averages change slowly, and to sum up what goes into a layer takes a GPU about as long to be told
# as the layer itself: one update of these is measured.
INTERVAL = 8
# Of the moving average over the updates that are measured: about ten of them count, since what an
# update drops shows in its activations, and updates differ in that.
_DECAY = 0.9
# Neighbouring rows tell much the same: a few are enough, and cost next to nothing. A prime, which
# few lengths are multiples of: else the same positions were taken of each sequence, the first among
# them, whose activations are often far larger than all others.
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
        """Root mean square of each input feature of a layer; None where nothing is known.

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
                f"the activations of {name} are of {found.numel()} features, and it has {features}:"
                " they are of another model, or of this one before features were taken out; measure"
                " them anew, by calibration=..."
            )
        return found.sqrt()

    def update(self, seen: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Add what one update saw to the moving averages.

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
        """All layers of a device in one tensor: a few operations, however many layers."""
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
        """Go on with what others are."""
        self.mean_squares, self.measured = dict(other.mean_squares), dict(other.measured)

    def _before(self, name: str, squares: Tensor) -> Tensor:
        return self.mean_squares.get(name, torch.ones_like(squares)).to(squares.device)

    def names(self) -> set[str]:
        """The layers of which something was measured."""
        return {name for name, measured in self.measured.items() if measured}

    def save(self, folder: str | Path) -> None:
        """Write what was measured to `FILE` in an existing folder; no file where nothing was."""
        names = sorted(self.names())
        if names:
            tensors = {name: self.mean_squares[name].cpu().clone() for name in names}
            save_file(tensors, Path(folder) / FILE)

    @classmethod
    def load(cls, folder: str | Path) -> Activations | None:
        """Read what `save` wrote; None where a folder has none."""
        path = Path(folder) / FILE
        return cls(load_file(path)) if path.is_file() else None


def sampled_squares(inputs: Tensor) -> tuple[Tensor, int]:
    """Sum of squares of every thirteenth row, and the number of these rows.

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
    """Of the weights that a router gives, or of what goes into any other layer."""
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
    """Keep activations with a model; None says that those of an earlier training do not count."""
    model.__dict__[_KEY] = activations


def find_activations(model: nn.Module, **download: Any) -> Activations | None:
    """What was measured while the model was trained, or None.

    It is with the model that was trained, or beside the weights that the model was loaded from.

    Args:
        model: that was trained.
        download: `revision`, `token` and `cache_dir` that the model was loaded from the Hub with.
            It does not remember them, so say them once, before anything else asks.
    """
    for module in model.modules():
        if _KEY in module.__dict__:
            return module.__dict__[_KEY]
    place = getattr(model, "name_or_path", "")
    loaded = _load_from(place, model, download) if place else None
    if loaded is not None:
        attach_activations(model, loaded)
    return loaded


def save_activations(model: nn.Module, folder: str | Path) -> None:
    """Write what is known of a model's activations beside its weights; nothing where none is."""
    found = find_activations(model)
    if found is not None:
        found.save(folder)


def _load_from(place: str, model: nn.Module, download: Mapping[str, Any]) -> Activations | None:
    if Path(place).is_dir():
        return Activations.load(place)
    training = trained_with(model)
    if training is None or training.importance != "activation":
        return None  # not worth a question to the Hub
    path = cached_file(
        place,
        FILE,
        **download,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if path is None else Activations(load_file(path))
