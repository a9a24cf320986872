"""Takes rows of the embeddings and of the logit layer out of a model."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_td.modules.unsharing import unshare_config
from hf_td.vocabulary.ids import renumber

# Below this id a padding token keeps its id, in case that positions are counted from it.
_FEW = 16


def embedding_rows(model: PreTrainedModel) -> int:
    """Return the number of rows of the input embeddings.

    Raises:
        ValueError: the model has no single embedding of tokens.
    """
    try:
        table = model.get_input_embeddings()
    except NotImplementedError:
        table = None
    if not isinstance(table, nn.Embedding):
        raise ValueError(
            f"{type(model).__name__} has no embeddings of tokens that could be trimmed. For a "
            "composite model, trim the part that reads the text"
        )
    return table.num_embeddings


def ids_that_stay(model: PreTrainedModel) -> range:
    """Return the ids that keep their numbers: those up to the padding that positions start from."""
    vocabulary = embedding_rows(model)
    paddings = [
        padding
        for module in model.modules()
        if (padding := _padding(module)) is not None
        and (padding < _FEW or _counts_from(module, padding, vocabulary))
    ]
    return range(max(paddings, default=-1) + 1)


@torch.no_grad()
def keep_rows(model: PreTrainedModel, kept: Sequence[int], new_ids: Mapping[int, int]) -> None:
    """Keep these rows of the embeddings, of the logit layer and of its bias, in place.

    The ids in the configs follow.

    Args:
        model: the model.
        kept: the ids to keep, ascending.
        new_ids: old to new id.

    Raises:
        ValueError: a tensor of the size of the vocabulary is not resized with the embeddings.
    """
    old_size = embedding_rows(model)
    _check_shapes(model, new_ids)
    unshare_config(model)
    paddings = {module: p for module in model.modules() if (p := _padding(module)) is not None}
    tables = {m: m.padding_idx for m in model.modules() if _is_table(m, old_size)}
    before: dict[str, Tensor] = model.state_dict()
    model.resize_token_embeddings(len(kept), mean_resizing=False)
    rows = torch.tensor(kept)
    for name, tensor in model.state_dict().items():
        old = before[name]
        for dim in range(tensor.dim()):
            if tensor.shape[dim] != old.shape[dim]:
                tensor.copy_(old.index_select(dim, rows.to(old.device)))
    for module, padding in {**tables, **paddings}.items():
        if padding is not None:
            vars(module)["padding_idx"] = new_ids.get(padding, padding)
    for module in model.modules():
        if vars(module).get("vocab_size") == old_size:
            vars(module)["vocab_size"] = len(kept)
    renumber(model, new_ids)


def _is_table(module: nn.Module, size: int) -> bool:
    return isinstance(module, nn.Embedding) and module.num_embeddings == size


def _padding(module: nn.Module) -> int | None:
    """Return the id of the padding that a module other than an embedding names."""
    padding = None if isinstance(module, nn.Embedding) else getattr(module, "padding_idx", None)
    return padding if isinstance(padding, int) and padding >= 0 else None


def _counts_from(module: nn.Module, padding: int, vocabulary: int) -> bool:
    """Return True if a module looks up positions that are counted from the padding.

    Its embeddings of positions have the same padding (RoBERTa), or it holds a table (M2M100).
    """
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    others = [
        one
        for one in module.children()
        if isinstance(one, nn.Embedding) and not _is_table(one, vocabulary)
    ]
    return any(one.padding_idx == padding for one in others) or any(t.dim() == 2 for t in own)


def _check_shapes(model: PreTrainedModel, new_ids: Mapping[int, int]) -> None:
    """Raise ValueError unless a model of the smaller config has the shapes of the resized one."""
    with torch.device("meta"):
        resized = type(model)._from_config(copy.deepcopy(model.config))
        resized.resize_token_embeddings(len(new_ids), mean_resizing=False)
        renumber(resized, new_ids)
        built = type(model)._from_config(copy.deepcopy(resized.config))
    for name, tensor in resized.state_dict().items():
        expected = built.state_dict()[name].shape
        if tensor.shape != expected:
            raise ValueError(
                f"{name} of {type(model).__name__} has the shape {tuple(tensor.shape)} after "
                f"resize_token_embeddings, where its config says {tuple(expected)}. The vocabulary "
                "of this model cannot be trimmed"
            )
