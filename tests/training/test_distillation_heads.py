"""Distillation of other outputs than one class, and of students unlike their teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForMultipleChoice,
    BertForSequenceClassification,
    CLIPConfig,
    CLIPModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
)

from hf_td import TargetedDropoutArguments
from hf_td.baselines import L1, BaselineTrainer
from hf_td.training import ReliableTrainer
from hf_td.training.distillation import TERMS
from hf_td.training.distillation.head import eager_attention
from hf_td.training.distillation.lesson import Lesson
from tests.tiny import SIZES, VOCABULARY, tiny_model
from tests.training.models import QUIET, examples
from tests.training.test_distillation import BERT, still

TEXT: dict[str, Any] = {"input_ids": [5, 6, 7, 8]}


def taught(student: Any, teacher: Any, rows: Any, folder: Path, **settings: Any) -> Any:
    """Train a student for 40 updates by the logits of a teacher alone."""
    teacher.save_pretrained(folder / "teacher")
    given = {"distill": "logits", "max_steps": 40, "logging_steps": 40, **settings}
    args = TargetedDropoutArguments(
        str(folder), **{**QUIET, **given}, teacher=str(folder / "teacher")
    )
    trainer = ReliableTrainer(still(student), args, train_dataset=rows)
    trainer.train()
    return trainer


def losses(model: Any, teacher: Any, batch: dict[str, Tensor]) -> dict[str, float]:
    """Return the terms of a batch without labels."""
    asked = {"output_hidden_states": True, "output_attentions": True}
    for one in (model, teacher):
        one.eval().set_attn_implementation("eager")
    with torch.no_grad():
        both = [one(**batch, **asked) for one in (model, teacher)]
    lesson = Lesson(inputs=batch, student=both[0], teacher=both[1], model=model)
    return {name: float(term.loss(lesson)) for name, term in TERMS.items()}


# --- the outputs ---


def test_the_classes_of_pixels_are_those_of_the_teacher(tmp_path):
    sizes: dict[str, Any] = {
        "hidden_sizes": [8, 8],
        "num_attention_heads": [2, 2],
        "depths": [1, 1],
    }
    shapes: dict[str, Any] = {
        "strides": [4, 2],
        "patch_sizes": [7, 3],
        "sr_ratios": [1, 1],
        "mlp_ratios": [2, 2],
    }
    config = SegformerConfig(
        **{"num_encoder_blocks": 2, "decoder_hidden_size": 8, "num_labels": 5, **sizes, **shapes}
    )
    student: Any = SegformerForSemanticSegmentation(config)
    teacher: Any = SegformerForSemanticSegmentation(config)
    with torch.no_grad():
        student.decode_head.classifier.bias[4] = 5.0
        teacher.decode_head.classifier.bias[0] = 5.0
    rows = [{"pixel_values": torch.rand(3, 32, 32)} for _ in range(8)]
    taught(student, teacher, rows, tmp_path, learning_rate=0.1)
    logits = student.eval()(rows[0]["pixel_values"][None]).logits
    assert (logits.argmax(1) == 0).all()


def test_a_regression_of_several_numbers_comes_to_those_of_the_teacher(tmp_path):
    config = BertConfig(**{**BERT, "num_labels": 3, "problem_type": "regression"})
    student, teacher = (BertForSequenceClassification(config) for _ in range(2))
    with torch.no_grad():
        student.classifier.bias.fill_(-5.0)
        teacher.classifier.bias.fill_(5.0)
    taught(student, teacher, [TEXT] * 8, tmp_path, learning_rate=0.1, max_steps=100)
    logits = student.eval()(torch.tensor([TEXT["input_ids"]])).logits
    assert float((logits - 5).detach().abs().max()) < 2


@pytest.mark.parametrize("distill", ["logits", "layers", "mixed"])
def test_several_labels_at_once_are_refused_whoever_says_so(distill, tmp_path):
    three = {**BERT, "num_labels": 3}
    student = BertForSequenceClassification(BertConfig(**three))
    several = BertConfig(**{**three, "problem_type": "multi_label_classification"})
    rows = [{**TEXT, "labels": [1.0, 0.0, 1.0]}] * 8
    with pytest.raises(ValueError, match="several labels at once"):
        taught(student, BertForSequenceClassification(several), rows, tmp_path, distill=distill)


@pytest.mark.parametrize("distill", ["logits", "last_hidden", "sparsebert"])
def test_outputs_that_are_not_there_are_named(distill, tmp_path):
    text: dict[str, Any] = {"vocab_size": VOCABULARY, "eos_token_id": 2, **SIZES}
    vision: dict[str, Any] = {"image_size": 8, "patch_size": 4, **SIZES}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    row = {"input_ids": [5, 6, 2], "pixel_values": torch.rand(3, 8, 8)}
    with pytest.raises(ValueError, match=r"returns no (logits|hidden).* Give another preset"):
        taught(CLIPModel(config), CLIPModel(config), [row] * 8, tmp_path, distill=distill)


# --- padding ---


def test_the_padding_of_sound_does_not_count():
    config = Wav2Vec2Config(
        **SIZES,
        conv_dim=(16, 16),
        conv_stride=(5, 2),
        conv_kernel=(10, 3),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer",
        vocab_size=16,
        add_adapter=False,
    )
    student, teacher = (Wav2Vec2ForCTC(config) for _ in range(2))
    sound = torch.randn(2, 400)

    def padded(by: int) -> dict[str, Tensor]:
        mask = torch.cat([torch.ones(2, 400), torch.zeros(2, by)], 1).long()
        return {"input_values": torch.cat([sound, torch.zeros(2, by)], 1), "attention_mask": mask}

    expected = losses(student, teacher, padded(0))
    for by in (200, 2000):
        assert losses(student, teacher, padded(by)) == pytest.approx(expected, rel=1e-3)


def test_the_padding_of_choices_does_not_count():
    student, teacher = (BertForMultipleChoice(BertConfig(**BERT)) for _ in range(2))
    ids = torch.randint(3, VOCABULARY, (2, 3, 6))

    def padded(by: int) -> dict[str, Tensor]:
        added = torch.zeros(2, 3, by, dtype=torch.long)
        mask = torch.cat([torch.ones_like(ids), added], -1)
        return {"input_ids": torch.cat([ids, added], -1), "attention_mask": mask}

    expected = losses(student, teacher, padded(0))
    assert losses(student, teacher, padded(20)) == pytest.approx(expected, rel=1e-4)


# --- student and teacher ---


@pytest.mark.parametrize("rows_of", [list, Dataset.from_list])
@pytest.mark.parametrize("removes", [True, False])
def test_the_teacher_reads_columns_that_the_student_does_not(removes, rows_of, tmp_path, caplog):
    teacher = BertForSequenceClassification(BertConfig(**BERT))
    student = DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=VOCABULARY, dim=32, n_layers=1, n_heads=4, hidden_dim=64)
    )
    rows = rows_of([{**TEXT, "token_type_ids": [0, 0, 1, 1]}] * 8)
    read: dict[str, list[Any]] = {"student": [], "teacher": []}

    def reading(who: str, model: Any) -> None:
        def note(_: Any, args: Any, kwargs: Any) -> None:
            read[who].append(kwargs.get("token_type_ids"))

        model.register_forward_pre_hook(note, with_kwargs=True)

    reading("student", student)
    trainer = taught(student, teacher, rows, tmp_path, max_steps=2, remove_unused_columns=removes)
    reading("teacher", trainer._teacher)
    trainer.train()
    assert read["student"] == [None] * 4
    assert [kinds[0].tolist() for kinds in read["teacher"]] == [[0, 0, 1, 1]] * 2
    assert "token_type_ids" not in trainer._signature_columns
    assert "token_type_ids" not in caplog.text


def test_a_teacher_that_misses_a_column_says_so(tmp_path, caplog):
    student = DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=VOCABULARY, dim=32, n_layers=1, n_heads=4, hidden_dim=64)
    )
    teacher = BertForSequenceClassification(BertConfig(**BERT))
    taught(student, teacher, [TEXT] * 8, tmp_path, max_steps=2)
    assert caplog.text.count("the teacher reads token_type_ids") == 1


def bart(**changes: Any) -> BartForSequenceClassification:
    sizes: dict[str, Any] = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2}
    heads: dict[str, Any] = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    dims: dict[str, Any] = {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": VOCABULARY}
    return BartForSequenceClassification(BartConfig(**sizes, **heads, **dims, **changes))


def test_layers_that_are_skipped_at_random_are_not_compared(tmp_path):
    rows = [{"input_ids": [5, 6, 7, 2]}] * 8
    message = r"from_pretrained\(\.\.\., encoder_layerdrop=0\.0\)"
    with pytest.raises(ValueError, match=message):
        taught(bart(encoder_layerdrop=0.3), bart(), rows, tmp_path, distill="layers")
    taught(bart(encoder_layerdrop=0.3), bart(), rows, tmp_path, max_steps=1)  # logits alone


def test_every_part_has_its_own_attention_again():
    vision = ViTConfig(image_size=8, patch_size=4, **SIZES)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        vision, BertConfig(**BERT, is_decoder=True, add_cross_attention=True)
    )
    model: Any = VisionEncoderDecoderModel(config)
    model.encoder.set_attn_implementation("eager")

    def implementations() -> list[Any]:
        return [part.config._attn_implementation for part in (model, model.encoder, model.decoder)]

    before = implementations()
    assert before[1] == "eager" != before[2]
    with eager_attention(model):
        assert implementations() == ["eager"] * 3
    assert implementations() == before


# --- what would go unnoticed ---


class Weighted(ReliableTrainer):
    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return model(**inputs).loss * 2


class WeightedBaseline(BaselineTrainer):
    compute_loss: Any = Weighted.compute_loss


def test_a_loss_that_leaves_the_teacher_out_is_refused(tmp_path):
    args: Any = {**QUIET, "max_steps": 1}
    data = examples("bert")
    plain = TargetedDropoutArguments(str(tmp_path), **args)
    Weighted(tiny_model("bert"), plain, train_dataset=data).train()
    tiny_model("bert", seed=7).save_pretrained(tmp_path / "teacher")
    distils = TargetedDropoutArguments(str(tmp_path), **args, teacher=str(tmp_path / "teacher"))
    with pytest.raises(TypeError, match="adds what the teacher says to the loss"):
        Weighted(tiny_model("bert"), distils, train_dataset=data).train()


def test_a_loss_that_leaves_the_penalty_out_is_refused(tmp_path):
    args = TargetedDropoutArguments(str(tmp_path), **{**QUIET, "max_steps": 1})
    trainer = WeightedBaseline(
        tiny_model("bert"), args, train_dataset=examples("bert"), baseline=L1(penalty=0.1)
    )
    with pytest.raises(TypeError, match="adds the penalty to the loss"):
        trainer.train()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "the teacher .* cannot be loaded"),
        (["adapter_config.json"], "is an adapter, and a whole model was expected"),
    ],
)
def test_a_folder_without_a_model_is_no_teacher(files, message, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in files:
        (folder / name).write_text("{}")
    args = TargetedDropoutArguments(str(tmp_path), **QUIET, teacher=str(folder))
    trainer = ReliableTrainer(tiny_model("bert"), args, train_dataset=examples("bert"))
    with pytest.raises(ValueError, match=message):
        trainer.train()
