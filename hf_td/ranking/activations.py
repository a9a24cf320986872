"""Activations: mean squares of the inputs of linear layers, which scale scores.

A router's activations are those of the weights that it gives its experts. Those of a stack of
layers are how much each layer changes what flows through it.

Importance by activation is not in the paper. The authors' code has an early form (`targeted_ard`),
and Wanda (Sun et al., arXiv 2306.11695) ranks single weights by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hf_td.anatomy import evaluating
from hf_td.config import trained_with
from hf_td.modules.passing import hidden_in, hidden_out
from hf_td.modules.routing import routed_squares
from hf_td.ranking.batches import run_batch
from hf_td.ranking.saved import Saved

# Mean squares of inputs. Larger ones would overflow in what is computed from them.
ACTIVATIONS = Saved(
    "activations.safetensors",
    "activations",
    "_hf_td_activations",
    "activations",
    dims=1,
    least=0.0,
    most=2.0**100,
)
FILE = ACTIVATIONS.file

# One of this many updates is measured: averages change slowly, and on a GPU the launch overhead of
# a layer's sum is about that of the layer.
INTERVAL = 8
# The decay of the moving averages, about ten measured updates: the mask of an update changes its
# activations, so a single one is not enough.
_DECAY = 0.9
# One of this many rows is measured: neighbouring rows are similar. A step that divides the length
# of the sequences would measure the same positions of each, among them the first, whose activations
# are often far larger than the rest. A prime divides few lengths.
_ROW_STEP = 13


class Activations:
    """Mean squares of the inputs of linear layers, ones until a layer is measured.

    Updates do not wait for the device.

    Attributes:
        mean_squares: by dotted name of the layer, tensors of shape `(fan_in,)`, float32.
        measured: by dotted name, scalar boolean tensors: False until a row was measured.
    """

    def __init__(self, mean_squares: Mapping[str, Tensor] | None = None) -> None:
        self.mean_squares = dict(mean_squares or {})
        self.measured = {n: torch.ones_like(s[0]).bool() for n, s in self.mean_squares.items()}

    def scale(self, name: str, features: int) -> Tensor | None:
        """Return the root mean square of each input of a layer; None if it was not measured.

        Args:
            name: dotted name of the layer.
            features: the number of its inputs; for a router, of its experts.

        Returns:
            `(features,)`.

        Raises:
            ValueError: another number of features was measured.
        """
        found = self.mean_squares.get(name)
        if found is None:
            return None
        if found.numel() != features:
            raise ValueError(
                f"The activations of {name} are of {found.numel()} features, and it has {features}."
                " They were measured on another model, or before features were taken out of this "
                "one. Measure them again by calibration=..."
            )
        return found.sqrt()

    def update(self, seen: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Add the sums of one update to the moving averages.

        Args:
            seen: by the names of layers, the sum of the squared inputs, `(fan_in,)`, and the number
                of summed rows, a scalar tensor. A layer with 0 rows, or with a sum that is not
                finite, keeps its average.
        """
        by_device: dict[torch.device, list[str]] = {}
        for name, (squares, _) in seen.items():
            by_device.setdefault(squares.device, []).append(name)
        for device, names in by_device.items():
            self._update(device, names, *zip(*(seen[name] for name in names), strict=True))

    def _update(self, device: torch.device, names: Sequence[str], squares: Any, rows: Any) -> None:
        """Update the averages of all layers on a device, concatenated to save launches."""
        sizes = [len(one) for one in squares]

        def per_feature(numbers: Iterable[Tensor]) -> Tensor:
            return torch.cat([n.expand(size) for n, size in zip(numbers, sizes, strict=True)])

        never = torch.zeros((), dtype=torch.bool, device=device)
        measured = [self.measured.get(name, never).to(device) for name in names]
        known = [
            self.mean_squares.get(name, torch.ones_like(one)).to(device)
            for name, one in zip(names, squares, strict=True)
        ]
        finite = torch.stack([one.isfinite().all() for one in squares])
        seen = finite & (torch.stack(rows) > 0)
        before = torch.cat(known)
        mean = torch.cat(squares) / per_feature(rows).clamp(min=1)
        average = torch.where(per_feature(measured), before.lerp(mean, 1 - _DECAY), mean)
        average = torch.where(per_feature(seen.unbind()), average, before)
        now_measured = torch.stack(measured) | seen
        self.measured.update(zip(names, now_measured.unbind(), strict=True))
        self.mean_squares.update(zip(names, average.split(sizes), strict=True))

    def replace_by(self, other: Activations) -> None:
        """Replace these averages by those of `other`, in place."""
        self.mean_squares, self.measured = dict(other.mean_squares), dict(other.measured)

    def names(self) -> set[str]:
        """Return the names of the measured layers."""
        return {name for name, measured in self.measured.items() if measured}

    def save(self, folder: str | Path) -> None:
        """Write the measured layers to `FILE` in an existing folder; no file if there are none."""
        ACTIVATIONS.save(folder, {name: self.mean_squares[name] for name in self.names()})

    @classmethod
    def load(cls, folder: str | Path) -> Activations | None:
        """Return the activations that `save` wrote to a folder; None if it has no such file.

        Raises:
            ValueError: the file is damaged, or not of activations.
        """
        path = Path(folder) / FILE
        return cls(ACTIVATIONS.read(path)) if path.is_file() else None


