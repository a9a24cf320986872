"""Checks an export as those who download it would use it: `hf-td check`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_td.cli.answers import Answer
from hf_td.cli.loading import load_model
from hf_td.compaction import layout_of_model
from hf_td.hub.forms import FORMS, load_form
from hf_td.hub.own_code import check_own_loader
from hf_td.hub.push.finished import check_finished
from hf_td.tasks.errors import UsageError, blaming_input
from hf_td.tasks.example_inputs import read_example_inputs


def check_export(
    folder: Path, *, against: str | None, example_inputs: Path | None, trust_remote_code: bool
) -> Answer:
    """Return the ways in which an export loads and computes what is expected, or what is wrong.

    Args:
        folder: the export.
        against: folder or Hub id of a model that has to compute the same; None for the export
            itself, as this process loads it.
        example_inputs: file with inputs of one forward, or None.
        trust_remote_code: run the code in the repository of `against`, and code of the export
            that is not the file which hf_td writes.

    Raises:
        UsageError: there is no such folder, or `against` is no model.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder. Give the folder of an export.")
    expected = None
    if against is not None:
        expected, _ = load_model(against, trust_remote_code=trust_remote_code)
    try:
        form, ways = _loads(folder, expected, example_inputs, trusted=trust_remote_code)
    except (UsageError, ValueError, RuntimeError, OSError) as error:
        reason = str(error)
        if against is not None and isinstance(error, RuntimeError):
            reason += (
                f". If {against} is the model before pruning, its outputs are others: compare "
                "with another form of the pruned model"
            )
        values = {"folder": str(folder), "against": against, "ok": False, "reason": reason}
        return Answer(
            shown=(f"{folder} is not as it should be: {reason}",), values=values, met=False
        )
    shown = [f"{folder}: {form} form, loads and computes what is expected"]
    if against is not None:
        shown[0] = f"{folder}: {form} form, loads and computes what {against} computes"
    shown += [f"loaded in a fresh process: {', '.join(ways)}"]
    values = {"folder": str(folder), "against": against, "ok": True, "form": form, "ways": ways}
    return Answer(shown=tuple(shown), values=values)


def _loads(
    folder: Path, expected: Any, example_inputs: Path | None, *, trusted: bool
) -> tuple[str, list[str]]:
    """Return the form of an export and the ways in which it was loaded and compared.

    Raises:
        ValueError, OSError, UsageError: it is not finished, has code of its own that is not
            trusted, or this process cannot load it.
        RuntimeError: a fresh process cannot load it, or computes something else.
    """
    check_finished(folder)
    name = next(name for name in FORMS if load_form(name).weights(folder))
    loads = load_form(name).for_transformers
    if not loads and expected is None:
        raise UsageError(
            f"an export in the form {name} is compared with a model of PyTorch. Name it with "
            "--against."
        )
    model = _load(folder, name) if loads else expected
    if name == "stock" and layout_of_model(model) is not None:
        name = "compact"
    if name == "compact" and not trusted:
        check_own_loader(folder)
    expected = model if expected is None else expected
    with blaming_input():
        inputs = read_example_inputs(example_inputs, expected)
    return name, list(load_form(name).verify(expected, model, folder, inputs))


def _load(folder: Path, form: str) -> Any:
    if form == "archive":
        from hf_td.hub.forms.archive import load_archived_model  # by the extra `hub`

        return load_archived_model(folder)
    return load_model(str(folder), trust_remote_code=False)[0]
