"""The token ids that the configs and modules of a model hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from transformers import PreTrainedModel

# Settings with one id, or a list of ids any of which can be meant: `eos_token_id`,
# `image_token_index`.
_ENDINGS = ("_token_id", "_token_index", "_token_ids")
# Tokens of the text under other names. Others that end in `_id` count languages, layers or codes of
# sound: `lang_id`, `insert_layer_id`, `codec_bos_id`.
_NAMES = frozenset(
    [
        *("bos_index", "eos_index", "pad_index", "unk_index", "mask_index"),  # XLM, FlauBERT
        "image_patch_id",  # Molmo 2
        *("image_start_id", "image_end_id", "slice_start_id", "slice_end_id", "newline_id"),
        *("im_start_id", "im_end_id", "im_newline_id"),  # HunYuan-VL; above, MiniCPM-V
        *("text_bos_token", "text_eos_token", "text_pad_token"),  # copies in Qwen2.5-Omni
    ]
)
# Names to ids, as multilingual models have.
_TABLES = ("lang_to_id", "task_to_id")
# Lists of ids that generation avoids.
_AVOIDED = ("suppress_tokens", "begin_suppress_tokens")


def named_ids(model: PreTrainedModel, size: int) -> set[int]:
    """Return the ids below `size` that the configs and modules of a model name."""
    named = [i for config in _configs(model) for i in _ids(config)]
    named += [i for module in model.modules() for i in _own_ids(module).values()]
    return {i for i in named if 0 <= i < size}


def renumber(model: PreTrainedModel, new_ids: Mapping[int, int]) -> None:
    """Change the ids in the configs and modules of a model, in place.

    Args:
        model: the model.
        new_ids: old to new id of each kept token, among them those of `named_ids`.
    """
    for module in model.modules():
        for name, value in _own_ids(module).items():
            vars(module)[name] = new_ids.get(value, value)
    for config in _configs(model):
        for name, value in list(vars(config).items()):
            if _names_tokens(name) or name in _TABLES:
                setattr(config, name, _mapped(value, lambda i: new_ids.get(i, i)))
            elif name in _AVOIDED and value:
                setattr(config, name, [new_ids[i] for i in value if i in new_ids])
            elif name == "forced_decoder_ids" and value:
                setattr(config, name, [[at, new_ids.get(i, i)] for at, i in value])
            elif name == "bad_words_ids" and value:
                kept = [words for words in value if all(i in new_ids for i in words)]
                setattr(config, name, _mapped(kept, new_ids.__getitem__) or None)
            elif name == "force_words_ids" and value:
                setattr(config, name, _mapped(value, lambda i: new_ids.get(i, i)))
            elif name == "sequence_bias" and value:
                setattr(config, name, _biased(value, new_ids) or None)


def _names_tokens(name: str) -> bool:
    return name.endswith(_ENDINGS) or name in _NAMES


def _biased(biases: Any, new_ids: Mapping[int, int]) -> Any:
    """Return biases of sequences of ids, a list or a mapping, without those that cannot come."""
    pairs = biases.items() if isinstance(biases, Mapping) else biases
    kept = [(ids, bias) for ids, bias in pairs if all(i in new_ids for i in ids)]
    if isinstance(biases, Mapping):
        return {tuple(new_ids[i] for i in ids): bias for ids, bias in kept}
    return [[[new_ids[i] for i in ids], bias] for ids, bias in kept]


def _own_ids(module: Any) -> dict[str, int]:
    """Return the ids that a module has copied from its config, by name."""
    own = {name: value for name, value in vars(module).items() if _names_tokens(name)}
    return {name: i for name, i in own.items() if type(i) is int}


def _configs(model: PreTrainedModel) -> Iterator[Any]:
    """Yield the config of a model, those inside it, and that of its generation."""
    waiting: list[Any] = [model.config]
    while waiting:
        config = waiting.pop()
        yield config
        waiting += [getattr(config, name, None) for name in config.sub_configs]
        waiting = [one for one in waiting if hasattr(one, "sub_configs")]
    if getattr(model, "generation_config", None) is not None:
        yield model.generation_config


def _ids(config: Any) -> Iterator[int]:
    for name, value in vars(config).items():
        if _names_tokens(name) or name in _TABLES:
            yield from _numbers(value)
        elif name == "forced_decoder_ids":
            yield from (i for _, i in value or [] if i is not None)
        elif name == "force_words_ids":
            yield from _numbers(value or [])


def _numbers(value: Any) -> Iterator[int]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value


def _mapped(value: Any, change: Callable[[int], int]) -> Any:
    """Return a value with its integers changed, in lists and tables too."""
    if isinstance(value, Mapping):
        return {name: _mapped(one, change) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mapped(one, change) for one in value]
    return change(value) if isinstance(value, int) and not isinstance(value, bool) else value