def sampled_rows(inputs: Tensor, process: int = 0) -> Tensor:
    """Return every thirteenth row of inputs `(..., features)`, `(rows, features)`, detached.

    Several processes sample every thirteenth row of all their rows together, as one process would,
    if each has as many.

    The rows of this process follow those of processes with lower numbers.
    """
    rows = inputs.detach().reshape(-1, inputs.shape[-1])
    return rows[-process * len(rows) % _ROW_STEP :: _ROW_STEP]


def sampled_squares(inputs: Tensor, process: int = 0) -> tuple[Tensor, int]:
    """Return the sum of squares of the sampled rows, and their number.

    Args:
        inputs: `(..., fan_in)`.
        process: number of this process.

    Returns:
        A float32 tensor `(fan_in,)`, and the number of rows.
    """
    rows = sampled_rows(inputs, process)
    if rows.dtype == torch.float64:
        rows = rows.float()  # vector_norm refuses a dtype narrower than its input's
    return torch.linalg.vector_norm(rows, dim=0, dtype=torch.float32).square(), rows.shape[0]


def sampled_changes(
    before: Tensor, after: Tensor, place: int, layers: int, process: int = 0
) -> tuple[Tensor, int]:
    """Return how much one layer of a stack changes the sampled rows of hidden states.

    A row changes by one minus the cosine between its values before and after. Sums are times the
    number of layers, since every layer counts its rows: the mean over all rows is that of a layer.

    Args:
        before: the hidden states of the layer's input, `(..., hidden)`.
        after: those of its output.
        place: index of the layer in its stack.
        layers: number of layers in the stack.
        process: number of this process.

    Returns:
        A float32 tensor `(layers,)`, zero but at the layer, and the number of rows.
    """
    rows, others = (sampled_rows(hidden, process).float() for hidden in (before, after))
    changes = (1 - torch.cosine_similarity(rows, others, dim=-1)).clamp(min=0)
    found = torch.zeros(layers, device=rows.device)
    found[place] = changes.sum() * layers
    return found, len(rows)


def _squares(layer: Any, inputs: Tensor, output: Any) -> tuple[Tensor, int]:
    """Return the sum of squares and the number of rows, of a router's weights or of inputs."""
    if isinstance(output, tuple):
        return routed_squares(output, len(layer.weight))
    return sampled_squares(inputs)


@torch.no_grad()
def measure_activations(
    model: nn.Module, names: Iterable[str], batches: Iterable[Mapping[str, Any]]
) -> Activations:
    """Measure the inputs of the named layers while a model runs some batches in eval mode.

    Args:
        model: any model; its mode is restored afterwards.
        names: dotted names of linear layers, routers and stacks of layers that a forward calls.
        batches: keyword arguments for `model`: training data, never data of a reported metric.

    Raises:
        TypeError: a batch is no mapping.
        ValueError: there is no batch, the model does not run on one, or its forward calls none of
            the layers.
    """
    sums: dict[str, Tensor] = {}
    rows: dict[str, int] = {}

    def add(name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        total, count = _squares(layer, inputs[0], output)
        sums[name] = sums.get(name, 0) + total
        rows[name] = rows.get(name, 0) + count

    def add_change(
        name: str, place: int, layers: int, _: nn.Module, args: Any, kwargs: Any, output: Any
    ) -> None:
        before, after = hidden_in(args, kwargs), hidden_out(output)
        total, count = sampled_changes(before, after, place, layers)
        sums[name] = sums.get(name, 0) + total
        rows[name] = rows.get(name, 0) + count

    hooks = []
    for name in names:
        module = model.get_submodule(name)
        if not isinstance(module, nn.ModuleList):
            hooks.append(module.register_forward_hook(partial(add, name)))
            continue
        for place, layer in enumerate(module):
            see = partial(add_change, name, place, len(module))
            hooks.append(layer.register_forward_hook(see, with_kwargs=True))
    try:
        with evaluating(model):
            for batch in batches:
                run_batch(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    if not sums:
        raise ValueError(
            "calibration needs batches that run through the layers; there was none. "
            "Pass a few batches of training data as calibration=..."
        )
    return Activations({name: total / rows[name] for name, total in sums.items()})


def attach_activations(model: nn.Module, activations: Activations | None) -> None:
    """Attach activations to a model, whose saves then write them.

    None marks those of an earlier training as stale.
    """
    ACTIVATIONS.attach(model, activations, save_activations)


def load_activations(model: nn.Module, folder: str | Path) -> None:
    """Attach the activations that were saved in a folder to a model that does not find them.

    Raises:
        FileNotFoundError: the folder has none.
        ValueError: the file is damaged, or not of activations.
    """
    attach_activations(model, Activations(ACTIVATIONS.load(Path(folder) / FILE, model)))


def find_activations(model: nn.Module) -> Activations | None:
    """Return the activations of a model, found by the rule of `hf_td.ranking.saved`, or None.

    Raises:
        ValueError: the file is damaged, or not of activations.
    """
    attached = ACTIVATIONS.attached(model)
    if attached is not None:
        return attached[0]
    found = ACTIVATIONS.find(model)
    return None if found is None else Activations(found)


def download_activations(model: nn.Module, **options: Any) -> Activations | None:
    """Return the activations in a model's repository on the Hub, or None; see `Saved.download`.

    The Hub is asked only if the model's config records a training by activation.
    """
    training = trained_with(model)
    if training is None or training.importance != "activation":
        return None
    found = ACTIVATIONS.download(model, **options)
    return None if found is None else Activations(found)


def save_activations(model: nn.Module, folder: str | Path) -> None:
    """Write a model's activations to an existing folder; no file if it has none."""
    found = find_activations(model)
    if found is not None:
        found.save(folder)
