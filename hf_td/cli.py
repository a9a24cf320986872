"""The command line, for models that are trained: look at one, prune one.

    hf-td inspect MODEL
    hf-td prune MODEL OUTPUT --sparsity 0.75 --level unit

MODEL is a folder, or an id on the Hub. Fine-tuning is what the scripts are for.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import transformers
import typer
from rich.console import Console
from rich.table import Table
from transformers import AutoProcessor

from hf_td import __version__
from hf_td.anatomy import Anatomy, Block, Holder, read_anatomy
from hf_td.anatomy.blocks import pattern_of
from hf_td.config import trained_with
from hf_td.files import check_free
from hf_td.hub.export import Export, export_model
from hf_td.hub.forms import AUTO, check_form, form_choices, forms_help
from hf_td.pruning import PruningReport, prune_model
from hf_td.ranking.activations import FILE as ACTIVATIONS
from hf_td.ranking.activations import find_activations
from hf_td.ranking.learned import FILE as SCORES
from hf_td.ranking.learned import find_learned
from hf_td.tasks.experiment import UsageError, run_program
from hf_td.tasks.experiment.arguments import ModelArguments
from hf_td.tasks.experiment.errors import blaming_input
from hf_td.tasks.experiment.models import ModelSource, find_model, reading_weights

_WIDEST = 1000
_NOTICED = 0.005  # a sparsity that misses the wanted one by more is explained
# Importance that is read from a file which a training leaves beside the weights.
_FILES = {"activation": (ACTIVATIONS, find_activations), "learned": (SCORES, find_learned)}

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"hf_td {__version__}")
        raise typer.Exit


Name = Annotated[str, typer.Argument(metavar="MODEL", help="a folder, or an id on the Hub")]
Trust = Annotated[
    bool, typer.Option("--trust-remote-code", help="run the code that the repository holds")
]


@app.callback()
def program(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="show the version"),
    ] = False,
) -> None:
    """Make Hugging Face Transformers small."""


@app.command()
def inspect(model: Name, trust_remote_code: Trust = False) -> None:
    """Show what of a model can be targeted and pruned, and at which level."""
    loaded, _ = _load(model, trust_remote_code)
    with blaming_input():
        anatomy = read_anatomy(loaded)
    # Into a file or another program it goes as wide as it is: names are there to be copied.
    console = Console(width=None if sys.stdout.isatty() else _WIDEST)
    console.print(_blocks_table(anatomy))
    for what, names in (("in no block", anatomy.unclaimed), ("never called", anatomy.uncalled)):
        if names:
            print(f"{what}: {', '.join(dict.fromkeys(map(pattern_of, names)))}")


@app.command()
def prune(
    model: Name,
    output: Annotated[Path, typer.Argument(help="the folder to write")],
    sparsity: Annotated[float, typer.Option(help="of the prunable weights, in [0, 1]")],
    level: Annotated[
        Literal["weight", "unit"] | None,
        typer.Option(help="single weights, or heads and neurons; by default as it was trained"),
    ] = None,
    importance: Annotated[
        Literal["magnitude", "activation", "learned", "random"] | None,
        typer.Option(
            help="what they are ranked by; by default as it was trained, for which what was "
            "measured or learned then has to lie beside the weights"
        ),
    ] = None,
    form: Annotated[
        str, typer.Option(help=forms_help(), metavar=f"[{'|'.join(form_choices())}]")
    ] = AUTO,
    budget: Annotated[
        Literal["uniform", "global"],
        typer.Option(help="the same fraction of every layer, or the lowest of all"),
    ] = "uniform",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace what is in the folder")
    ] = False,
    trust_remote_code: Trust = False,
) -> None:
    """Prune a model in one shot, take out what is gone, and write what is left.

    A model that targeted dropout has trained is ranked as it was while it trained, any other by
    magnitude. The export is loaded again and compared before it is kept.
    """
    with blaming_input():
        check_free(output.absolute(), overwrite=overwrite)  # before all the work
        check_form(form)
    loaded, source = _load(model, trust_remote_code)
    _check_measured(loaded, importance)
    processor = _load_processor(source)
    asked = {"level": level, "importance": importance}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    with blaming_input():
        anatomy = read_anatomy(loaded)
        report = prune_model(loaded, sparsity, budget=budget, anatomy=anatomy, **given)
        export = export_model(
            loaded,
            output,
            form=form,
            processing_class=processor,
            overwrite=overwrite,
            anatomy=anatomy,
        )
    print(
        f"{report.sparsity:.1%} of the prunable weights are gone, "
        f"{report.share_of_parameters:.1%} of all"
    )
    if report.sparsity < sparsity - _NOTICED:
        print(f"less than {sparsity:.1%}, for {_why_less(report, budget)}")
    print(_told(export))


def _check_measured(model: Any, importance: str | None) -> None:
    """Refuse an importance that a training has to tell and does not: there are no data here."""
    recorded = trained_with(model)
    wanted = importance or (recorded.importance if recorded else "magnitude")
    file, find = _FILES.get(wanted, ("", lambda _: True))
    if not find(model):
        raise UsageError(
            f"--importance {wanted} needs {file}, which a training by it leaves beside the "
            "weights; put it there, or give --importance magnitude"
        )


def _why_less(report: PruningReport, budget: str) -> str:
    """Why not as much is gone as was asked for."""
    if not any(block.removed for block in report.blocks):
        return "what goes of each row of weights is rounded down"
    if budget == "global":
        return "a global budget counts units, of which some have more weights than others"
    fewest = min(report.blocks, key=lambda block: block.total)
    return (
        "units go as a whole, and of each layer their number is rounded down: "
        f"{fewest.name} loses {fewest.removed} of {fewest.total}"
    )


def _load(name: str, trust_remote_code: bool) -> tuple[Any, ModelSource]:
    """A model of the class that it was saved as, in the type that it was saved in."""
    arguments = ModelArguments(model_name_or_path=name, trust_remote_code=trust_remote_code)
    source = find_model(arguments)
    config = source.load_config()
    cls = _class_of(name, config)
    if source.is_new:
        raise UsageError(f"{name} is an untrained model; give one that has weights")
    with reading_weights(source.model), blaming_input():
        return cls.from_pretrained(source.model, dtype="auto", **source.options), source


def _class_of(name: str, config: Any) -> Any:
    """The class of a model with its head: AutoModel would leave the head away without a word."""
    saved_as = config.architectures or []
    for known in saved_as:
        if hasattr(transformers, known):
            return getattr(transformers, known)
    for auto, path in (getattr(config, "auto_map", None) or {}).items():
        if path.rpartition(".")[2] in saved_as:
            return getattr(transformers, auto)
    raise UsageError(
        f"the config of {name} does not say by what class it was saved (architectures: "
        f'{config.architectures}): add it there, such as ["BertForSequenceClassification"]'
    )


def _load_processor(source: ModelSource) -> Any:
    """The processor, tokenizer or image processor, as it is; None, and a line, where none is."""
    try:
        return AutoProcessor.from_pretrained(source.tokenizer, **source.options)
    except (OSError, ValueError, ImportError) as error:
        print(f"no tokenizer or processor goes along: {str(error).strip().partition('. ')[0]}")
        return None


def _blocks_table(anatomy: Anatomy) -> Table:
    """A line for blocks that are alike but for their layer."""
    table = Table("block", "units", "layers", "projections", "levels", show_lines=True)
    seen = Counter(_row(holder) for holder in anatomy.holders)
    for (name, units, projections, levels), times in seen.items():
        table.add_row(name, units, str(times), projections, levels)
    return table


def _row(holder: Holder) -> tuple[str, str, str, str]:
    weights = ["weight"] if isinstance(holder, Block) else []
    levels = [*weights, *([] if holder.obstacle else ["unit"])]
    projections = "\n".join(_projections(holder)) if isinstance(holder, Block) else ""
    why = f" ({pattern_of(holder.obstacle)})" if holder.obstacle else ""
    return pattern_of(holder.name), _units(holder), projections, ", ".join(levels) + why


def _units(holder: Holder) -> str:
    """How many there are of what."""
    what = {"attention": "heads", "feed_forward": "neurons"}.get(holder.part, holder.part)
    sharing = _queries(holder) if isinstance(holder, Block) else 1
    if sharing > 1:
        return f"{holder.units:,} KV heads, each with {sharing} query heads"
    return f"{holder.units:,} {what}"


def _queries(block: Block) -> int:
    """How many heads of queries a unit has, where it has keys of its own."""
    sizes = {p.role: p.features.shape[1] for p in block.producers}
    return sizes["q"] // sizes["k"] if {"q", "k"} <= sizes.keys() else 1


def _projections(block: Block) -> Iterator[str]:
    """The last part of each layer's name, with what it is for."""
    for name in block.modules:
        roles = dict.fromkeys(p.role for p in block.projections if p.module == name)
        yield f"{name.rpartition('.')[2]} ({' '.join(roles)})"


def _told(export: Export) -> str:
    size = f"{export.parameters:,} parameters, {export.bytes / 1e6:.1f} MB"
    return f"{export.folder}: {export.form} form ({export.reason}), {size}"


def main() -> None:
    """The program `hf-td`."""
    run_program(app)


if __name__ == "__main__":
    main()
