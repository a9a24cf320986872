"""Small trained tokenizers, one for each family of token models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers as hf
from tokenizers import (
    Regex,
    SentencePieceUnigramTokenizer,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dogs sleep.",
    "Small models are quick; quicker models are smaller than the quickest.",
    "Überraschung! Das schöne Mädchen geht im Garten spazieren.",
    "Pruning removes weights, heads and neurons; trimming removes tokens.",
    "def removed(tokens):\n    return [token for token in tokens if token]",
    "1905.13678 has 12 pages, 3 figures and 4 tables.",
] * 3
_WRAPPED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def _trained(tokenizer: Tokenizer, trainer: Any) -> Tokenizer:
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _templates(tokenizer: Tokenizer, first: str, last: str) -> Any:
    places = [(token, tokenizer.token_to_id(token)) for token in (first, last)]
    return processors.TemplateProcessing(
        single=f"{first} $A {last}", pair=f"{first} $A {last} $B {last}", special_tokens=places
    )


def wordpiece() -> Any:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special)
    _trained(tokenizer, trainer)
    tokenizer.post_processor = _templates(tokenizer, "[CLS]", "[SEP]")
    tokenizer.decoder = decoders.WordPiece()
    return hf.BertTokenizer(tokenizer_object=tokenizer)


def unigram() -> Any:
    tokenizer = SentencePieceUnigramTokenizer()
    tokenizer.train_from_iterator(
        CORPUS, vocab_size=200, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    tokenizer._tokenizer.post_processor = _templates(tokenizer._tokenizer, "<s>", "</s>")
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, **_WRAPPED)


def byte_level() -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    _trained(tokenizer, trainer)
    ends = [(token, SPECIAL.index(token)) for token in ("</s>", "<s>")]
    tokenizer.post_processor = processors.RobertaProcessing(ends[0], ends[1])
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_WRAPPED)


def byte_fallback() -> Any:
    """A BPE of characters that falls back to bytes, as Llama's is."""
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=[*SPECIAL, *bytes_])
    _trained(tokenizer, trainer)
    spec = tokenizer.to_str()
    assert "byte_fallback" in spec
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = _templates(tokenizer, "<s>", "</s>")
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_WRAPPED)


def end_of_word() -> Any:
    """A BPE whose words end in a suffix, as CLIP's is."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"\s+|\w+|[^\s\w]+"), "removed", invert=True
    )
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, end_of_word_suffix="</w>")
    _trained(tokenizer, trainer)
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_WRAPPED)


def word_level() -> Any:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    _trained(tokenizer, trainers.WordLevelTrainer(special_tokens=SPECIAL))
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_WRAPPED)


FAMILIES: dict[str, Callable[[], Any]] = {
    one.__name__: one
    for one in (wordpiece, unigram, byte_level, byte_fallback, end_of_word, word_level)
}
