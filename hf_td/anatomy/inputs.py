"""Small inputs on which a model of the library can be run once.

The arguments follow from the signature of the forward and from the model's main input, their shapes
from the config. If several forms are possible (an image or a video, one text or two choices), the
first one that runs is used.

`example_inputs` always are keyword arguments of the whole model: what `model(**example_inputs)`
takes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from hf_td.anatomy.trace import Trace, trace

T = TypeVar("T")

# Long enough for attention to mix tokens, short enough to be fast.
PROBE_LENGTH = 8
# Patches on each side of an image that is given as patches, before any are merged.
_GRID = 4
_FRAMES = 128
_CURE = (
    "Pass example_inputs={...}, what model(**example_inputs) takes (--example-inputs FILE on the "
    "command line)."
)
_TOWERS = ("text_config", "vision_config", "audio_config", "encoder", "decoder")


def probe_inputs(model: nn.Module) -> dict[str, Any]:
    """Return keyword arguments on which one forward of `model` runs, a batch of one on its device.

    Raises:
        ValueError: no input that can be made runs.
    """
    return first_that_runs(model, lambda inputs: (trace(model, inputs), inputs)[1])


def first_that_runs(model: nn.Module, run: Callable[[dict[str, Any]], T]) -> T:
    """Return the result of `run` on the first example input on which it does not fail.

    Raises:
        ValueError: `run` fails on all inputs, or none can be made. Names the first failure.
    """
    failures: list[Exception] = []
    for inputs in _candidates(model):
        try:
            return run(inputs)
        except Exception as error:
            failures.append(error)
    refusal = f"cannot make an example input for {type(model).__name__}"
    if failures:
        why = f"On the first input that was tried, a forward failed: {failures[0]}"
        raise ValueError(f"{refusal}. {_CURE} {why}") from failures[0]
    raise ValueError(
        f"{refusal}: its main input is {_main_input(model)!r}, and the known ones are "
        f"{sorted(_MAKERS)}. {_CURE}"
    )


def check_given(example_inputs: Any) -> None:
    """Raise TypeError for example inputs that are neither a mapping nor None."""
    if not isinstance(example_inputs, Mapping | None):
        raise TypeError(
            "example_inputs are what model(**example_inputs) takes, a mapping such as "
            f"{{'input_ids': ...}}; got a {type(example_inputs).__name__}"
        )


def trace_given(model: nn.Module, example_inputs: Mapping[str, Any]) -> Trace:
    """Trace one forward of `model` on the example inputs of a user.

    Raises:
        ValueError: the forward fails.
    """
    try:
        return trace(model, example_inputs)
    except Exception as error:
        raise ValueError(
            f"{type(model).__name__} does not run on example_inputs: {error}. They have to be what "
            "model(**example_inputs) takes. Correct them, or leave them out."
        ) from error


def passed_to(
    part: nn.Module, model: nn.Module, example_inputs: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the keyword arguments that a forward of `model` passes to a part of it.

    Args:
        part: the model itself or a module in it; what it gets in its first call counts.
        model: the whole model.
        example_inputs: keyword arguments of its forward.

    Returns:
        None if the forward does not call the part.

    Raises:
        ValueError: the forward fails.
    """
    calls: list[dict[str, Any]] = []

    def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = inspect.signature(part.forward).parameters
        calls.append({**dict(zip(names, args, strict=False)), **kwargs})

    hook = part.register_forward_pre_hook(record, with_kwargs=True)
    try:
        trace_given(model, example_inputs)
    finally:
        hook.remove()
    return calls[0] if calls else None


def _main_input(model: nn.Module) -> Any:
    return getattr(model, "main_input_name", "input_ids")


