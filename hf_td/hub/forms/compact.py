"""The form `compact`: any widths, listed in config.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_td.compaction import layout_of_model
from hf_td.hub import safetensors_files
from hf_td.hub.auto_classes import auto_class
from hf_td.hub.forms import stock
from hf_td.hub.forms.form import Form, Place, Plan, Source, loading_code, python_block
from hf_td.hub.way import Way
from hf_td.modules.compact_file import FILE


class Compact(Form):
    """A checkpoint that loads by hf_td's loader or by its own modeling file."""

    files = (*safetensors_files.PATTERNS, FILE)

    def plan(self, source: Source) -> Plan:
        """Keep what is needed: every width can be written."""
        return Plan(units=source.needed)

    def write(self, model: Any, folder: Path, example_inputs: Mapping[str, Any] | None) -> None:
        """Write what `save_pretrained` writes: the checkpoint and its modeling file."""
        model.save_pretrained(folder)

    def ways(self, model: Any) -> tuple[Way, ...]:
        """Return `from_pretrained` after `import hf_td`, and with `trust_remote_code`."""
        loader = auto_class(model)
        return (
            Way(
                name="hf_td",
                prelude="import hf_td  # knows how to load uneven widths",
                loader=loader,
                call=f"{loader}.from_pretrained(model_id)",
            ),
            Way(
                name="remote_code",
                loader=loader,
                call=f"{loader}.from_pretrained(model_id, trust_remote_code=True)",
                without_hf_td=True,
            ),
        )

    def how_to_load(self, exported: Any, place: Place) -> str:
        """Return both ways; a model from which nothing was cut is a stock model."""
        if layout_of_model(exported) is None:
            return stock.FORM.how_to_load(exported, place)
        by_hf_td, by_remote_code = self.ways(exported)
        return (
            f"{loading_code(by_hf_td, place)}\n\n"
            "Its layers have different widths, which no stock config can express. Without hf_td it "
            "loads by the modeling file that is saved next to the weights:\n\n"
            f"{python_block(f'model = {by_remote_code.call}')}\n\n"
            "With neither of the two, loading fails with an error."
        )


FORM = Compact()
