"""Trims the vocabulary of a model and exports it: `hf-td trim`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from hf_td.cli.answers import Answer
from hf_td.cli.exporting import export_lines, export_values
from hf_td.cli.loading import check_output, find_sentence_modules, load_model, load_processor
from hf_td.hub.export import export_model
from hf_td.tasks.data.files import read_file
from hf_td.tasks.data.splits import is_text
from hf_td.tasks.errors import UsageError, blaming_input
from hf_td.vocabulary import trim_vocabulary


def trim_and_export(
    name: str,
    output: Path,
    *,
    texts: Sequence[Path],
    keep: Sequence[str],
    min_count: int,
    overwrite: bool,
    trust_remote_code: bool,
) -> Answer:
    """Keep the tokens of texts, export the model and its tokenizer, and return what was removed.

    The arguments are the options of `hf-td trim`.

    Raises:
        UsageError: an argument cannot work.
    """
    check_output(name, output, overwrite=overwrite)  # before the long work
    model, source = load_model(name, trust_remote_code=trust_remote_code)
    processor = load_processor(source)
    tokenizer = getattr(processor, "tokenizer", processor)
    if tokenizer is None:
        raise UsageError(f"{name} has no tokenizer. Save the tokenizer of the model beside it")
    with blaming_input():
        smaller, report = trim_vocabulary(
            model, tokenizer, _texts(texts), keep, min_count=min_count
        )
        if processor is tokenizer:
            processor = smaller
        else:
            processor.tokenizer = smaller
        export = export_model(
            model,
            output,
            processing_class=processor,
            modules_from=find_sentence_modules(source),
            overwrite=overwrite,
        )
    export = replace(export, notes=())  # they say what pruning would give
    values = {"trimming": asdict(report), "export": export_values(export)}
    return Answer(shown=(str(report), *export_lines(export)), values=values)


def _texts(paths: Sequence[Path]) -> Iterator[str]:
    """Yield the texts in all columns of text of files."""
    for path in paths:
        rows = read_file(path)
        columns = [column for column, feature in rows.features.items() if is_text(feature)]
        if not columns:
            raise ValueError(f"{path} has no column of text, only {', '.join(rows.column_names)}")
        for row in rows.select_columns(columns):
            yield from (row[column] for column in columns if row[column])
