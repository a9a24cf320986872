"""Writes a pruned model in the form that loads most widely, and proves that it loads."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch.nn.utils.parametrize import is_parametrized
from transformers import PreTrainedModel

from hf_td.anatomy import Anatomy, in_own_type, linear_layers
from hf_td.anatomy.given import anatomy_of
from hf_td.anatomy.replaced import check_not_fully_sharded
from hf_td.compaction import check_multiple, cut_model, needed_units, take_out_layers
from hf_td.files import check_free, folder_bytes, whole_folder, write_text
from hf_td.hub.card.info import CardInfo
from hf_td.hub.card.removal import Removal, count_removal
from hf_td.hub.card.text import no_smaller
from hf_td.hub.card.writing import METRICS, ExportFacts, write_card
from hf_td.hub.forms import AUTO, FORMS, check_form, load_form
from hf_td.hub.forms.form import Form, Plan, Refusal, Source
from hf_td.hub.sentences import (
    check_sentence_way,
    encoder_of,
    loader_in,
    loads_sentences,
    processor_of,
    sentence_way,
    write_modules,
)
from hf_td.patching.patch import find_patch, unpatch_model
from hf_td.ranking.source import keep_unsaved


@dataclass(frozen=True)
class Export:
    """A finished export.

    Attributes:
        folder: that holds it.
        form: a name in `hf_td.hub.forms.FORMS`.
        reason: why this form.
        parameters: number of parameters of the exported model.
        bytes: size of all files.
        ways: the ways in which it was loaded again and compared.
        notes: sentences for its user: that it is no smaller, or what would make it stock.
    """

    folder: Path
    form: str
    reason: str
    parameters: int
    bytes: int
    ways: tuple[str, ...]
    notes: tuple[str, ...] = ()


def export_model(
    model: Any,
    folder: str | Path,
    *,
    form: str = AUTO,
    keep_heads_stock: bool = False,
    multiple_of: int = 8,
    processing_class: Any = None,
    modules_from: str | Path | None = None,
    metrics: Mapping[str, Any] | None = None,
    card: CardInfo | None = None,
    overwrite: bool = False,
    check: bool = True,
    anatomy: Anatomy | None = None,
    example_inputs: Mapping[str, Any] | None = None,
) -> Export:
    """Write a pruned model as a folder that loads again.

    Args:
        model: a `PreTrainedModel`, pruned (masked) or compact already; it is not changed. Or a
            SentenceTransformer with such an encoder, whose other modules are written too.
        folder: the folder to write, as a whole or not at all.
        form: a name in `hf_td.hub.forms.FORMS`, which says what each form is. `stock` needs nothing
            but transformers; `compact` has uneven widths and loads after `import hf_td`, or without
            it by `trust_remote_code=True`. `auto` is stock where that loses nothing, else compact.
        keep_heads_stock: with `stock` and `auto`, keep all heads (pruned ones as zeros) where the
            stock config cannot express fewer, and take only neurons out.
        multiple_of: feed-forward widths are rounded up to a multiple of it.
        processing_class: tokenizer, processor, image processor or feature extractor to save along.
        modules_from: of an encoder alone, the folder of the SentenceTransformer that it is from,
            whose other modules (pooling and such) are copied.
        metrics: written to metrics.json.
        card: facts for the model card, beside those that the model itself shows.
        overwrite: replace a folder that holds something.
        check: load the export in a fresh process, in every way it promises, and compare.
        anatomy: what `read_anatomy(model)` returned; None reads the model.
        example_inputs: what `model(**example_inputs)` takes: keyword arguments of one forward.
            They are needed only where none that can be made runs.

    Raises:
        FileExistsError: the folder holds something and `overwrite` is False.
        ImportError: the form needs a package that is not installed.
        TypeError: the model is no `PreTrainedModel`, or FSDP2 has sharded it.
        ValueError: the form cannot hold this model (the message says which can); there is no such
            form; `modules_from` lists no modules, or is given beside a SentenceTransformer; the
            form has no use for `keep_heads_stock`; `multiple_of` is not positive; the metrics
            are no JSON; a weight is not finite; the anatomy is of another model; or a baseline or
            an adapter is attached.
        RuntimeError: the export did not load, or computed something else; nothing was written.
    """
    check_free(Path(folder).absolute(), overwrite=overwrite)
    check_multiple(multiple_of)
    written = None if metrics is None else _json_of(metrics)
    check_form(form, model, keep_heads_stock=keep_heads_stock)
    whole, model = model, encoder_of(model)
    cut = cut_to_form(
        model,
        form=form,
        keep_heads_stock=keep_heads_stock,
        multiple_of=multiple_of,
        check=check,
        anatomy=anatomy,
        example_inputs=example_inputs,
    )
    shell, chosen, removal = cut.model, load_form(cut.form), cut.removal
    with whole_folder(folder, overwrite=overwrite) as temporary:
        has_modules = write_modules(whole, modules_from, temporary)
        if processing_class is not None:  # first: a form may write it into its own file
            processing_class.save_pretrained(temporary)
        chosen.write(shell, temporary, example_inputs)
        if written is not None:
            write_text(temporary / METRICS, f"{written}\n")
        facts = ExportFacts(
            name=Path(folder).absolute().name,
            form=chosen,
            removal=removal,
            processing_class=processing_class or processor_of(whole),
            sentence_class=loader_in(temporary) if has_modules else None,
        )
        write_card(temporary, shell, card, facts)
        ways = _verified(chosen, model, shell, temporary, example_inputs) if check else ()
        if check and facts.sentence_class is not None and loads_sentences(chosen, shell):
            way = sentence_way(shell, facts.sentence_class)
            ways += check_sentence_way(model, temporary, way, example_inputs)
    return Export(
        folder=Path(folder),
        form=cut.form,
        reason=cut.reason,
        parameters=shell.num_parameters(),
        bytes=folder_bytes(folder),
        ways=ways,
        notes=tuple(filter(None, [no_smaller(removal, shell.num_parameters(), chosen), cut.hint])),
    )


def _verified(
    form: Form, model: Any, shell: Any, folder: Path, inputs: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """Return the ways in which an export loads; as `Form.verify`, before it is kept."""
    try:
        return form.verify(model, shell, folder, inputs)
    except RuntimeError as error:
        raise RuntimeError(f"nothing was written: {error}") from error


@dataclass(frozen=True)
class CutCopy:
    """A copy of a pruned model with the widths of its export.

    Attributes:
        model: the copy; it shares what was not cut with the pruned model.
        form: a name in `hf_td.hub.forms.FORMS`.
        reason: why this form.
        removal: counts of what pruning removed.
        hint: a sentence on what would make it stock, or None.
    """

    model: Any
    form: str
    reason: str
    removal: Removal
    hint: str | None


def cut_to_form(
    model: Any,
    *,
    form: str = AUTO,
    keep_heads_stock: bool = False,
    multiple_of: int = 8,
    check: bool = True,
    anatomy: Anatomy | None = None,
    example_inputs: Mapping[str, Any] | None = None,
) -> CutCopy:
    """Return the model that `export_model` writes, given the same arguments.

    Raises:
        TypeError, ValueError: as for `export_model`.
    """
    _check_plain(model)
    shell = shell_of(model)
    anatomy = anatomy_of(shell, anatomy, example_inputs)
    removal = count_removal(shell, anatomy.holders)  # before it is cut
    if take_out_layers(shell, check=check, example_inputs=example_inputs) is not None:
        anatomy = anatomy_of(shell, None, example_inputs)
    needed = needed_units(shell, anatomy, multiple_of, example_inputs)
    source = Source(model=shell, anatomy=anatomy, needed=needed, keep_heads_stock=keep_heads_stock)
    name, plan, reason = choose_form(form, source)
    hint = stock_hint(source) if form == AUTO and name != "stock" else None
    _cut(source, plan, example_inputs, check=check)
    return CutCopy(shell, name, reason, removal, hint)


def _json_of(metrics: Mapping[str, Any]) -> str:
    try:
        return json.dumps(metrics, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"metrics cannot be written as JSON: {error}. Expected are texts and finite numbers of "
            "Python, and lists and mappings of them. Convert tensors by float(), and leave out "
            "what is not finite"
        ) from error


def _check_plain(model: Any) -> None:
    """Raise for anything that was added to a model and that no checkpoint of it can hold."""
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            "export_model writes what from_pretrained loads, so it takes a PreTrainedModel, got "
            f"{type(model).__name__}; of a model with adapters export what merge_and_unload() gives"
        )
    check_not_fully_sharded(model)
    computed = [name for name, layer in linear_layers(model).items() if is_parametrized(layer)]
    if computed:
        raise ValueError(
            f"the weight of {computed[0]} is computed, as under a baseline or any other "
            "parametrization; call finish_baseline, or remove the parametrization, first"
        )
    adapted = [name for name, module in model.named_modules() if hasattr(module, "base_layer")]
    if adapted:
        raise ValueError(f"{adapted[0]} has an adapter; merge it into the model, and export that")


def shell_of(model: Any) -> Any:
    """Return a copy that shares every tensor with the model: cutting it leaves the model alone."""
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    with in_own_type(model):
        shell = copy.deepcopy(model, shared)
    keep_unsaved(shell)
    return unpatch_model(shell) if find_patch(shell) is not None else shell


def choose_form(form: str, source: Source) -> tuple[str, Plan, str]:
    """Return the name of a form, its plan, and the reason for the form.

    Raises:
        ValueError: the form, or under `auto` every automatic form, cannot hold the model.
    """
    if form != AUTO:
        plan = _plan_as_asked(load_form(form), source)
        exception = f", with {plan.exception}" if plan.exception else ""
        return form, plan, f"it was asked for{exception}"
    reason = ""
    for name in [name for name, row in FORMS.items() if row.automatic]:
        try:
            plan = load_form(name).plan(source)
        except Refusal as refusal:
            reason = refusal.reason
        else:
            return name, plan, reason or plan.reason
    raise ValueError(f"no form can hold this model: {reason}")


def _plan_as_asked(form: Form, source: Source) -> Plan:
    """Return the plan of a form; its refusal says how to get a model that it can hold."""
    try:
        return form.plan(source)
    except Refusal as refusal:
        cure = form.cure(source)
        raise Refusal(f"{refusal}. {cure}" if cure else str(refusal), refusal.reason) from refusal


def stock_hint(source: Source) -> str | None:
    """Return the sentence about kept heads, if the model would be stock with all its heads."""
    try:
        load_form("stock").plan(replace(source, keep_heads_stock=True))
    except Refusal:
        return None
    return (
        "A stock config cannot express its heads. With keep_heads_stock=True (--keep-heads-stock) "
        "all heads stay, pruned ones as zeros, and it loads by transformers alone."
    )


def _cut(
    source: Source, plan: Plan, example_inputs: Mapping[str, Any] | None, *, check: bool
) -> None:
    """Cut the model as planned, and give it the planned config."""
    shell = source.model
    units = {holder: count for holder, count in plan.units.items() if holder.obstacle is None}
    if any(count < holder.units for holder, count in units.items()):
        inputs = example_inputs if check else None
        cut_model(shell, source.anatomy, units, check=check, example_inputs=inputs)
    if plan.config is not None:
        shell.config = plan.config
        shell.config.architectures = [type(shell).__name__]
