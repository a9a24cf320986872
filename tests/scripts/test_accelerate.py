"""The files of scripts/accelerate are configs that accelerate knows."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env

FOLDER = Path(__file__).parents[2] / "scripts" / "accelerate"
TYPES = {
    "ddp": DistributedType.MULTI_GPU,
    "fsdp2": DistributedType.FSDP,
    "fsdp2-nodes": DistributedType.FSDP,
    "zero2": DistributedType.DEEPSPEED,
}


def test_every_file_is_in_the_table():
    assert {path.stem for path in FOLDER.glob("*")} == set(TYPES)


@pytest.mark.parametrize("name", TYPES)
def test_accelerate_reads_it(name):
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))  # refuses unknown keys
    assert config.distributed_type == TYPES[name]
    assert config.mixed_precision == "bf16"


def launched(name: str):
    """Return the arguments of `accelerate launch` with a config, as it understands them."""
    path = str(FOLDER / f"{name}.yaml")
    parser = launch_command_parser()
    given = ["--config_file", path, "--main_process_ip", "127.0.0.1", "train.py"]
    return _validate_launch_command(parser.parse_args(given))[0]


@pytest.mark.parametrize("name", TYPES)
def test_every_nested_key_is_an_option_of_the_launcher(name):
    options = {action.dest for action in launch_command_parser()._actions}
    file = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    for part in ("fsdp_config", "deepspeed_config"):
        assert set(file.get(part, {})) <= options


@pytest.mark.parametrize("name", ["fsdp2", "fsdp2-nodes"])
def test_the_launcher_hands_fsdp_to_the_processes(name):
    environment = prepare_multi_gpu_env(launched(name))
    assert environment["ACCELERATE_USE_FSDP"] == "true"
    assert environment["FSDP_VERSION"] == "2"
    assert environment["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"
    assert environment["FSDP_RESHARD_AFTER_FORWARD"] == "true"
    kind = "FULL_STATE_DICT" if name == "fsdp2" else "SHARDED_STATE_DICT"
    assert environment["FSDP_STATE_DICT_TYPE"] == kind
