"""The interface of an export form: how it plans, writes, is checked and is loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from hf_td.anatomy import Anatomy, Holder, probe_inputs
from hf_td.hub import safetensors_files
from hf_td.hub.verify import verify_way
from hf_td.hub.way import Way

# The file of an archive. It is named here, where no codec is needed to ask if there is one. No
# loader takes a file of this name for weights: `from_pretrained` says that it finds none.
ARCHIVE_NAME = "model.archive.safetensors"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model to be exported.

    Attributes:
        model: a copy that shares every tensor with the caller's model, not yet cut.
        anatomy: its reading.
        needed: the number of units that each holder needs; a holder that is not listed needs all.
        keep_heads_stock: keep all heads where a stock config cannot express fewer.
    """

    model: Any
    anatomy: Anatomy
    needed: Mapping[Holder, int]
    keep_heads_stock: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A decision to write a model in a form.

    Attributes:
        units: the number of units that each holder keeps; a holder that is not listed keeps all.
        config: of the result; None for that of the model.
        reason: why the form can hold the model.
        exception: what the result has beside what it needs.
    """

    units: Mapping[Holder, int] = field(default_factory=dict)
    config: Any = None
    reason: str = ""
    exception: str = ""


class Refusal(ValueError):
    """A refusal: the form cannot hold the model.

    Attributes:
        reason: why, without advice; `auto` gives it as the reason for the next form.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Place:
    """The place of a finished export.

    Attributes:
        name: of its folder.
        repo_id: on the Hub, where that is known.
        processor: the class that loads the tokenizer or processor saved with it; None without one.
    """

    name: str
    repo_id: str | None = None
    processor: str | None = None


class Form(ABC):
    """One way to write a model into a folder. The defaults are those of a checkpoint.

    Attributes:
        files: patterns of the names of the files that hold an export, beside config.json.
        compresses: True where zeros take no space in these files.
        for_transformers: False where nothing loads an export as a model of PyTorch.
    """

    files: ClassVar[Sequence[str]] = safetensors_files.PATTERNS
    compresses: ClassVar[bool] = False
    for_transformers: ClassVar[bool] = True

    def check_installed(self) -> None:  # noqa: B027 - most forms need no extra
        """Raise ImportError unless the packages that the form needs are installed."""

    def check_model(self, model: Any) -> None:  # noqa: B027 - most forms hold every model
        """Raise Refusal if the form holds no model of this architecture, whatever is pruned."""

    @abstractmethod
    def plan(self, source: Source) -> Plan:
        """Decide what to keep of a model.

        Raises:
            Refusal: the form cannot hold the model.
        """

    def cure(self, source: Source) -> str:
        """Return a sentence on how to get a model that the form can hold; empty without one."""
        return ""

    @abstractmethod
    def write(self, model: Any, folder: Path, example_inputs: Mapping[str, Any] | None) -> None:
        """Write the weights and config.json of a model that was cut as planned."""

    def weights(self, folder: Path) -> list[Path]:
        """Return the files of a folder that hold weights in this form; empty without any."""
        return safetensors_files.find_weights(folder)

    def check_weights(self, file: Path) -> None:
        """Raise ValueError unless an existing file of weights is whole."""
        safetensors_files.check_readable(file)

    @abstractmethod
    def ways(self, model: Any) -> tuple[Way, ...]:
        """Return the ways in which the export of a model loads."""

    def verify(
        self, model: Any, exported: Any, folder: Path, example_inputs: Mapping[str, Any] | None
    ) -> tuple[str, ...]:
        """Load the export in each way, and compare what it computes with what the model computes.

        Args:
            model: the caller's model.
            exported: the model as it was written.
            folder: that holds the export.
            example_inputs: what `model(**example_inputs)` takes, or None to make some.

        Returns:
            The names of the ways.

        Raises:
            RuntimeError: the export does not load, or computes something else.
        """
        ways = self.ways(exported)
        inputs = probe_inputs(model) if example_inputs is None else example_inputs
        for way in ways:
            verify_way(model, folder, way, inputs)
        return tuple(way.name for way in ways)

    @abstractmethod
    def how_to_load(self, exported: Any, place: Place) -> str:
        """Return the section of the model card that says how to load the export, in Markdown."""

    def limitation(self, *, all_stored: bool) -> str | None:
        """Return the card's sentence about removed weights that are stored as zeros.

        Args:
            all_stored: True where no removed weight was taken out.
        """
        if not all_stored:
            return None
        return (
            "What was removed is stored as zeros: the files are as large as those of the dense "
            "model, and a forward takes as long, except on engines that make use of zeros."
        )


def loading_code(way: Way, place: Place) -> str:
    """Return the code that loads an export in one way, as a Markdown block."""
    lines = [
        way.imports(*filter(None, [place.processor])),
        "",
        f'model_id = "{place.repo_id or place.name}"  # its id on the Hub, or a folder that holds '
        "it",
        f"model = {way.call}",
    ]
    if place.processor is not None:
        name = "tokenizer" if place.processor == "AutoTokenizer" else "processor"
        lines.append(f"{name} = {place.processor}.from_pretrained(model_id)")
    return python_block(*lines)


def python_block(*lines: str) -> str:
    """Return lines of Python as a Markdown block."""
    return "\n".join(["```python", *lines, "```"])
