"""Trains a tokenizer on text, for untrained models."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import PreTrainedTokenizerFast

from hf_td.extras import extra

with extra("tasks"):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

_PADDING, _END = "<pad>", "</s>"


def train_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Train byte-pair encoding on bytes: it can encode any text. Encoded texts end with `</s>`.

    Args:
        texts: texts of all languages of the joint vocabulary.
        size: maximum number of tokens, at least 256 bytes and two special tokens.

    Raises:
        ValueError: `size` is too small.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(alphabet) + 2
    if size < least:
        raise ValueError(f"a vocabulary of {size} tokens is too small. Give at least {least}.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # pyright: ignore
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[_PADDING, _END],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    end = tokenizer.token_to_id(_END)
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore
        single=f"$A {_END}", pair=f"$A {_END} $B {_END}", special_tokens=[(_END, end)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=_PADDING, eos_token=_END)
