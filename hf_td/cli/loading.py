"""Loads a trained model of any task, and its tokenizer or processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers import AutoProcessor, PreTrainedTokenizerBase

from hf_td.files import check_free
from hf_td.hub.forms.form import ARCHIVE_NAME
from hf_td.hub.sentences import find_modules
from hf_td.modules.stock_models import stock_class
from hf_td.ranking.activations import attach_activations, download_activations, find_activations
from hf_td.ranking.learned import attach_learned, download_learned, find_learned
from hf_td.tasks.errors import UsageError, blaming_input
from hf_td.tasks.experiment.arguments import ModelArguments
from hf_td.tasks.models import ModelSource, find_model, reading_weights
from hf_td.training.vocabulary import knows_words


def load_model(name: str, *, trust_remote_code: bool) -> tuple[Any, ModelSource]:
    """Load a model with the class and dtype that it was saved with.

    Args:
        name: a folder, or an id on the Hub.
        trust_remote_code: run the code in the model's repository.

    Returns:
        The model, and the source that its processor can be loaded from.

    Raises:
        UsageError: there is no such trained model, or its class is not known.
    """
    source = find_model(
        ModelArguments(model_name_or_path=name, trust_remote_code=trust_remote_code)
    )
    model_class = _find_class(name, source.load_config())
    if source.is_new:
        raise UsageError(f"{name} is an untrained model. Give a model that has weights.")
    _check_no_archive(name)
    with reading_weights(source.model), blaming_input():
        model = model_class.from_pretrained(source.model, dtype="auto", **source.options)
        _attach_saved_values(model, source)
    return model, source


def check_output(name: str, output: Path, *, overwrite: bool) -> None:
    """Raise UsageError unless a folder may be written, and is not that of the model.

    Args:
        name: folder of the model, or an id on the Hub.
        output: the folder to write.
        overwrite: as for `check_free`.
    """
    if output.is_dir() and output.resolve() == Path(name).resolve():
        raise UsageError(
            f"OUTPUT {output} is the folder of the model itself, which would be lost. Give another "
            "folder."
        )
    with blaming_input():
        check_free(output.absolute(), overwrite=overwrite)


def _check_no_archive(name: str) -> None:
    """Raise UsageError for a local archive: no class of transformers loads it."""
    if (Path(name) / ARCHIVE_NAME).is_file() or Path(name).name == ARCHIVE_NAME:
        raise UsageError(
            f"{name} is an archive of compressed weights. Write it as a checkpoint first, and give "
            f'that: python -c "from hf_td.hub import load_archived_model as load; '
            f"load('{name}').save_pretrained('FOLDER')\""
        )


def _attach_saved_values(model: Any, source: ModelSource) -> None:
    """Attach the activations and learned scores saved next to the weights, also on the Hub."""
    options = {name: v for name, v in source.options.items() if name != "trust_remote_code"}
    attach_activations(model, find_activations(model) or download_activations(model, **options))
    attach_learned(model, find_learned(model) or download_learned(model, **options))


def _find_class(name: str, config: Any) -> Any:
    """Return the class that the config names. AutoModel would drop the head without a warning."""
    known = stock_class(config.architectures)
    if known is not None:
        return known
    saved_as = config.architectures or []
    for auto_class, path in (getattr(config, "auto_map", None) or {}).items():
        if auto_class.startswith("AutoModel") and path.rpartition(".")[2] in saved_as:
            return getattr(transformers, auto_class)
    raise UsageError(
        f"The config of {name} names no known class of the model (architectures: "
        f"{config.architectures}). A class with a head is expected, such as "
        '["BertForSequenceClassification"]. Add it to config.json.'
    )


def find_sentence_modules(source: ModelSource) -> Path | None:
    """Return the folder with the modules of a SentenceTransformer; None for any other model."""
    options = {name: v for name, v in source.options.items() if name != "trust_remote_code"}
    with blaming_input():
        return find_modules(source.model, **options)


def load_processor(source: ModelSource) -> Any:
    """Load the processor, tokenizer or image processor; print why and return None without one."""
    try:
        processor = AutoProcessor.from_pretrained(source.tokenizer, **source.options)
        tokenizer = getattr(processor, "tokenizer", processor)
        if isinstance(tokenizer, PreTrainedTokenizerBase) and not knows_words(tokenizer):
            raise ValueError(f"{source.tokenizer} has no vocabulary")
        return processor
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().partition(". ")[0]
        print(f"the export has no tokenizer or processor: {reason}")
        return None
