"""Finds the head of a model, and gives a student that of its teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hf_td.anatomy.inputs import probe_inputs
from hf_td.anatomy.trace import evaluating
from hf_td.training.distillation.student import configs_of


def head_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters between the last hidden state and the outputs, by name.

    Gradients tell: the outputs depend on them, and the last hidden state does not. A pooler is
    part of the head.

    Args:
        model: a model that can return its hidden states.

    Raises:
        ValueError: no input that can be made runs, or there are no such parameters.
    """
    known = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with evaluating(model), torch.enable_grad():
        outputs = model(**probe_inputs(model), output_hidden_states=True)
        states = next((outputs[kind] for kind in _STATES if kind in outputs), None)
        if not states:
            raise ValueError(
                f"{type(model).__name__} returns no hidden states that tell its head from its "
                "body. Give another preset, or set distill_freeze_head to False"
            )
        last = states[-1]
        ends = [v for name, v in outputs.items() if name.endswith("logits") and v.requires_grad]
        below = _reached(last, list(known.values()))
        above = [_reached(end, list(known.values())) for end in ends]
    head = {
        name: parameter
        for i, (name, parameter) in enumerate(known.items())
        if not below[i] and any(reached[i] for reached in above)
    }
    if not head:
        raise ValueError(
            f"{type(model).__name__} has no trainable parameters of its own above the last hidden "
            "state: they are frozen, or shared with the embeddings. Set distill_freeze_head to "
            "False"
        )
    return head


_STATES = ("decoder_hidden_states", "hidden_states")


def _reached(output: Tensor, parameters: list[nn.Parameter]) -> list[bool]:
    gradients = torch.autograd.grad(
        output.float().sum(), parameters, retain_graph=True, allow_unused=True
    )
    return [gradient is not None for gradient in gradients]


def adopt_head(student: nn.Module, teacher: nn.Module) -> list[nn.Parameter]:
    """Copy the teacher's head into the student, and freeze it.

    Returns:
        The parameters of the head. Set their `requires_grad` to train them again.

    Raises:
        ValueError: the student has no head of its own, or the teacher's has other shapes.
    """
    head = head_parameters(student)
    theirs = dict(teacher.named_parameters())
    _check_fits(head, theirs)
    for name, parameter in head.items():
        with torch.no_grad():
            parameter.copy_(theirs[name])
        parameter.requires_grad_(False)
    return list(head.values())


def _check_fits(head: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    for name, parameter in head.items():
        ours, found = tuple(parameter.shape), theirs.get(name)
        if found is None or tuple(found.shape) != ours:
            there = "has none" if found is None else f"has {tuple(found.shape)}"
            raise ValueError(
                f"the student cannot take the teacher's head: {name} is {ours}, and the teacher "
                f"{there}. Give a teacher of the same width, or set distill_freeze_head to False"
            )


@contextmanager
def eager_attention(*models: Any) -> Iterator[None]:
    """Make models return their attention maps, which only their eager attention does.

    Restored on exit.

    Raises:
        ValueError: a model has no eager attention.
    """
    # Parts of a model can have implementations of their own, and some only one.
    known = {id(config): config for model in models for config in configs_of(model)}
    before = [(config, config._attn_implementation_internal) for config in known.values()]
    try:
        for model in models:
            model.set_attn_implementation("eager")
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation_internal = implementation
