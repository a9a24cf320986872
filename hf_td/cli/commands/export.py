"""Declares `hf-td export`."""

from __future__ import annotations

from hf_td.cli.answers import give
from hf_td.cli.options import (
    AsJson,
    ExampleInputs,
    Form,
    KeepHeadsStock,
    Model,
    MultipleOf,
    Output,
    Overwrite,
    TrustRemoteCode,
    examples,
)
from hf_td.hub.forms import AUTO

EPILOG = examples(
    "hf-td export small padded --form padded", "hf-td export small graph --form onnx --overwrite"
)


def export(
    model: Model,
    output: Output,
    form: Form = AUTO,
    keep_heads_stock: KeepHeadsStock = False,
    multiple_of: MultipleOf = 8,
    overwrite: Overwrite = False,
    example_inputs: ExampleInputs = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Write a pruned model, masked or compact, in a form that loads elsewhere.

    The export is loaded again and its outputs are compared before it is kept.
    """
    from hf_td.cli.exporting import write_export

    give(
        lambda: write_export(
            model,
            output,
            form=form,
            keep_heads_stock=keep_heads_stock,
            multiple_of=multiple_of,
            overwrite=overwrite,
            example_inputs=example_inputs,
            trust_remote_code=trust_remote_code,
        ),
        as_json=as_json,
    )
