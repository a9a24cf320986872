"""Distillation: its losses by hand, and in the training of every kind of Trainer."""

from __future__ import annotations

import gc
import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from torch.testing import assert_close
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from hf_td import TargetedDropoutArguments, TargetedDropoutTrainer
from hf_td.baselines import L1, BaselineTrainer
from hf_td.training import ReliableTrainer, forget_teacher, load_teacher
from hf_td.training.distillation import teacher as teachers
from hf_td.training.distillation import trainer as mixins
from hf_td.training.distillation.losses import (
    attention_loss,
    counted_tokens,
    hidden_loss,
    labelled_rows,
    labels_loss,
    logits_loss,
)
from tests.tiny import SIZES, VOCABULARY, tiny_model
from tests.training.models import QUIET, examples, seq2seq, trainer_of

BERT: dict[str, Any] = {"vocab_size": VOCABULARY, **SIZES}


def still(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model without stock dropout."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    """Return the folder of a tiny BERT."""
    tiny_model("bert", seed=7).save_pretrained(tmp_path / "teacher")
    return str(tmp_path / "teacher")


def first_loss(trainer: Any) -> float:
    """Return the loss of the first update."""
    trainer.train()
    return trainer.state.log_history[0]["loss"]


def reliable(model: Any, folder: Path, family: str = "bert", **settings: Any) -> ReliableTrainer:
    settings = {**QUIET, "max_steps": 1, **settings}
    arguments = TargetedDropoutArguments(str(folder), **settings)
    return ReliableTrainer(model, arguments, train_dataset=examples(family))


# --- the losses ---


def test_the_divergence_by_hand():
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3), 0.0]])
    # At temperature 2 the teacher says 3 to 1: .75 ln(.75 / .5) + .25 ln(.25 / .5), times 4.
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert float(logits_loss(student, teacher, 2.0)) == pytest.approx(expected, rel=1e-5)
    assert float(logits_loss(teacher, teacher, 2.0)) == pytest.approx(0, abs=1e-6)


def test_the_teacher_is_what_is_approached():
    student = torch.zeros(1, 3, requires_grad=True)
    teacher = torch.tensor([[1.0, 2.0, 4.0]])
    logits_loss(student, teacher, 1.0).backward()
    assert_close(student.grad, torch.full((1, 3), 1 / 3) - teacher.softmax(-1))


def test_of_a_regression_it_is_the_squared_error():
    student, teacher = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [2.5]])
    assert float(logits_loss(student, teacher, 2.0)) == pytest.approx((4 + 0.25) / 2)


def test_tokens_without_a_label_do_not_count():
    logits = torch.zeros(1, 4, 5)
    labels = torch.tensor([[-100, 3, -100, 2]])
    rows = counted_tokens(logits, labels, None, shifted=False)
    assert rows is not None
    assert rows.tolist() == [[False, True, False, True]]
    shifted = counted_tokens(logits, labels, None, shifted=True)
    assert shifted is not None
    assert shifted.tolist() == [[True, False, True, False]]
    teacher = torch.randn(1, 4, 5)
    expected = (
        logits_loss(logits[:, 0], teacher[:, 0], 1.0)
        + logits_loss(logits[:, 2], teacher[:, 2], 1.0)
    ) / 2
    assert_close(logits_loss(logits, teacher, 1.0, shifted), expected)


def test_without_labels_all_tokens_but_padding_count_and_every_row():
    logits, mask = torch.zeros(1, 4, 5), torch.tensor([[1, 1, 1, 0]])
    counts = counted_tokens(logits, None, mask, shifted=True)
    assert counts is not None
    assert counts.tolist() == [[True, True, True, False]]
    # The teacher labels the rows that have no label.
    assert counted_tokens(logits[:, 0], torch.tensor([-100]), None, shifted=False) is None
    assert counted_tokens(logits, None, None, shifted=False) is None


def test_hidden_states_are_compared_layer_by_layer_where_tokens_count():
    ours = [torch.zeros(1, 2, 3), torch.ones(1, 2, 3)]
    theirs = [torch.full((1, 2, 3), 2.0), torch.tensor([[[1.0] * 3, [4.0] * 3]])]
    assert float(hidden_loss(ours, theirs)) == pytest.approx((4 + 4.5) / 2)
    first = torch.tensor([[True, False]])
    assert float(hidden_loss(ours, theirs, first)) == pytest.approx((4 + 0) / 2)


def test_hidden_states_are_compared_at_equal_depth():
    ours = [torch.full((1, 2, 3), float(i)) for i in (0, 2, 4)]
    theirs = [torch.full((1, 2, 3), float(i)) for i in range(5)]
    assert float(hidden_loss(ours, theirs)) == 0
    assert float(hidden_loss(theirs, [ours[0], ours[2]])) == pytest.approx((0 + 1 + 4 + 1 + 0) / 5)


def test_hidden_states_of_other_widths_need_maps():
    ours, theirs = [torch.ones(1, 2, 3)] * 2, [torch.ones(1, 2, 4)] * 2
    with pytest.raises(ValueError, match=r"student's is \(1, 2, 3\), the teacher's \(1, 2, 4\)"):
        hidden_loss(ours, theirs)
    maps = [nn.Linear(3, 4, bias=False) for _ in ours]
    for layer in maps:
        nn.init.eye_(layer.weight)
    assert hidden_loss(ours, theirs, maps=maps).item() == pytest.approx(1 / 4)


def test_attention_by_hand():
    even = torch.full((1, 2, 2, 2), 0.5)
    first = torch.tensor([1.0, 0.0]).expand(1, 2, 2, 2)
    assert float(attention_loss([first], [even])) == pytest.approx(0.5)
    assert float(attention_loss([first], [1 - first])) == pytest.approx(2)
    # Of other numbers of heads the means are compared; layer 1 of 1 with layer 2 of 2.
    mixed = torch.stack([first[:, 0], 1 - first[:, 0]], dim=1)
    assert float(attention_loss([even[:, :1]], [first, mixed])) == pytest.approx(0)
    counts = torch.tensor([[True, False]])
    only = first.clone()
    only[..., 1, :] = 0.5
    assert float(attention_loss([only], [even], counts)) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="a model returned no attention maps"):
        attention_loss([], [even])


def test_rows_without_a_label_add_nothing_to_the_loss_of_the_labels():
    logits = torch.tensor([[0.0, 0.0], [3.0, 1.0], [1.0, 2.0]])
    labels = torch.tensor([0, -100, 1])
    rows = labelled_rows(labels)
    assert rows is not None
    assert rows.tolist() == [True, False, True]
    expected = torch.nn.functional.cross_entropy(logits[rows], labels[rows]) * 2 / 3
    assert_close(labels_loss(logits, labels), expected)
    numbers = torch.tensor([1.0, float("nan"), 3.0])
    assert_close(labels_loss(logits[:, :1], numbers), torch.tensor((1 + 0 + 4) / 3))
    assert labelled_rows(torch.tensor([0, 1])) is None
    assert labelled_rows(torch.tensor([[0, -100]])) is None
    assert float(labels_loss(logits, torch.full((3,), -100))) == 0


# --- in a Trainer ---


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_the_loss_is_shared_by_labels_and_teacher(weight, teacher, tmp_path):
    student = still(tiny_model("bert"))
    batch = torch.stack([row["input_ids"] for row in examples("bert")])
    labels = torch.stack([row["labels"] for row in examples("bert")])
    with torch.no_grad():
        task = student(batch, labels=labels)
        wanted = tiny_model("bert", seed=7)(batch).logits
    expected = (1 - weight) * task.loss + weight * logits_loss(task.logits, wanted, 3.0)
    trainer = reliable(
        student,
        tmp_path,
        per_device_train_batch_size=32,
        teacher=teacher,
        distill_weight=weight,
        distill_temperature=3.0,
    )
    assert first_loss(trainer) == pytest.approx(float(expected), rel=1e-4)


def test_a_teacher_that_the_student_equals_teaches_nothing(tmp_path):
    student = still(tiny_model("bert"))
    student.save_pretrained(tmp_path / "teacher")
    settings = {"teacher": str(tmp_path / "teacher"), "distill_weight": 1.0}
    trainer = reliable(student, tmp_path, distill_hidden_weight=1.0, **settings)
    assert first_loss(trainer) == pytest.approx(0, abs=1e-6)


def test_hidden_states_are_added(teacher, tmp_path):
    losses = {}
    for weight in (0.0, 0.5):
        trainer = reliable(
            still(tiny_model("bert")), tmp_path, teacher=teacher, distill_hidden_weight=weight
        )
        losses[weight] = first_loss(trainer)
    assert losses[0.5] > losses[0.0] + 0.1


@pytest.mark.parametrize("kind", [ReliableTrainer, TargetedDropoutTrainer, BaselineTrainer])
def test_every_trainer_distils_and_leaves_the_teacher_alone(kind, teacher, tmp_path, monkeypatch):
    loads = []
    monkeypatch.setattr(
        BertForSequenceClassification,
        "from_pretrained",
        counting(BertForSequenceClassification.from_pretrained, loads),
    )
    forget_teacher()
    own: dict[str, Any] = {"baseline": L1(penalty=0.0)} if kind is BaselineTrainer else {}
    found = {}
    for weight in (0.0, 1.0):
        settings = {**QUIET, "max_steps": 3, "targeting": 0.5, "distill_weight": weight}
        arguments = TargetedDropoutArguments(str(tmp_path), teacher=teacher, **settings)
        trainer = kind(tiny_model("bert"), arguments, train_dataset=examples("bert"), **own)
        trainer.train()
        found[weight] = trainer.model.get_parameter("classifier.weight").detach().clone()
    assert not torch.equal(found[0.0], found[1.0])
    assert len(loads) == 1
    loaded = load_teacher(teacher, tiny_model("bert"))
    assert len(loads) == 1
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    for name, tensor in tiny_model("bert", seed=7).state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_a_teacher_whose_folder_is_written_anew_is_loaded_anew(teacher):
    first = load_teacher(teacher, tiny_model("bert"))
    assert load_teacher(teacher, tiny_model("bert")) is first
    tiny_model("bert", seed=8).save_pretrained(teacher)
    second = load_teacher(teacher, tiny_model("bert"))
    for name, tensor in tiny_model("bert", seed=8).state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor)


def test_a_teacher_that_is_forgotten_leaves_the_memory(teacher):
    kept = weakref.ref(load_teacher(teacher, tiny_model("bert")))
    gc.collect()
    assert kept() is not None
    forget_teacher()
    gc.collect()
    assert kept() is None


def counting(load: Any, calls: list[Any]) -> Any:
    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return load(*args, **kwargs)

    return counted


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "vit"])
def test_other_tasks_distil_too(family, tmp_path):
    tiny_model(family, seed=7).save_pretrained(tmp_path / "teacher")
    settings = {"max_steps": 2, "teacher": str(tmp_path / "teacher"), "distill_hidden_weight": 0.1}
    settings["targeting"] = 0.5
    trainer = trainer_of(tiny_model(family), seq2seq(family, tmp_path, **settings), family)
    trainer.train()
    assert trainer.state.global_step == 2


def test_the_ends_of_an_answer_are_distilled_as_two_distributions(tmp_path):
    torch.manual_seed(0)
    student, taught = (BertForQuestionAnswering(BertConfig(**BERT)) for _ in range(2))
    still(student)
    taught.save_pretrained(tmp_path / "teacher")
    batch = torch.randint(3, VOCABULARY, (4, 7))
    with torch.no_grad():
        ours, theirs = student.eval()(batch), taught.eval()(batch)
    ends = ("start_logits", "end_logits")
    expected = sum(logits_loss(ours[end], theirs[end], 2.0) for end in ends) / 2
    positions = {"start_positions": 1, "end_positions": 2}
    rows = [{"input_ids": ids, **positions} for ids in batch]
    settings = {**QUIET, "max_steps": 1, "per_device_train_batch_size": 4, "distill_weight": 1.0}
    arguments = TargetedDropoutArguments(
        str(tmp_path), teacher=str(tmp_path / "teacher"), **settings
    )
    trainer = ReliableTrainer(student, arguments, train_dataset=rows)
    assert first_loss(trainer) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_teacher_counts_once_in_an_update(family, tmp_path):
    tiny_model(family, seed=7).save_pretrained(tmp_path / "teacher")
    losses = []
    for accumulation in (1, 2):
        trainer = reliable(
            still(tiny_model(family)),
            tmp_path,
            family,
            per_device_train_batch_size=4 // accumulation,
            gradient_accumulation_steps=accumulation,
            teacher=str(tmp_path / "teacher"),
            distill_weight=1.0,
        )
        losses.append(first_loss(trainer))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("bf16", [False, True])
def test_the_teacher_computes_logits_alone_and_in_the_type_that_training_does(
    bf16, teacher, tmp_path, monkeypatch
):
    trainer = reliable(tiny_model("bert"), tmp_path, teacher=teacher, bf16=bf16)
    types, losses = [], []

    def load(*args: Any) -> PreTrainedModel:
        known: Any = load_teacher(*args)
        known.classifier.register_forward_hook(lambda *parts: types.append(parts[2].dtype))
        known.register_forward_hook(lambda *parts: losses.append(parts[2].get("loss")))
        return known

    monkeypatch.setattr(mixins, "load_teacher", load)
    trainer.train()
    assert types == [torch.bfloat16 if bf16 else torch.float32]
    assert losses == [None]


def test_evaluation_does_not_ask_the_teacher(tmp_path):
    student = tiny_model("bert")
    data = examples("bert")
    plain = TargetedDropoutArguments(str(tmp_path), **QUIET)
    taught = TargetedDropoutArguments(str(tmp_path), teacher=str(tmp_path / "nowhere"), **QUIET)
    losses = [
        ReliableTrainer(student, arguments, eval_dataset=data).evaluate()["eval_loss"]
        for arguments in (plain, taught)
    ]
    assert losses[0] == losses[1]


# --- what is refused ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 70}, "the size of the vocabulary is 70, not 64"),
        ({"num_labels": 3}, "the number of labels is 3, not 2"),
        ({"id2label": {0: "no", 1: "yes"}}, "the labels is {0: 'no', 1: 'yes'}, not {0: 'yes'"),
    ],
)
def test_a_teacher_of_other_words_or_labels_is_refused(changes, message, tmp_path):
    config = BertConfig(**{**BERT, **changes})
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    student = tiny_model("bert")
    if "id2label" in changes:
        student.config.id2label = {0: "yes", 1: "no"}
    with pytest.raises(ValueError, match=message):
        load_teacher(str(tmp_path), student)


def test_a_teacher_of_another_task_is_refused(tmp_path):
    tiny_model("gpt2").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the task is ForCausalLM, not ForSequenceClassification"):
        load_teacher(str(tmp_path), tiny_model("bert"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distill_temperature": 0}, "distill_temperature is positive, got 0"),
        ({"distill_weight": 1.5}, r"distill_weight is a share in \[0, 1\], got 1.5"),
        ({"distill_hidden_weight": -1}, "distill_hidden_weight is at least 0, got -1"),
    ],
)
def test_bad_settings_are_refused(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        TargetedDropoutArguments(str(tmp_path), use_cpu=True, **settings)


def test_the_words_of_the_teacher_are_compared_once(teacher, tmp_path, monkeypatch):
    compared: list[Any] = []
    monkeypatch.setattr(teachers, "_check_tokens", counting(lambda *_: None, compared))
    settings = {**QUIET, "max_steps": 3, "gradient_accumulation_steps": 2}
    arguments = TargetedDropoutArguments(str(tmp_path / "run"), teacher=teacher, **settings)
    trainer = TargetedDropoutTrainer(
        tiny_model("bert"), arguments, train_dataset=examples("bert"), processing_class=Words()
    )
    trainer.train()
    assert len(compared) == 1


class Words(PreTrainedTokenizerFast):
    """A tokenizer of two words that collates tokenized examples."""

    def __init__(self) -> None:
        words = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
        super().__init__(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")


def test_an_optimiser_can_be_made_again_with_the_head_frozen(teacher, tmp_path):
    """As the Trainer does after a batch that was too large, and a user who looks at the groups."""
    args = seq2seq("bert", tmp_path, teacher=teacher, distill="last_hidden")
    trainer = trainer_of(tiny_model("bert"), args)
    first = trainer.create_optimizer()
    trainer.optimizer = None
    second = trainer.create_optimizer()
    sizes = [sum(len(group["params"]) for group in one.param_groups) for one in (first, second)]
    assert sizes[0] == sizes[1]
    callbacks = len(trainer.callback_handler.callbacks)
    trainer.train()
    assert len(trainer.callback_handler.callbacks) <= callbacks
    assert all(p.requires_grad for p in trainer.model.parameters())
