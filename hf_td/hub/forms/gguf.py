"""The form `gguf`: the compact model as a file of llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch.func import functional_call

from hf_td.anatomy import Holder, evaluating, in_own_type, probe_inputs
from hf_td.anatomy.comparing import compare_outputs
from hf_td.hub import llama_cpp
from hf_td.hub.forms.form import Form, Place, Plan, Refusal, Source, python_block
from hf_td.hub.verify import TOLERANCE
from hf_td.hub.way import Way

FILE = "model.gguf"
# llama.cpp quantises this many neighbours of a row together, and refuses rows of another length.
BLOCK = 32


class Gguf(Form):
    """One file with the weights and the tokenizer, and the config."""

    files = (FILE,)
    for_transformers = False

    def check_installed(self) -> None:
        """Raise ImportError unless the packages of the extra `gguf` are installed."""
        llama_cpp.check_packages()

    def check_model(self, model: Any) -> None:
        """Raise Refusal if llama.cpp has no layers of other widths for this model."""
        obstacle = llama_cpp.find_obstacle(model)
        if obstacle is not None:
            reason = f"llama.cpp runs no layers of different widths of this model: {obstacle}"
            raise Refusal(
                f"{reason}. Use form='stock' and the script of llama.cpp, or form='compact'", reason
            )

    def plan(self, source: Source) -> Plan:
        """Keep what is needed, in whole blocks of neurons where they are still there.

        Raises:
            Refusal: llama.cpp has no layers of other widths for this model.
        """
        self.check_model(source.model)
        return Plan(units={holder: _in_blocks(holder, n) for holder, n in source.needed.items()})

    def write(self, model: Any, folder: Path, example_inputs: Mapping[str, Any] | None) -> None:
        """Write the config, and the file with the tokenizer that the folder has."""
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        llama_cpp.write_gguf(model, folder / FILE, folder)

    def weights(self, folder: Path) -> list[Path]:
        """Return the file."""
        return [path for path in (folder / FILE,) if path.is_file()]

    def check_weights(self, file: Path) -> None:
        """Raise ValueError unless the file is whole."""
        llama_cpp.check_file(file)

    def ways(self, model: Any) -> tuple[Way, ...]:
        """Return llama.cpp, as cyllama has it."""
        loader = "LLM"
        call = f'{loader}(model_id + "/{FILE}")'
        return (Way(name="gguf", package="cyllama", loader=loader, call=call),)

    def verify(
        self, model: Any, exported: Any, folder: Path, example_inputs: Mapping[str, Any] | None
    ) -> tuple[str, ...]:
        """Compare PyTorch with the tensors of the file with the model; llama.cpp is not run."""
        inputs = dict(probe_inputs(model) if example_inputs is None else example_inputs)
        try:
            tensors = llama_cpp.read_tensors(folder / FILE)
            own = {
                n: t.to(exported.device, exported.get_parameter(n).dtype)
                for n, t in tensors.items()
            }
            with torch.no_grad(), evaluating(model), in_own_type(model):
                expected = model(**inputs)[0]
            with torch.no_grad(), evaluating(exported), in_own_type(exported):
                got = functional_call(exported, own, (), inputs)[0]
            compare_outputs("its output", expected, got, TOLERANCE)
        except ValueError as error:
            raise RuntimeError(f"{FILE} holds something else than the model: {error}") from error
        return tuple(way.name for way in self.ways(exported))

    def how_to_load(self, exported: Any, place: Place) -> str:
        """Return how a build of llama.cpp for Python opens the file."""
        (way,) = self.ways(exported)
        code = python_block(
            way.imports(),
            "",
            f'model_id = "{place.name}"  # a folder that holds it',
            f"model = {way.call}",
        )
        return (
            f"{code}\n\nIt needs llama.cpp, by cyllama or as `llama-cli -m {place.name}/{FILE}`, "
            "and no PyTorch."
        )


def _in_blocks(holder: Holder, count: int) -> int:
    """Return a number of units, rounded up to blocks where the units are neurons."""
    if holder.part != "feed_forward":
        return count
    return min(holder.units, ceil(count / BLOCK) * BLOCK)


FORM = Gguf()
