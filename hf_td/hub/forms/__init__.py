"""The forms in which a model can be exported.

A form is one file in this folder, with an object `FORM`, and one row here. All that offers forms
reads this registry: `export_model`, the command line, the arguments of the scripts, model cards and
`push_to_hub`. A form's file is imported when the form is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from hf_td.hub.forms.form import Form

# The name that stands for the first automatic form that can hold a model.
AUTO = "auto"
# The forms that keep all heads on request.
KEEPING = (AUTO, "stock")


class Row(NamedTuple):
    """A registered form.

    Attributes:
        help: what the result is and what loads it, in one line.
        module: name of the module that has the form as `FORM`.
        automatic: True for a form that `auto` tries, in the order of the registry.
    """

    help: str
    module: str
    automatic: bool = False


FORMS: dict[str, Row] = {
    "stock": Row(
        "uniform widths, in the fields of the stock config; loads with transformers alone",
        "hf_td.hub.forms.stock",
        automatic=True,
    ),
    "compact": Row(
        "any widths; loads after `import hf_td`, or without it by trust_remote_code=True",
        "hf_td.hub.forms.compact",
        automatic=True,
    ),
    "padded": Row(
        "zeros up to what a stock config can say; loads with transformers alone",
        "hf_td.hub.forms.padded",
    ),
    "archive": Row(
        "all weights, compressed without loss; for weight level, loads by load_archived_model",
        "hf_td.hub.forms.archive",
    ),
    "onnx": Row(
        "the graph of the compact model, for engines that read ONNX; needs the extra `onnx`",
        "hf_td.hub.forms.onnx",
    ),
    "gguf": Row(
        "a Llama or Mistral of any widths for llama.cpp; needs the extra `gguf`",
        "hf_td.hub.forms.gguf",
    ),
}


def form_choices() -> list[str]:
    """Return the names to choose a form by."""
    return [AUTO, *FORMS]


def forms_help() -> str:
    """Return all forms and their help, in one line."""
    automatic = ", else ".join(name for name, row in FORMS.items() if row.automatic)
    rows = [f"{AUTO} ({automatic})", *(f"{name} ({row.help})" for name, row in FORMS.items())]
    return f"form of the export: {', '.join(rows)}"


def load_form(name: str) -> Form:
    """Return a registered form."""
    return importlib.import_module(FORMS[name].module).FORM


def check_form(name: str, model: Any = None, *, keep_heads_stock: bool = False) -> None:
    """Raise unless a form is known, holds the model, and its packages are installed.

    Args:
        name: of the form.
        model: that will be exported; None where it is not loaded yet.
        keep_heads_stock: True if all heads are to stay where a stock config cannot say fewer.

    Raises:
        ImportError: a package is missing; the message names the extra.
        ValueError: there is no such form, it holds no such model, or it does not keep heads on
            request.
    """
    if name not in form_choices():
        raise ValueError(f"form must be one of {form_choices()}, got {name!r}")
    if keep_heads_stock and name not in KEEPING:
        raise ValueError(
            f"keep_heads_stock=True (--keep-heads-stock) has no effect on the form {name!r}. It is "
            f"for the forms {' and '.join(KEEPING)}. Leave one of them out"
        )
    if name != AUTO:
        form = load_form(name)
        if model is not None:
            form.check_model(model)  # first: no package helps against a refusal
        form.check_installed()
