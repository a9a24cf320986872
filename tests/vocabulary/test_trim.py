"""Tokens that no text uses go, and nothing else changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from hf_td.vocabulary import trim_vocabulary
from tests.vocabulary.tokenizers_of import CORPUS, FAMILIES

TEXTS = CORPUS[:2]
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


def special_ids(tokenizer: Any) -> dict[str, int]:
    names = ("pad", "bos", "eos")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
    return {name: place for name, place in ids.items() if place is not None}


def llama(tokenizer: Any, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=len(tokenizer),
        num_key_value_heads=2,
        **SIZES,
        **special_ids(tokenizer),
        **settings,
    )
    return hf.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module", params=FAMILIES)
def tokenizer(request):
    return FAMILIES[request.param]()


def inputs(tokenizer: Any, text: str) -> dict[str, torch.Tensor]:
    found = tokenizer(text, return_tensors="pt")
    return {name: found[name] for name in ("input_ids", "attention_mask")}


def test_a_text_is_split_as_before_and_computes_the_same(tokenizer):
    model = llama(tokenizer)
    before = [
        (tokenizer(t)["input_ids"], model(**inputs(tokenizer, t), output_hidden_states=True))
        for t in TEXTS
    ]
    smaller, report = trim_vocabulary(model, tokenizer, TEXTS)
    assert len(smaller) == len(report.kept) < report.tokens_before == len(tokenizer)
    assert report.coverage == 1
    assert report.bytes_after < report.bytes_before
    kept = list(report.kept)
    for text, (ids, outputs) in zip(TEXTS, before, strict=True):
        assert [kept[i] for i in smaller(text)["input_ids"]] == ids
        now = model(**inputs(smaller, text), output_hidden_states=True)
        assert torch.equal(now.hidden_states[-1], outputs.hidden_states[-1])
        torch.testing.assert_close(now.logits, outputs.logits[..., kept])


def test_kept_tokens_keep_their_names_and_special_tokens_stay(tokenizer):
    smaller, report = trim_vocabulary(llama(tokenizer), tokenizer, TEXTS)
    assert smaller.convert_ids_to_tokens(range(len(smaller))) == tokenizer.convert_ids_to_tokens(
        list(report.kept)
    )
    assert smaller.special_tokens_map == tokenizer.special_tokens_map
    for text in TEXTS:
        assert smaller.decode(smaller(text)["input_ids"]) == tokenizer.decode(
            tokenizer(text)["input_ids"]
        )


@pytest.mark.parametrize("family", ["byte_level", "byte_fallback"])
@given(text=st.text(max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_text_still_encodes_and_decodes(family, text):
    full, smaller = pair(family)
    assert smaller.decode(smaller(text)["input_ids"]) == full.decode(full(text)["input_ids"])


_PAIRS: dict[str, Any] = {}


def pair(family: str) -> tuple[Any, Any]:
    if family not in _PAIRS:
        full = FAMILIES[family]()
        _PAIRS[family] = full, trim_vocabulary(llama(full), full, TEXTS)[0]
    return _PAIRS[family]


@given(words=st.lists(st.sampled_from(" ".join(TEXTS).split()), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("family", FAMILIES)
def test_other_texts_of_kept_tokens_are_split_as_before(family, words):
    full, smaller = pair(family)
    text = " ".join(words)
    before = full.convert_ids_to_tokens(full(text)["input_ids"])
    if set(before) <= smaller.get_vocab().keys():
        assert smaller.convert_ids_to_tokens(smaller(text)["input_ids"]) == before


def test_a_saved_model_and_tokenizer_load_again(tokenizer, tmp_path):
    model = llama(tokenizer, tie_word_embeddings=True)
    smaller, _ = trim_vocabulary(model, tokenizer, TEXTS)
    model.save_pretrained(tmp_path)
    smaller.save_pretrained(tmp_path)
    loaded = hf.AutoModelForCausalLM.from_pretrained(tmp_path)
    read = hf.AutoTokenizer.from_pretrained(tmp_path)
    assert read.get_vocab() == smaller.get_vocab()
    assert read(TEXTS)["input_ids"] == smaller(TEXTS)["input_ids"]
    assert loaded.config.vocab_size == len(read) == loaded.get_input_embeddings().num_embeddings
    own = inputs(read, TEXTS[0])
    assert torch.equal(loaded(**own).logits, model(**own).logits)
    for name, place in special_ids(read).items():
        assert getattr(loaded.config, name) == place


def test_generation_writes_the_same_tokens(tokenizer):
    model = llama(tokenizer)
    before = model.generate(**inputs(tokenizer, TEXTS[0]), max_new_tokens=8, do_sample=False)
    names = tokenizer.convert_ids_to_tokens(before[0])
    smaller, _ = trim_vocabulary(model, tokenizer, TEXTS, keep=names)
    after = model.generate(**inputs(smaller, TEXTS[0]), max_new_tokens=8, do_sample=False)
    assert smaller.convert_ids_to_tokens(after[0]) == names


MODELS: dict[str, Any] = {
    "bert": lambda n, ids: hf.BertForMaskedLM(hf.BertConfig(vocab_size=n, **SIZES, **ids)),
    "roberta": lambda n, ids: hf.RobertaForSequenceClassification(
        hf.RobertaConfig(vocab_size=n, **SIZES, **ids)
    ),
    "gpt2": lambda n, ids: hf.GPT2LMHeadModel(
        hf.GPT2Config(vocab_size=n, n_embd=32, n_layer=2, n_head=4, **ids)
    ),
    "bart": lambda n, ids: hf.BartForConditionalGeneration(
        hf.BartConfig(
            vocab_size=n,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            **ids,
            **{"decoder_start_token_id": ids["eos_token_id"]},
        )
    ),
    "t5": lambda n, ids: hf.T5ForConditionalGeneration(
        hf.T5Config(
            vocab_size=n,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            **ids,
            **{"decoder_start_token_id": ids["pad_token_id"]},
        )
    ),
}


@pytest.mark.parametrize("family", MODELS)
def test_every_kind_of_model_computes_the_same(family, tmp_path):
    tokenizer = FAMILIES["unigram"]()
    torch.manual_seed(0)
    model = MODELS[family](len(tokenizer) + 7, special_ids(tokenizer)).eval()  # rows without tokens
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    given = inputs(tokenizer, TEXTS[0])
    both = {"decoder_input_ids": given["input_ids"]} if model.config.is_encoder_decoder else {}
    before = model(**given, **both).logits
    smaller, report = trim_vocabulary(model, tokenizer, TEXTS)
    given = inputs(smaller, TEXTS[0])
    both = {"decoder_input_ids": given["input_ids"]} if model.config.is_encoder_decoder else {}
    expected = before if before.shape[-1] == 2 else before[..., list(report.kept)]
    torch.testing.assert_close(model(**given, **both).logits, expected)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(**given, **both).logits, expected)


def test_a_padding_token_behind_all_others_moves():
    tokenizer = FAMILIES["wordpiece"]()
    tokenizer.add_special_tokens({"pad_token": "<filled>"})
    model = llama(tokenizer)
    smaller, _ = trim_vocabulary(model, tokenizer, TEXTS)
    table: Any = model.get_input_embeddings()
    last = len(smaller) - 1
    assert smaller.pad_token_id == model.config.pad_token_id == table.padding_idx == last


def test_ids_in_configs_follow():
    tokenizer = FAMILIES["byte_level"]()
    model = llama(tokenizer)
    last = tokenizer.get_vocab()["Ġthe"]
    model.config.image_token_id = last
    model.generation_config.eos_token_id = [2, last]
    model.generation_config.suppress_tokens = [3, last, len(tokenizer) - 1]
    smaller, report = trim_vocabulary(model, tokenizer, TEXTS)
    now = smaller.get_vocab()["Ġthe"]
    assert now != last
    assert model.config.image_token_id == now
    assert model.generation_config.eos_token_id == [2, now]
    expected = [3, now] + [len(smaller) - 1] * (len(tokenizer) - 1 in report.kept)
    assert model.generation_config.suppress_tokens == expected


def test_other_models_of_the_config_keep_their_vocabulary():
    tokenizer = FAMILIES["byte_level"]()
    model = llama(tokenizer)
    shared, size = model.config, model.config.vocab_size
    other = type(model)(shared)
    trim_vocabulary(model, tokenizer, TEXTS)
    assert model.config.vocab_size < size == shared.vocab_size
    assert other.get_input_embeddings().num_embeddings == size


def test_rare_tokens_can_go_too():
    tokenizer = FAMILIES["byte_level"]()
    _, all_tokens = trim_vocabulary(llama(tokenizer), tokenizer, CORPUS)
    _, common = trim_vocabulary(llama(tokenizer), tokenizer, CORPUS, min_count=7)
    assert len(common.kept) < len(all_tokens.kept)
    assert all_tokens.coverage == 1
    assert common.coverage is not None
    assert 0.2 < common.coverage < 1


def test_further_tokens_can_be_kept():
    tokenizer = FAMILIES["wordpiece"]()
    word = tokenizer.tokenize("schöne")[0]
    without = trim_vocabulary(llama(tokenizer), tokenizer, TEXTS)[0]
    assert word not in without.get_vocab()
    for keep in (word, tokenizer.get_vocab()[word]):
        smaller, _ = trim_vocabulary(llama(tokenizer), tokenizer, TEXTS, keep=[keep])
        assert word in smaller.get_vocab()


def test_mistakes_are_refused_and_change_nothing():
    tokenizer = FAMILIES["wordpiece"]()
    model = llama(tokenizer)
    other = llama(FAMILIES["wordpiece"]())
    small = hf.LlamaForCausalLM(hf.LlamaConfig(vocab_size=9, num_key_value_heads=2, **SIZES))
    for wrong, message in (
        (lambda: trim_vocabulary(model, tokenizer), "expected texts, or tokens to keep"),
        (lambda: trim_vocabulary(model, tokenizer, "one text"), r"give \[text\]"),
        (
            lambda: trim_vocabulary(model, tokenizer, TEXTS, keep=["no token"]),
            "no token 'no token'",
        ),
        (lambda: trim_vocabulary(model, tokenizer, TEXTS, keep=[10**6]), "no token with the id"),
        (lambda: trim_vocabulary(model, tokenizer, TEXTS, min_count=0), "min_count has to be"),
        (lambda: trim_vocabulary(small, tokenizer, TEXTS), "only 9 rows"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))


def test_a_model_of_images_is_refused():
    model = hf.ViTForImageClassification(hf.ViTConfig(**SIZES, image_size=16, patch_size=4))
    with pytest.raises(ValueError, match="no embeddings of tokens"):
        trim_vocabulary(model, FAMILIES["wordpiece"](), TEXTS)


def words_of(count: int, template: str) -> Any:
    """Return a tokenizer of words, whose ids come before those of its special tokens.

    Args:
        count: number of words.
        template: of its post-processor.
    """
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    every = [*(f"w{number}" for number in range(count)), *special]
    vocabulary = {token: place for place, token in enumerate(every)}
    own = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    own.pre_tokenizer = Whitespace()
    ends = [(one, vocabulary[one]) for one in ("<s>", "</s>")]
    own.post_processor = TemplateProcessing(single=template, special_tokens=ends)
    names = dict(zip(("pad", "bos", "eos", "unk"), special, strict=True))
    named = {f"{name}_token": one for name, one in names.items()}
    return hf.PreTrainedTokenizerFast(tokenizer_object=own, **named)


def outputs(model: Any, tokenizer: Any) -> torch.Tensor:
    batch = tokenizer(["w3 w4 w5", "w7 w8"], return_tensors="pt", padding=True)
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0]


@pytest.mark.parametrize("kind", ["positions from the padding", "an id in a module"])
def test_ids_that_modules_have_copied_follow(kind):
    tokenizer = words_of(40, "<s> $A </s>")
    torch.manual_seed(0)
    given = {"vocab_size": len(tokenizer), "max_position_embeddings": 60, **SIZES}
    given |= special_ids(tokenizer)
    model: Any = hf.RobertaModel(hf.RobertaConfig(**given)).eval()
    if kind == "an id in a module":
        config: Any = hf.CLIPTextConfig(**given, projection_dim=8)
        model = hf.CLIPTextModelWithProjection(config).eval()
    expected = outputs(model, tokenizer)[0]  # a row without padding
    smaller, _ = trim_vocabulary(model, tokenizer, ["w3 w4 w5", "w7 w8"])
    torch.testing.assert_close(outputs(model, smaller)[0], expected)
    assert model.config.eos_token_id == smaller.eos_token_id


@pytest.mark.parametrize("kind", ["XLM", "Flaubert"])
def test_ids_under_other_names_follow(kind):
    """Without a mask XLM counts the tokens that are not its `pad_index`."""
    tokenizer = words_of(40, "$A")
    torch.manual_seed(0)
    names = {"pad_token_id": tokenizer.pad_token_id, "unk_index": 20, "mask_index": 21}
    sizes = {"vocab_size": len(tokenizer), "emb_dim": 32, "n_layers": 1, "n_heads": 4}
    config = getattr(hf, f"{kind}Config")(**sizes, **names)
    model = getattr(hf, f"{kind}Model")(config).eval()

    def output(own: Any) -> torch.Tensor:
        batch = own(["w3 w4 w5", "w7 w8"], return_tensors="pt", padding=True)
        with torch.no_grad():
            return model(input_ids=batch["input_ids"])[0][1, :2]  # a row with padding

    expected = output(tokenizer)
    smaller, report = trim_vocabulary(model, tokenizer, ["w3 w4 w5", "w7 w8"])
    torch.testing.assert_close(output(smaller), expected)
    assert model.pad_index == smaller.pad_token_id
    assert model.config.unk_index == report.kept.index(20)
    assert model.config.mask_index == report.kept.index(21)


@pytest.mark.parametrize(
    ("name", "follows"),
    [
        *((f"image_{part}_id", True) for part in ("patch", "start", "end")),
        *((f"im_{part}_id", True) for part in ("start", "end", "newline")),
        *((f"{part}_id", True) for part in ("slice_start", "slice_end", "newline")),
        ("lang_id", False),
        ("insert_layer_id", False),
        ("codec_bos_id", False),
    ],
)
def test_names_of_tokens_in_a_config_are_told_from_others(name, follows):
    tokenizer = words_of(40, "$A")
    model = llama(tokenizer)
    setattr(model.config, name, 20)
    _, report = trim_vocabulary(model, tokenizer, ["w3 w4 w5"])
    assert (20 in report.kept) == follows
    assert getattr(model.config, name) == (report.kept.index(20) if follows else 20)


def test_a_high_padding_id_that_no_position_is_counted_from_keeps_nothing():
    tokenizer = words_of(40, "$A </s>")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1}
    sizes |= {f"{part}_attention_heads": 4 for part in ("encoder", "decoder")}
    sizes |= {f"{part}_ffn_dim": 32 for part in ("encoder", "decoder")}
    sizes |= special_ids(tokenizer)
    sizes["decoder_start_token_id"] = tokenizer.pad_token_id
    config = hf.MarianConfig(vocab_size=len(tokenizer), **sizes)
    model: Any = hf.MarianMTModel(config).eval()
    batch = inputs(tokenizer, "w3 w4 w5")
    with torch.no_grad():
        expected = model.model.encoder(**batch)[0]
    smaller, report = trim_vocabulary(model, tokenizer, ["w3 w4 w5"])
    assert len(report.kept) < 12
    with torch.no_grad():
        torch.testing.assert_close(model.model.encoder(**inputs(smaller, "w3 w4 w5"))[0], expected)


def test_ids_of_generation_follow():
    tokenizer = words_of(40, "$A")
    model = llama(tokenizer)
    model.generation_config.sequence_bias = [[[5], 10.0], [[30], -10.0], [[3, 4], 1.0]]
    model.generation_config.force_words_ids = [[7, 8], [39]]
    smaller, _ = trim_vocabulary(model, tokenizer, ["w3 w4 w5"])
    place = smaller.convert_tokens_to_ids
    three, four, five = (place(f"w{number}") for number in (3, 4, 5))
    assert model.generation_config.sequence_bias == [[[five], 10.0], [[three, four], 1.0]]
    forced = [[place("w7"), place("w8")], [place("w39")]]
    assert model.generation_config.force_words_ids == forced
    model.generation_config.sequence_bias = {(three,): 1.0, (place("w7"),): 2.0}
    again, _ = trim_vocabulary(model, smaller, ["w3"])
    place = again.convert_tokens_to_ids
    assert model.generation_config.sequence_bias == {(place("w3"),): 1.0, (place("w7"),): 2.0}


def test_what_a_tokenizer_adds_by_itself_stays():
    tokenizer = words_of(40, "<s> $A </s>")
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["added_tokens"] = []
    bare = hf.PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(backend)))
    smaller, _ = trim_vocabulary(llama(bare), bare, keep=["w3", "w4"])
    assert smaller.convert_ids_to_tokens(smaller("w3 w4")["input_ids"]) == [
        "<s>",
        "w3",
        "w4",
        "</s>",
    ]
