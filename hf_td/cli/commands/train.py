"""Declares `hf-td train`."""

from __future__ import annotations

import typer

from hf_td.cli.answers import give
from hf_td.cli.kinds import KINDS
from hf_td.cli.options import examples

_JSON = "--json"
_HELP = ("--help", "-h", "--help-all")

SETTINGS = {
    "allow_extra_args": True,
    "allow_interspersed_args": False,
    "ignore_unknown_options": True,
    "help_option_names": [],
}
EPILOG = examples(
    "hf-td train text --model_name_or_path MODEL --train_file reviews.csv --output_dir out",
    "hf-td train --model_name_or_path MODEL --train_file reviews.csv --output_dir out",
    "hf-td train text run.yaml",
    "hf-td train text --help",
)


# Blank lines keep the lines of the list apart.
HELP = "\n\n".join(
    [
        "Fine-tune with targeted dropout, and measure a metric at every sparsity.",
        "hf-td train [KIND] OPTIONS, or hf-td train [KIND] FILE with a .yaml or .json file of "
        "options. Without KIND the names of the options and the columns of the file tell it, where "
        "they can. hf-td train KIND --help lists the options, and --help-all those of the Trainer "
        "too. With --json the results alone are printed on stdout.",
        "Kinds:",
        *(f"{name}: {row.help}" for name, row in KINDS.items()),
    ]
)


def train(context: typer.Context) -> None:
    """Run `hf-td train`: its words go to the parser of the experiment as they are."""
    words = [word for word in context.args if word != _JSON]
    kind = words.pop(0) if words and words[0] in KINDS else None
    if kind is None and (not words or any(word in _HELP for word in words)):
        print(context.get_help())
        return
    from hf_td.cli.training import train as run

    give(lambda: run(kind, words), as_json=_JSON in context.args)
