"""Exports a pruned model in another form: `hf-td export`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_td.cli.answers import Answer
from hf_td.cli.loading import check_output, find_sentence_modules, load_model, load_processor
from hf_td.hub.export import Export, export_model
from hf_td.hub.forms import check_form
from hf_td.tasks.errors import blaming_input
from hf_td.tasks.example_inputs import read_example_inputs


def write_export(
    name: str,
    output: Path,
    *,
    form: str,
    keep_heads_stock: bool,
    multiple_of: int,
    overwrite: bool,
    example_inputs: Path | None,
    trust_remote_code: bool,
) -> Answer:
    """Export a model, and return what was written; the arguments are options of `hf-td export`.

    Raises:
        UsageError: an argument cannot work.
    """
    check_output(name, output, overwrite=overwrite)  # before the long work
    with blaming_input():
        check_form(form, keep_heads_stock=keep_heads_stock)
    model, source = load_model(name, trust_remote_code=trust_remote_code)
    processor = load_processor(source)
    with blaming_input():
        export = export_model(
            model,
            output,
            form=form,
            keep_heads_stock=keep_heads_stock,
            multiple_of=multiple_of,
            processing_class=processor,
            modules_from=find_sentence_modules(source),
            overwrite=overwrite,
            example_inputs=read_example_inputs(example_inputs, model),
        )
    return Answer(shown=export_lines(export), values=export_values(export))


def export_lines(export: Export) -> tuple[str, ...]:
    """Return the lines that describe an export."""
    size = f"{export.parameters:,} parameters, {export.bytes / 1e6:.1f} MB"
    return f"{export.folder}: {export.form} form ({export.reason}), {size}", *export.notes


def export_values(export: Export) -> dict[str, Any]:
    """Return an export as JSON values."""
    return asdict(export) | {"folder": str(export.folder)}
