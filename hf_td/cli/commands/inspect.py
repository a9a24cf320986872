"""Declares `hf-td inspect`."""

from __future__ import annotations

from hf_td.cli.answers import give
from hf_td.cli.options import AsJson, ExampleInputs, Model, TrustRemoteCode, examples

EPILOG = examples("hf-td inspect MODEL", "hf-td inspect MODEL --json")


def inspect(
    model: Model,
    example_inputs: ExampleInputs = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Print what is in a model, and what pruning would make of it.

    The blocks of the model with their units and the levels at which they can be pruned, how many
    parameters and bytes are prunable, what is left after 25, 50 and 75 % of the heads and neurons
    are taken out, and the forms in which that can be exported. Nothing is written.
    """
    from hf_td.cli.inspection import inspect_model

    give(
        lambda: inspect_model(
            model, example_inputs=example_inputs, trust_remote_code=trust_remote_code
        ),
        as_json=as_json,
    )
