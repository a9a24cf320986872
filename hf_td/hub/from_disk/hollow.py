"""Models without storage: they have the shapes and names of their weights, and can be read.

To read the anatomy of a model no weight of a linear layer is needed, only its shape. So a hollow
model has parameters that repeat one row in place of their values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.modeling_utils import local_torch_dtype

from hf_td.modules.compact_shapes import set_parameter
from hf_td.modules.stock_models import stock_class


def hollow_model(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Build the model of a config in eval mode, with hollow parameters and real buffers.

    Args:
        config: that names its class.
        dtype: of the parameters.

    Raises:
        ValueError: the config names no class of Transformers.
    """
    known: Any = stock_class(config.architectures)
    if known is None:
        names = config.architectures
        raise ValueError(
            f"The config names no class of Transformers (architectures: {names}). The class of the "
            'model is expected, such as ["LlamaForCausalLM"]. Add it to config.json'
        )
    with no_init_weights(), init_empty_weights(include_buffers=False), local_torch_dtype(dtype):
        model = known(config)
    for module in model.modules():
        for name, old in module._parameters.items():
            if old is not None:
                new = nn.Parameter(hollow(old.shape, old.dtype), requires_grad=old.requires_grad)
                module._parameters[name] = new
    model.tie_weights()
    return model.eval()


def hollow(shape: torch.Size | tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a tensor that stores a single row: random numbers, or ones for a vector."""
    if len(shape) < 2:
        return torch.ones((), dtype=dtype).expand(shape)
    row = torch.rand(shape[-1], generator=torch.Generator().manual_seed(0)) + 0.5
    return row.to(dtype).expand(shape)


@contextmanager
def filled(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Put values into some parameters of a hollow model; they are hollow again on exit."""
    before = {name: model.get_parameter(name) for name in tensors}
    for name, tensor in tensors.items():
        set_parameter(model, name, tensor)
    try:
        yield
    finally:
        for name, parameter in before.items():
            set_parameter(model, name, parameter)
