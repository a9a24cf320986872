"""A batch gives the same gradient however it is split: into micro-batches, or over processes.

The stock Trainer gives some heads a multiple of it:
https://github.com/huggingface/transformers/issues/47688
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.multiprocessing.spawn import spawn
from transformers import BartConfig, PreTrainedModel, TrainerCallback

from hf_td import TargetedDropoutTrainer
from hf_td.baselines import L1
from hf_td.baselines.trainer import BaselineTrainer
from hf_td.training import ReliableTrainer
from hf_td.training.losses import divides_by_items
from tests.tiny import VOCABULARY, tiny_model
from tests.training.models import arguments

ROWS = 8

# Each head, and whether its loss is divided by num_items_in_batch.
HEADS = {
    "BertForSequenceClassification": False,
    "BertForTokenClassification": False,
    "BertForMaskedLM": False,
    "BertForMultipleChoice": False,
    "BertForQuestionAnswering": None,  # has no labels: Trainer counts no items
    "RobertaForSequenceClassification": False,
    "DistilBertForSequenceClassification": False,
    "T5ForConditionalGeneration": False,
    "BartForConditionalGeneration": False,
    "ViTForImageClassification": True,
    "GPT2LMHeadModel": True,
    "GPT2ForSequenceClassification": False,
    "LlamaForCausalLM": True,
    "LlamaForSequenceClassification": False,
}
FAMILIES = {"Bert": "bert", "Roberta": "roberta", "Distil": "distilbert", "T5": "t5"}
BART = BartConfig(
    vocab_size=VOCABULARY,
    d_model=32,
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=64,
    decoder_ffn_dim=64,
)
FAMILIES |= {"Bart": "bart", "ViT": "vit", "GPT2": "gpt2", "Llama": "llama"}


def head(name: str) -> PreTrainedModel:
    family = next(family for start, family in FAMILIES.items() if name.startswith(start))
    config = tiny_model(family).config if family != "bart" else BART
    torch.manual_seed(0)
    return getattr(transformers, name)(still(config))


def still(config: Any) -> Any:
    """Return the config itself, without dropout."""
    rates = [key for key, value in vars(config).items() if "drop" in key and value]
    config.update(dict.fromkeys(rates, 0.0))
    config.pad_token_id = 0
    return config


def rows(name: str) -> Any:
    draws = torch.Generator().manual_seed(0)
    ids = torch.randint(3, VOCABULARY, (ROWS, 7), generator=draws)
    classes = torch.arange(ROWS) % 2
    if "Image" in name:
        pixels = torch.rand(ROWS, 3, 16, 16, generator=draws)
        return [{"pixel_values": pixels[i], "labels": classes[i]} for i in range(ROWS)]
    if "Question" in name:
        return [{"input_ids": x, "start_positions": 1, "end_positions": 2} for x in ids]
    if "Choice" in name:
        return [{"input_ids": torch.stack([x, x.flip(0)]), "labels": 1} for x in ids]
    if "Sequence" in name:
        return [{"input_ids": ids[i], "labels": classes[i]} for i in range(ROWS)]
    labels = ids % 2 if "Token" in name else ids
    return [{"input_ids": ids[i], "labels": labels[i]} for i in range(ROWS)]


class Gradients(TrainerCallback):
    """Keeps the gradients of the first update."""

    def __init__(self) -> None:
        self.found: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        grads = ((name, p.grad) for name, p in kwargs["model"].named_parameters())
        self.found = {name.removeprefix("module."): g.clone() for name, g in grads if g is not None}


def gradients(
    name: str,
    folder: Path,
    accumulation: int,
    trainer: Any,
    batch: int = ROWS,
    data: Any = None,
    **settings: Any,
) -> dict[str, torch.Tensor]:
    own = settings.pop("own", {})
    args = arguments(
        folder,
        max_steps=1,
        per_device_train_batch_size=batch // accumulation,
        gradient_accumulation_steps=accumulation,
        drop_rate=0.0,
        max_grad_norm=0.0,
        ddp_find_unused_parameters=True,
        **settings,
    )
    kept = Gradients()
    trainer(head(name), args, train_dataset=data or rows(name), callbacks=[kept], **own).train()
    assert kept.found
    return kept.found


@pytest.mark.parametrize("name", HEADS)
def test_micro_batches_give_the_gradient_of_their_batch(name, tmp_path):
    whole, split = (gradients(name, tmp_path, n, TargetedDropoutTrainer) for n in (1, 4))
    torch.testing.assert_close(split, whole, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("trainer", "own"), [(ReliableTrainer, {}), (BaselineTrainer, {"baseline": L1(penalty=10.0)})]
)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_so_they_do_in_every_trainer(trainer, own, smoothing, tmp_path):
    name, settings = "BertForSequenceClassification", {"label_smoothing_factor": smoothing}
    whole, split = (gradients(name, tmp_path, n, trainer, own=own, **settings) for n in (1, 4))
    torch.testing.assert_close(split, whole, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_the_share_of_the_teacher_does_not_depend_on_the_split(weight, tmp_path):
    tiny_model("bert", seed=7).save_pretrained(tmp_path / "teacher")
    teacher = {"teacher": str(tmp_path / "teacher"), "distill_weight": weight}
    name = "BertForSequenceClassification"
    whole, split = (gradients(name, tmp_path, n, TargetedDropoutTrainer, **teacher) for n in (1, 4))
    torch.testing.assert_close(split, whole, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", [name for name, divides in HEADS.items() if divides is not None])
def test_what_a_loss_is_divided_by_is_measured(name):
    model = head(name).train()
    batch = torch.utils.data.default_collate(rows(name))
    state, modes = torch.get_rng_state(), [module.training for module in model.modules()]
    assert divides_by_items(model, batch, torch.tensor(8)) is HEADS[name]
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes


def test_a_loss_without_labels_tells_nothing():
    model = head("GPT2LMHeadModel")
    nothing = torch.full((2, 7), -100)
    batch = {"input_ids": torch.ones_like(nothing), "labels": nothing}
    assert divides_by_items(model, batch, torch.tensor(8)) is None


def test_nothing_is_measured_where_a_batch_is_whole(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("hf_td.training.reliable.divides_by_items", lambda *args: calls.append(1))
    gradients("BertForSequenceClassification", tmp_path, 1, TargetedDropoutTrainer)
    assert not calls


def work(rank: int, name: str, folder: str, accumulation: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    batch = ROWS // 2
    found = gradients(name, Path(folder), accumulation, TargetedDropoutTrainer, batch)
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("name", ["BertForSequenceClassification", "LlamaForCausalLM"])
def test_two_processes_have_the_gradient_of_one(name, accumulation, tmp_path, monkeypatch):
    whole = gradients(name, tmp_path, 1, TargetedDropoutTrainer)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("MASTER_PORT", str(server.getsockname()[1]))
    spawn(work, (name, str(tmp_path), accumulation), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found, whole, rtol=1e-3, atol=1e-6)


def test_smoothed_labels_with_gaps_do_not_depend_on_the_split(tmp_path):
    tiny_model("bert", seed=7).save_pretrained(tmp_path / "teacher")
    settings = {"teacher": str(tmp_path / "teacher"), "label_smoothing_factor": 0.2}
    name = "BertForSequenceClassification"
    none = {"labels": torch.tensor(-100)}
    data = [{**row, **none} if i in (1, 2) else row for i, row in enumerate(rows(name))]
    whole, split = (
        gradients(name, tmp_path, n, TargetedDropoutTrainer, data=data, **settings) for n in (1, 4)
    )
    torch.testing.assert_close(split, whole, rtol=1e-3, atol=1e-6)
