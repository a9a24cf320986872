"""Task heads that do not run on the input of their base model go the whole way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from torch.testing import assert_close

from hf_td import (
    anneal,
    compact_model,
    patch_model,
    prune_model,
    read_anatomy,
    unpatch_model,
)
from hf_td.anatomy import probe_inputs
from hf_td.hub import export_model
from tests.families import TRANSLATOR, tiny_family
from tests.tiny import TEXT, tiny_model, with_random_biases

_T5: dict[str, Any] = {
    "vocab_size": 64,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
}
_BART: dict[str, Any] = {**TRANSLATOR, "max_position_embeddings": 64, "num_labels": 3}
ENDED = torch.tensor([[5, 6, 7, 8, 2], [9, 4, 3, 7, 2]])
CHOICES = torch.arange(3, 35).view(2, 2, 8)


def _longformer() -> Any:
    config = hf.LongformerConfig(**TEXT, sep_token_id=2, attention_window=[4, 4])
    return hf.LongformerForQuestionAnswering(config)


def _xvector() -> Any:
    config: Any = copy.deepcopy(tiny_family("wav2vec2").config)
    config.update({"tdnn_dim": (16, 16), "tdnn_kernel": (5, 3), "tdnn_dilation": (1, 2)})
    config.xvector_output_dim = 8
    return hf.Wav2Vec2ForXVector(config)


def _videomae() -> Any:
    sizes: dict[str, Any] = {"image_size": 16, "patch_size": 4, "num_frames": 4, "tubelet_size": 2}
    decoder: dict[str, Any] = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1}
    config = hf.VideoMAEConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=64,
        **sizes,
        **decoder,
    )
    return hf.VideoMAEForPreTraining(config)


def _video() -> dict[str, Tensor]:
    mask = (torch.arange(32) % 4 == 0).expand(2, -1)
    return {"pixel_values": torch.rand(2, 4, 3, 16, 16), "bool_masked_pos": mask}


# Name to a tiny model, and inputs as its users have them.
HEADS: dict[str, tuple[Callable[[], Any], Callable[[], dict[str, Tensor]]]] = {
    "bart, a sequence": (
        lambda: hf.BartForSequenceClassification(hf.BartConfig(**_BART)),
        lambda: {"input_ids": ENDED},
    ),
    "t5, a sequence": (
        lambda: hf.T5ForSequenceClassification(hf.T5Config(**_T5)),
        lambda: {"input_ids": ENDED},
    ),
    "bert, choices": (
        lambda: hf.BertForMultipleChoice(hf.BertConfig(**TEXT)),
        lambda: {"input_ids": CHOICES},
    ),
    "distilbert, choices": (
        lambda: hf.DistilBertForMultipleChoice(
            hf.DistilBertConfig(vocab_size=64, dim=32, n_layers=2, n_heads=4, hidden_dim=64)
        ),
        lambda: {"input_ids": CHOICES},
    ),
    "longformer, three separators": (
        _longformer,
        lambda: {"input_ids": torch.tensor([[5, 2, 2, 6, 7, 2], [8, 9, 2, 2, 4, 2]])},
    ),
    "wav2vec2, an x-vector": (_xvector, lambda: {"input_values": torch.rand(2, 400)}),
    "videomae, masked patches": (_videomae, _video),
}
every_head = pytest.mark.parametrize("name", HEADS)


def head(name: str) -> Any:
    torch.manual_seed(0)
    return with_random_biases(HEADS[name][0]()).eval()


def computed(model: Any, name: str) -> list[Tensor]:
    torch.manual_seed(1)
    inputs = HEADS[name][1]()
    with torch.no_grad():
        return [value for value in model(**inputs).values() if isinstance(value, Tensor)]


def heads_of(model: Any) -> set[int]:
    return {block.units for block in read_anatomy(model).blocks if block.part == "attention"}


@every_head
def test_a_head_goes_the_whole_way(name, tmp_path):
    model = patch_model(head(name), level="unit", targeting=0.5)
    anneal(model.train(), progress=0.5, update=0)
    outputs = model(**HEADS[name][1]())
    next(v for v in outputs.values() if v.is_floating_point()).square().mean().backward()
    unpatch_model(model).eval()
    prune_model(model, 0.5, level="unit")
    expected = computed(model, name)
    done = export_model(model, tmp_path / "x", check=False)
    again = type(model).from_pretrained(done.folder, local_files_only=True)
    compact_model(model)
    # The forward of Longformer needs all heads.
    assert heads_of(model) == {4 if name.startswith("longformer") else 2}
    assert done.parameters == again.num_parameters() == model.num_parameters()
    assert_close(computed(model, name), expected, rtol=1e-4, atol=1e-4)
    assert_close(computed(again, name), expected, rtol=1e-4, atol=1e-4)


@every_head
def test_the_check_does_not_change_what_is_taken_out(name):
    sizes = set()
    ways: tuple[dict[str, Any], ...] = ({}, {"check": False}, {"example_inputs": HEADS[name][1]()})
    for how in ways:
        model = head(name)
        prune_model(model, 0.5, level="unit")
        sizes.add(compact_model(model, **how).num_parameters())
    assert len(sizes) == 1


@pytest.mark.slow
@every_head
def test_a_head_is_loaded_in_a_fresh_process(name, tmp_path):
    model = head(name)
    prune_model(model, 0.5, level="unit")
    assert export_model(model, tmp_path / "made").ways
    given = HEADS[name][1]()
    assert export_model(model, tmp_path / "given", example_inputs=given).ways


# --- example_inputs are those of the whole model, everywhere ---


class Twice(hf.BertPreTrainedModel):
    """A head that takes another argument than its base model does."""

    main_input_name = "texts"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.bert = hf.BertModel(config)
        self.classifier = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(self, texts: Tensor) -> dict[str, Tensor]:
        return {"logits": self.classifier(self.bert(texts[0], texts[1]).pooler_output)}


def twice() -> Any:
    torch.manual_seed(0)
    return with_random_biases(Twice(hf.BertConfig(**TEXT))).eval()


TEXTS = {"texts": torch.stack([CHOICES[0], torch.ones_like(CHOICES[0])])}


def test_what_the_whole_model_takes_is_taken_everywhere(tmp_path):
    model = twice()
    expected = [block.modules for block in read_anatomy(model).blocks]
    assert [block.modules for block in read_anatomy(model, TEXTS).blocks] == expected
    unpatch_model(patch_model(model, level="unit", example_inputs=TEXTS))
    prune_model(model, 0.5, level="unit", example_inputs=TEXTS)
    logits = model(**TEXTS)["logits"]
    done = export_model(model, tmp_path / "x", check=False, example_inputs=TEXTS)
    assert done.form == "compact"
    compact_model(model, example_inputs=TEXTS)
    assert heads_of(model) == {2}
    assert_close(model(**TEXTS)["logits"], logits)


def test_a_head_that_no_made_input_runs_is_still_cut_and_the_check_asks_for_an_input():
    model = twice()
    prune_model(model, 0.5, level="unit")
    before = model.num_parameters()
    asks = r"cannot make an example input for Twice.*Pass example_inputs=.*--example-inputs FILE"
    with pytest.raises(ValueError, match=asks):
        compact_model(model)
    assert model.num_parameters() == before
    compact_model(model, check=False)
    assert heads_of(model) == {2}


@pytest.mark.parametrize("take", [read_anatomy, patch_model, compact_model])
def test_an_input_that_does_not_run_is_an_error_of_the_input(take):
    model = tiny_model("bert")
    prune_model(model, 0.5, level="unit")
    wrong = {"input_ids": CHOICES}
    message = "BertForSequenceClassification does not run on example_inputs: .*Correct them"
    with pytest.raises(ValueError, match=message):
        take(model, example_inputs=wrong)


@pytest.mark.parametrize("take", [read_anatomy, patch_model, prune_model, compact_model])
@pytest.mark.parametrize("wrong", [torch.ones(1, 3), [1, 2]], ids=["tensor", "list"])
def test_an_input_that_is_no_mapping_is_refused(take, wrong):
    model = tiny_model("bert")
    more = (0.5,) if take is prune_model else ()
    with pytest.raises(TypeError, match=rf"example_inputs are .* got a {type(wrong).__name__}"):
        take(model, *more, example_inputs=wrong)


def test_a_tower_that_an_input_does_not_run_is_read_all_the_same():
    vision = hf.CLIPVisionConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=16,
        patch_size=8,
    )
    config = hf.LlavaConfig(vision_config=vision, text_config=hf.LlamaConfig(**TEXT))
    model = hf.LlavaForConditionalGeneration(config)
    text = {"input_ids": torch.tensor([[5, 6, 7]])}
    given, made = read_anatomy(model, text), read_anatomy(model)
    assert given.runs == made.runs == ("", "model.vision_tower")
    assert [b.name for b in given.blocks] == [b.name for b in made.blocks]


def test_the_base_model_need_not_run_on_what_is_given():
    model = tiny_family("bart")
    inputs = {"input_ids": ENDED, "labels": ENDED, "use_cache": False}
    assert len(read_anatomy(model, inputs).blocks) == len(read_anatomy(model).blocks)
    prune_model(model, 0.5, level="unit")
    compact_model(model, example_inputs=inputs)


def test_inputs_are_made_for_the_whole_model():
    for name in HEADS:
        model = head(name)
        with torch.no_grad():
            model(**probe_inputs(model))