def _candidates(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Yield example inputs, from the fewest arguments to the most, each in all of its forms."""
    if not hasattr(model, "config"):
        return
    accepted = inspect.signature(model.forward).parameters
    fixed = {"use_cache": False} if "use_cache" in accepted else {}
    for names in _wanted(model, accepted):
        forms = max((len(_MAKERS[name]) for name in names), default=0)
        for form in range(forms):
            makers = {n: _MAKERS[n][min(form, len(_MAKERS[n]) - 1)] for n in names}
            yield {**{name: make(model) for name, make in makers.items()}, **fixed}


def _wanted(model: Any, accepted: Mapping[str, inspect.Parameter]) -> Iterator[list[str]]:
    """Yield lists of arguments that a forward may run on and that can be made."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    required = [n for n, p in accepted.items() if p.default is p.empty and p.kind in named]
    anything = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    main = _main_input(model)
    least = dict.fromkeys(required)
    # A tower may inherit the main input of another model, which its own forward does not take.
    for name in [main] if isinstance(main, str) else main:
        if name in accepted or (anything and not required):
            least[name] = None
    if getattr(model.config, "is_encoder_decoder", False) and "decoder_input_ids" in accepted:
        least["decoder_input_ids"] = None
    seen = []
    for extra in ((), _MODALITIES, (*_MODALITIES, *_HELPERS), _HELPERS):
        names = [*least, *(n for n in extra if n in accepted and n not in least)]
        if names and names not in seen and all(name in _MAKERS for name in names):
            seen.append(names)
            yield names


def _config_value(model: Any, *names: str, default: Any = None) -> Any:
    """Return the first of these settings that the config of the model or of a tower has."""
    towers = [getattr(model.config, tower, None) for tower in _TOWERS]
    values = (getattr(c, name, None) for name in names for c in (model.config, *towers))
    return next((value for value in values if value is not None), default)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _dtype(model: nn.Module) -> torch.dtype:
    floating = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(floating, torch.float32)


def _noise(model: nn.Module, *shape: int) -> Tensor:
    noise = torch.rand(*shape, generator=torch.Generator().manual_seed(0))
    return noise.to(_device(model), _dtype(model))


def _token_ids(model: nn.Module) -> Tensor:
    vocabulary = _config_value(model, "vocab_size", default=32)
    # Distinct ids from the middle of the vocabulary: special tokens sit at its ends.
    ids = torch.arange(PROBE_LENGTH) + max(0, vocabulary // 2 - PROBE_LENGTH)
    return (ids % vocabulary)[None].to(_device(model))


def _ended_ids(model: nn.Module) -> Tensor:
    """Return a text that ends with the token of its end, by which BART and T5 classify."""
    ids = _token_ids(model)
    ids[:, -1] = _config_value(model, "eos_token_id", default=0)
    return ids


def _separated_ids(model: nn.Module) -> Tensor:
    """Return a question with the token of Splinter's, and the three separators of Longformer's."""
    ids = _token_ids(model)
    ids[:, 1] = _config_value(model, "question_token_id", default=int(ids[0, 1]))
    ids[:, [2, 3, -1]] = _config_value(model, "sep_token_id", default=0)
    return ids


def _choice_ids(model: nn.Module) -> Tensor:
    """Return two questions with separators, as for multiple choice."""
    return _separated_ids(model)[:, None].expand(-1, 2, -1).contiguous()


def _codebook_ids(model: nn.Module) -> Tensor:
    """Return one token of text and one of each codebook for every position."""
    books = _config_value(model, "num_codebooks", default=0) + 1
    return torch.ones(1, PROBE_LENGTH, books, dtype=torch.long, device=_device(model))


def _ones(model: nn.Module) -> Tensor:
    return torch.ones(1, PROBE_LENGTH, dtype=torch.long, device=_device(model))


def _sides(size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping):
        size = (size["height"], size["width"])
    return (size[-2], size[-1]) if isinstance(size, (list, tuple)) else (size, size)


def _channels(model: nn.Module) -> int:
    value = _config_value(model, "num_channels", "in_channels", "in_chans", default=3)
    return value if isinstance(value, int) else 3


def _pixels(model: nn.Module) -> Tensor:
    size = _config_value(model, "image_size", "img_size", default=224)
    return _noise(model, 1, _channels(model), *_sides(size))


def _video(model: nn.Module) -> Tensor:
    frames = _config_value(model, "num_frames", "frames_per_clip", "max_num_frames", default=2)
    return _pixels(model)[:, None].expand(-1, frames, -1, -1, -1)


def _colours_first_video(model: nn.Module) -> Tensor:
    return _video(model).transpose(1, 2)


def _masked_patches(model: nn.Module) -> Tensor:
    """Return a mask of every second patch of a video."""
    frames = _video(model).shape[1] // _config_value(model, "tubelet_size", default=1)
    image, patch = _pixels(model), _sides(_config_value(model, "patch_size", default=16))
    patches = frames * (image.shape[-2] // patch[0]) * (image.shape[-1] // patch[1])
    return (torch.arange(patches, device=_device(model)) % 2 == 0)[None]


def _patch_area(model: nn.Module) -> int:
    return math.prod(_sides(_config_value(model, "patch_size", default=16)))


def _patches(model: nn.Module) -> Tensor:
    """Return an image as a list of flat patches, each over several frames."""
    depth = _config_value(model, "temporal_patch_size", default=1)
    return _noise(model, _GRID**2, _channels(model) * depth * _patch_area(model))


def _flat_patches(model: nn.Module) -> Tensor:
    """Return a batch of images, each a list of flat patches."""
    return _noise(model, 1, _GRID**2, _channels(model) * _patch_area(model))


def _square_patches(model: nn.Module) -> Tensor:
    sides = _sides(_config_value(model, "patch_size", default=16))
    return _noise(model, _GRID**2, _channels(model), *sides)


def _grid(model: nn.Module) -> Tensor:
    return torch.tensor([[1, _GRID, _GRID]], device=_device(model))


def _flat_grid(model: nn.Module) -> Tensor:
    return torch.tensor([[_GRID, _GRID]], device=_device(model))


def _patch_mask(model: nn.Module) -> Tensor:
    return torch.ones(1, _GRID**2, dtype=torch.long, device=_device(model))


def _patch_places(model: nn.Module) -> Tensor:
    rows = torch.arange(_GRID, device=_device(model))
    return torch.cartesian_prod(rows, rows)[None]


def _merge_sizes(model: nn.Module) -> Tensor:
    return torch.ones(1, dtype=torch.long, device=_device(model))


def _bins(model: nn.Module) -> int:
    names = ("num_mel_bins", "input_feat_per_channel", "feature_size", "n_mels", "input_feat_size")
    return _config_value(model, *names, default=80)


def _frames(model: nn.Module) -> int:
    places = _config_value(model, "max_source_positions")
    return 2 * places if places else _config_value(model, "max_length", default=_FRAMES)


def _mel_features(model: nn.Module) -> Tensor:
    return _noise(model, 1, _bins(model), _frames(model))


def _mel_frames(model: nn.Module) -> Tensor:
    return _mel_features(model).transpose(1, 2)


def _wide_frames(model: nn.Module) -> Tensor:
    """Return frames that are stacks of narrower frames."""
    width = _config_value(model, "input_dim", "feature_projection_input_dim", default=_bins(model))
    return _noise(model, 1, _frames(model), width)


def _open_mask(model: nn.Module) -> Tensor:
    """Return a mask that excludes no frame."""
    return torch.zeros(1, _frames(model), dtype=torch.bool, device=_device(model))


def _series(model: nn.Module) -> Tensor:
    length = _config_value(model, "context_length", default=_FRAMES)
    return _noise(model, 1, length, _config_value(model, "num_input_channels", default=1))


def _mel_image(model: nn.Module) -> Tensor:
    return _mel_frames(model)[None]


def _frame_mask(model: nn.Module) -> Tensor:
    return torch.ones(1, _frames(model), dtype=torch.long, device=_device(model))


def _waveform(model: nn.Module) -> Tensor:
    # Long enough for a stack of convolutions to leave PROBE_LENGTH frames.
    strides = _config_value(model, "conv_stride", "upsampling_ratios", default=(320,))
    strides = strides if isinstance(strides, (list, tuple)) else (320,)
    return _noise(model, 1, math.prod(strides) * (PROBE_LENGTH + 2))


def _long_waveform(model: nn.Module) -> Tensor:
    """Return a sound for a head that merges many frames, as an x-vector does."""
    return _waveform(model).repeat(1, 4)


def _channel_wave(model: nn.Module) -> Tensor:
    return _waveform(model)[None]


def _hidden(model: nn.Module) -> Tensor:
    width = _config_value(model, "hidden_size", "d_model", "embed_dim", "dim", default=32)
    width = width if isinstance(width, int) else width[0]
    return _noise(model, 1, PROBE_LENGTH, width)


def _encoder_hidden(model: nn.Module) -> Tensor:
    width = _config_value(model, "encoder_hidden_size", "cross_attention_hidden_size")
    return _noise(model, 1, PROBE_LENGTH, width) if isinstance(width, int) else _hidden(model)


def _latents(model: nn.Module) -> Tensor:
    return _hidden(model).transpose(1, 2)


def _region_features(model: nn.Module) -> Tensor:
    return _noise(model, 1, PROBE_LENGTH, _config_value(model, "visual_feat_dim", default=32))


def _region_places(model: nn.Module) -> Tensor:
    return _noise(model, 1, PROBE_LENGTH, _config_value(model, "visual_pos_dim", default=4))


def _boxes(model: nn.Module) -> Tensor:
    box = torch.tensor([0, 0, 1, 1], device=_device(model))
    return box.expand(1, PROBE_LENGTH, 4).contiguous()


def _fine_boxes(model: nn.Module) -> Tensor:
    return _boxes(model).to(_dtype(model))


# The forms that an argument may have, the most likely first. A new kind of input is a new row.
_MAKERS: dict[str, tuple[Callable[[nn.Module], Tensor], ...]] = {
    "input_ids": (_token_ids, _ended_ids, _separated_ids, _choice_ids, _codebook_ids),
    "decoder_input_ids": (_token_ids,),
    "qformer_input_ids": (_token_ids,),
    "attention_mask": (_ones,),
    "bbox": (_boxes, _fine_boxes),
    "inputs_embeds": (_hidden,),
    "latents": (_latents, _hidden),
    "visual_feats": (_region_features,),
    "visual_pos": (_region_places,),
    "query_embeds": (_hidden,),
    "encoder_hidden_states": (_encoder_hidden,),
    "hidden_states": (_patches, _hidden, _pixels),
    "input_features": (_mel_features, _mel_frames, _wide_frames, _mel_image),
    "input_features_mask": (_frame_mask,),
    "audio_mel": (_mel_frames,),
    "audio_mel_mask": (_open_mask,),
    "past_values": (_series,),
    "input_values": (_waveform, _long_waveform, _channel_wave, _mel_frames),
    "pixel_values": (_pixels, _video, _patches, _flat_patches, _square_patches),
    "pixel_values_videos": (_video, _colours_first_video),
    "bool_masked_pos": (_masked_patches,),
    "image": (_pixels,),
    "grid_thw": (_grid, _grid, _grid, _grid, _flat_grid),
    "image_grid_thw": (_grid,),
    "spatial_shapes": (_flat_grid,),
    "pixel_attention_mask": (_patch_mask,),
    "pixel_position_ids": (_patch_places,),
    "merge_sizes": (_merge_sizes,),
}
# Arguments that a forward may need besides its main input: other modalities, and their helpers.
_MODALITIES = ("input_ids", "pixel_values", "input_features", "input_values")
_HELPERS = (
    "bbox",
    "visual_feats",
    "visual_pos",
    "query_embeds",
    "encoder_hidden_states",
    "image_grid_thw",
    "input_features_mask",
    "attention_mask",
)
