from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModel

from hf_td import prune_model
from hf_td.hub import export_model, load_archived_model
from tests.tiny import FAMILIES, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_an_archived_model_comes_back_bit_for_bit(family, tmp_path):
    model = tiny_model(family)
    prune_model(model, 0.9)
    export = export_model(model, tmp_path / "archive", form="archive", check=False)
    again = load_archived_model(export.folder)
    assert type(again) is type(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert export.parameters == model.num_parameters()


def _trained_in_float32(model: Any) -> None:
    model.config.dtype = torch.bfloat16  # as of a checkpoint that was loaded in another type


def _cast(model: Any) -> None:
    model.config.dtype = torch.float32
    model.bfloat16()


def _mixed(model: Any) -> None:
    model.bfloat16()
    model.transformer.ln_f.float()


@pytest.mark.parametrize("change", [_trained_in_float32, _cast, _mixed])
def test_every_tensor_of_an_archive_comes_back_in_its_type(change, tmp_path):
    model = tiny_model("gpt2")
    change(model)
    export = export_model(model, tmp_path / "archive", form="archive", check=False)
    again = load_archived_model(export.folder)
    for name, tensor in model.state_dict().items():
        found = again.state_dict()[name]
        assert (found.dtype, torch.equal(found, tensor)) == (tensor.dtype, True), name
    assert again.lm_head.weight is again.transformer.wte.weight
    assert again.config.dtype == model.dtype


def test_an_archive_is_loaded_in_a_fresh_process_before_it_is_kept(tmp_path):
    model = tiny_model("bert")
    prune_model(model, 0.5)
    assert export_model(model, tmp_path / "archive", form="archive").ways == ("archive",)
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModel.from_pretrained(tmp_path / "archive")


def test_an_archived_model_generates_as_it_did(tmp_path):
    model = tiny_model("gpt2")
    model.generation_config.update(max_new_tokens=3, pad_token_id=1)
    export = export_model(model, tmp_path / "archive", form="archive", check=False)
    assert load_archived_model(export.folder).generation_config.max_new_tokens == 3
    assert load_archived_model(export.folder).generation_config.pad_token_id == 1


def test_a_folder_without_an_archive_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no model\.archive\.safetensors"):
        load_archived_model(tmp_path)


def test_a_config_that_names_no_model_of_transformers_is_refused(tmp_path):
    export = export_model(tiny_model("bert"), tmp_path / "a", form="archive", check=False)
    config = export.folder / "config.json"
    config.write_text(config.read_text().replace("BertForSequenceClassification", "os"))
    with pytest.raises(ValueError, match="names 'os', which is no model class"):
        load_archived_model(export.folder)


def test_the_largest_size_is_the_callers(tmp_path):
    export_model(tiny_model("bert"), tmp_path / "archive", form="archive")
    with pytest.raises(ValueError, match="at most limit=1000 bytes"):
        load_archived_model(tmp_path / "archive", limit=1000)
