"""The presets of distillation, the frozen head and the maps of hidden states, in a Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    BartConfig,
    BartForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForSequenceClassification,
    LlavaConfig,
    LlavaForConditionalGeneration,
    T5ForConditionalGeneration,
    XLNetConfig,
    XLNetLMHeadModel,
)

from hf_td import TargetedDropoutArguments, TargetedDropoutTrainer
from hf_td.training import ReliableTrainer
from hf_td.training.distillation import PRESETS, TERMS, Distillation
from hf_td.training.distillation.head import head_parameters
from hf_td.training.distillation.lesson import Lesson
from hf_td.training.distillation.teacher import shifts_labels
from tests.tiny import SIZES, VOCABULARY, tiny_model
from tests.training.models import (
    QUIET,
    STEPS,
    arguments,
    assert_same_weights,
    examples,
    seq2seq,
    trainer_of,
)
from tests.training.test_distillation import first_loss, reliable, still

TOGETHER: dict[str, Any] = {"per_device_train_batch_size": 32}


def bert(seed: int, **changes: Any) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    config = BertConfig(**{"vocab_size": VOCABULARY, **SIZES, "num_hidden_layers": 2, **changes})
    return BertForSequenceClassification(config).eval()


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    tiny_model("bert", seed=7).save_pretrained(tmp_path / "teacher")
    return str(tmp_path / "teacher")


def settings_of(**settings: Any) -> Distillation:
    given = {"teacher": "unused", **settings}
    return TargetedDropoutArguments("unused", use_cpu=True, **given).distillation()


def unlabelled() -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": row["input_ids"]} for row in examples("bert")]


# --- the settings ---


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_brings_its_weights(name):
    found, preset = settings_of(distill=name), PRESETS[name]
    assert (found.labels, found.freeze_head) == (preset.labels, preset.freeze_head)
    assert found.weights == preset.weights


def test_single_weights_take_the_place_of_the_presets():
    assert settings_of(distill_weight=0.4).labels == pytest.approx(0.6)
    assert settings_of(distill="logits", distill_labels_weight=0.2).labels == 0.2
    own = {term.setting: 0.5 for term in TERMS.values()}
    assert settings_of(distill="sparsebert", **own).weights == dict.fromkeys(TERMS, 0.5)
    changed = settings_of(distill="last_hidden", distill_freeze_head=False)
    assert not changed.freeze_head
    assert changed.asks == {"output_hidden_states": True}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distill": "nonsense"}, "distill is one of mixed, .*, got 'nonsense'"),
        ({"distill_attention_weight": -1}, "distill_attention_weight is at least 0, got -1"),
        ({"distill_labels_weight": -1}, "distill_labels_weight is at least 0, got -1"),
        ({"distill": "logits", "distill_weight": 0, "distill_labels_weight": 0}, "neither the lab"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        settings_of(**settings)


# --- in a Trainer ---


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if not preset.labels])
def test_presets_without_labels_need_none(name, teacher, tmp_path):
    losses = []
    for rows in (examples("bert"), unlabelled()):
        arguments = TargetedDropoutArguments(
            str(tmp_path), teacher=teacher, distill=name, targeting=0.5, **QUIET
        )
        trainer = TargetedDropoutTrainer(tiny_model("bert"), arguments, train_dataset=rows)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]


def test_the_loss_is_the_weighted_sum_of_the_terms(teacher, tmp_path):
    alone = {name: dict.fromkeys((t.setting for t in TERMS.values()), 0.0) for name in TERMS}
    found = {}
    for name, term in TERMS.items():
        weights: Any = {**alone[name], term.setting: 1.0, "distill_labels_weight": 0.0}
        trainer = reliable(
            still(tiny_model("bert")), tmp_path, teacher=teacher, **TOGETHER, **weights
        )
        found[name] = first_loss(trainer)
        assert found[name] > 1e-5
    trainer = reliable(
        still(tiny_model("bert")), tmp_path, teacher=teacher, distill="sparsebert", **TOGETHER
    )
    expected = sum(w * found[name] for name, w in PRESETS["sparsebert"].weights.items())
    assert first_loss(trainer) == pytest.approx(expected, rel=1e-4)
    assert trainer.model.config._attn_implementation == "sdpa"  # eager in training alone


def test_rows_without_a_label_are_taught_by_the_teacher_alone(teacher, tmp_path):
    rows = examples("bert")
    none = torch.tensor(-100)
    some = [{**row, "labels": row["labels"] if i < 8 else none} for i, row in enumerate(rows)]
    losses = {}
    for name, data in {"all": rows[:8], "some": some, "none": unlabelled()}.items():
        weight = 0.0 if name == "all" else 0.4
        given = {"distill_weight": weight, "per_device_train_batch_size": len(data)}
        if name == "none":
            given["distill_labels_weight"] = 0.0
        arguments = TargetedDropoutArguments(
            str(tmp_path), teacher=teacher, **{**QUIET, "max_steps": 1, **given}
        )
        losses[name] = first_loss(
            ReliableTrainer(still(tiny_model("bert")), arguments, train_dataset=data)
        )
    expected = losses["none"] + 0.6 * losses["all"] * 8 / 32
    assert losses["some"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_batches_without_any_label_are_finite(accumulation, teacher, tmp_path):
    rows = [{**row, "labels": -100} for row in examples("bert")]
    arguments = TargetedDropoutArguments(
        str(tmp_path), teacher=teacher, gradient_accumulation_steps=accumulation, **QUIET
    )
    trainer = ReliableTrainer(tiny_model("bert"), arguments, train_dataset=rows)
    trainer.train()
    assert trainer.state.global_step == STEPS


# --- the head ---


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("bert", ["bert.pooler.dense", "classifier"]),
        ("roberta", ["classifier.dense", "classifier.out_proj"]),
        ("distilbert", ["classifier", "pre_classifier"]),
        ("vit", ["classifier", "vit.layernorm"]),
    ],
)
def test_the_head_is_what_the_last_hidden_state_does_not_depend_on(family, expected):
    model = tiny_model(family).train()
    found = head_parameters(model)
    assert sorted({name.rpartition(".")[0] for name in found}) == expected
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_head_that_is_tied_to_the_embeddings_is_refused():
    with pytest.raises(ValueError, match="GPT2LMHeadModel has no trainable parameters of its own"):
        head_parameters(tiny_model("gpt2"))


@pytest.mark.parametrize("kind", [ReliableTrainer, TargetedDropoutTrainer])
def test_a_frozen_head_is_the_teachers_and_is_not_optimised(kind, teacher, tmp_path):
    student, taught = tiny_model("bert"), tiny_model("bert", seed=7)
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    arguments = TargetedDropoutArguments(
        str(tmp_path), teacher=teacher, distill="last_hidden", weight_decay=0.1, **QUIET
    )
    trainer = kind(student, arguments, train_dataset=examples("bert"))
    trainer.train()
    head = head_parameters(student)
    grouped = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    for name, parameter in student.named_parameters():
        assert (id(parameter) in grouped) == (name not in head)
        assert parameter.requires_grad
        if name in head:
            assert torch.equal(parameter, taught.get_parameter(name))
        elif "word_embeddings" not in name:
            assert not torch.equal(parameter, before[name])


def test_a_head_of_another_shape_is_refused(tmp_path):
    bert(7, hidden_size=48).save_pretrained(tmp_path / "teacher")
    trainer = reliable(
        tiny_model("bert"), tmp_path, teacher=str(tmp_path / "teacher"), distill="last_hidden"
    )
    with pytest.raises(ValueError, match=r"dense.weight is \(32, 32\), and the teacher has \(48"):
        trainer.train()


def test_an_optimiser_that_trains_the_head_is_refused(teacher, tmp_path):
    student = tiny_model("bert")
    optimizer = torch.optim.AdamW(student.parameters())
    arguments = TargetedDropoutArguments(
        str(tmp_path), teacher=teacher, distill="last_hidden", **QUIET
    )
    trainer = ReliableTrainer(
        student, arguments, train_dataset=examples("bert"), optimizers=(optimizer, None)
    )
    with pytest.raises(ValueError, match="the given optimiser has the head that is frozen"):
        trainer.train()


def test_a_head_in_a_sharded_model_is_refused(teacher, tmp_path):
    trainer = reliable(tiny_model("bert"), tmp_path, teacher=teacher, distill="last_hidden")
    trainer.is_fsdp_enabled = True
    with pytest.raises(ValueError, match="distill_freeze_head needs the whole model in each proc"):
        trainer.create_optimizer()


# --- other sizes ---


@pytest.mark.parametrize("name", ["layers", "last_hidden", "sparsebert"])
@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 48},
        {"num_hidden_layers": 4},
        {"hidden_size": 40, "num_attention_heads": 5, "num_hidden_layers": 3},
    ],
)
def test_a_teacher_of_another_size_teaches(name, changes, tmp_path):
    bert(7, **changes).save_pretrained(tmp_path / "teacher")
    student = tiny_model("bert")
    arguments = TargetedDropoutArguments(
        str(tmp_path),
        teacher=str(tmp_path / "teacher"),
        distill=name,
        distill_freeze_head=False,
        **QUIET,
    )
    trainer = ReliableTrainer(student, arguments, train_dataset=examples("bert"))
    trainer.train()
    assert trainer.state.global_step == STEPS
    assert (trainer._maps is not None) == ("hidden_size" in changes)
    trainer.save_model(str(tmp_path / "saved"))
    assert not list((tmp_path / "saved").glob("*maps*"))
    if trainer._maps is not None:
        moved = trainer._maps.by_state[2].get_parameter("weight").detach()
        assert not torch.equal(moved, torch.eye(*moved.shape))


def test_maps_resume_bit_identical(tmp_path):
    bert(7, hidden_size=48).save_pretrained(tmp_path / "teacher")
    settings = {
        **QUIET,
        "teacher": str(tmp_path / "teacher"),
        "distill": "layers",
        "targeting": 0.5,
        "save_strategy": "steps",
        "save_steps": STEPS // 2,
    }
    trainers = []
    for name, resume in (("whole", None), ("later", f"{tmp_path}/whole/checkpoint-{STEPS // 2}")):
        arguments = TargetedDropoutArguments(str(tmp_path / name), **settings)
        model = tiny_model("bert")
        trainer = TargetedDropoutTrainer(model, arguments, train_dataset=examples("bert"))
        trainer.train(resume_from_checkpoint=resume)
        trainers.append(trainer)
    assert_same_weights(trainers[0].model, trainers[1].model)
    assert_same_weights(trainers[0]._maps, trainers[1]._maps)
    (Path(resume or "") / "distillation_maps.safetensors").unlink()
    (Path(resume or "") / "whole.json").unlink()
    trainer = TargetedDropoutTrainer(
        tiny_model("bert"),
        TargetedDropoutArguments(str(tmp_path / "x"), **settings),
        train_dataset=examples("bert"),
    )
    with pytest.raises(FileNotFoundError, match=r"has no distillation_maps.safetensors"):
        trainer.train(resume_from_checkpoint=resume)


def test_maps_of_several_stacks_are_refused(tmp_path):
    config: Any = tiny_model("t5").config
    config.d_model = 48
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "teacher")
    args = seq2seq("t5", tmp_path, teacher=str(tmp_path / "teacher"), distill="layers")
    with pytest.raises(ValueError, match="width 32 cannot be mapped to the teacher's 48 in T5For"):
        trainer_of(tiny_model("t5"), args, "t5").train()


def test_maps_learn_alike_however_a_batch_is_split(tmp_path):
    bert(7, hidden_size=48).save_pretrained(tmp_path / "teacher")
    maps = []
    for accumulation in (1, 2):
        trainer = reliable(
            still(tiny_model("bert")),
            tmp_path,
            teacher=str(tmp_path / "teacher"),
            distill="layers",
            per_device_train_batch_size=4 // accumulation,
            gradient_accumulation_steps=accumulation,
            max_steps=3,
        )
        trainer.train()
        maps.append(trainer._maps)
    for name, value in maps[0].state_dict().items():
        assert_close(value, maps[1].state_dict()[name], rtol=1e-3, atol=1e-4)


def test_equal_widths_need_no_maps_and_start_at_the_teachers_states(teacher, tmp_path):
    student = still(tiny_model("bert", seed=7))
    trainer = reliable(student, tmp_path, teacher=teacher, distill="sparsebert")
    assert first_loss(trainer) == pytest.approx(0, abs=1e-6)
    assert trainer._maps is None


def test_a_decoder_that_classifies_takes_the_teachers_head(tmp_path):
    torch.manual_seed(7)
    sizes: dict[str, Any] = {"vocab_size": VOCABULARY, **SIZES, "pad_token_id": 0}
    taught = LlamaForSequenceClassification(LlamaConfig(**sizes))
    taught.save_pretrained(tmp_path / "teacher")
    student = LlamaForSequenceClassification(LlamaConfig(**sizes))
    trainer = reliable(
        student, tmp_path, teacher=str(tmp_path / "teacher"), distill="last_hidden", max_steps=2
    )
    trainer.train()
    assert_close(student.score.weight, taught.score.weight, rtol=0, atol=0)


def test_the_padding_of_a_decoder_does_not_count():
    student, teacher = (tiny_model("t5", seed=seed) for seed in (0, 1))
    for model in (student, teacher):
        model.set_attn_implementation("eager")
    draws = torch.Generator().manual_seed(0)
    ids = torch.randint(3, VOCABULARY, (2, 6), generator=draws)
    labels = torch.randint(3, VOCABULARY, (2, 4), generator=draws)

    def losses(padding: int) -> list[float]:
        padded = torch.cat([labels, torch.full((2, padding), -100)], 1)
        batch: Any = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": padded}
        asked = {"output_hidden_states": True, "output_attentions": True}
        with torch.no_grad():
            both = [model(**batch, **asked) for model in (student, teacher)]
        lesson = Lesson(inputs=batch, student=both[0], teacher=both[1])
        return [float(term.loss(lesson)) for term in TERMS.values()]

    assert losses(4) == pytest.approx(losses(0))
    assert losses(16) == pytest.approx(losses(0))


def test_a_decoder_that_reads_images_is_taught_the_next_token():
    text = {"vocab_size": VOCABULARY, **SIZES}
    vision = {"image_size": 28, "patch_size": 14, **SIZES}
    both = {"vision_config": CLIPVisionConfig(**vision), "text_config": LlamaConfig(**text)}
    batch = {"input_ids": torch.arange(3, 11)[None]}
    assert shifts_labels(LlavaForConditionalGeneration(LlavaConfig(**both)), batch)
    for family, shifts in {"gpt2": True, "llama": True, "t5": False, "bert": False}.items():
        assert shifts_labels(tiny_model(family), batch) is shifts


def test_a_decoder_whose_loss_shifts_no_labels_is_taught_the_same_token():
    sizes: dict[str, Any] = {"d_model": 32, "decoder_layers": 1, "decoder_attention_heads": 4}
    bart = BartForCausalLM(BartConfig(vocab_size=VOCABULARY, decoder_ffn_dim=64, **sizes))
    xlnet = XLNetConfig(vocab_size=VOCABULARY, d_model=32, n_layer=1, n_head=4, d_inner=64)
    for model in (bart, XLNetLMHeadModel(xlnet)):
        assert not shifts_labels(model.eval(), {"input_ids": torch.arange(3, 11)[None]})


def test_a_student_with_maps_is_trained_again(tmp_path):
    bert(1, hidden_size=48).save_pretrained(tmp_path / "teacher")
    args = arguments(tmp_path, teacher=str(tmp_path / "teacher"), distill="layers", max_steps=2)
    trainer = trainer_of(tiny_model("bert"), args)
    trainer.train()
    maps = trainer._maps
    before = [p.clone() for p in maps.parameters()]
    trainer.train()
    assert trainer._maps is maps
    assert not any(torch.equal(p, b) for p, b in zip(maps.parameters(), before, strict=True))
