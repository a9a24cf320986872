"""Reads data files of any kind by the loaders of `datasets`, and says why one cannot be read."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetsError

# The reader of a file by its suffix.
READERS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".txt": "text",
}
_COMPRESSED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_DAMAGED = gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError  # a compressed file
_CHUNK = 1 << 20  # characters
_SEPARATORS = ",;\t|"
# The start of a JSON file, without white space.
_ROWS_UNDER_DATA = re.compile(r'\{("version":"[^"]*",)?"data":\[')


def read_file(path: Path) -> datasets.Dataset:
    """Read all rows of a file; its suffix, such as `.csv` or `.csv.gz`, tells its kind.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a folder, its kind is unknown, or it cannot be read.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder. Give a file, or the folder as --dataset_name.")
    if not path.is_file():
        raise FileNotFoundError(f"the file {path} does not exist. Give an existing file.")
    check_encoding(path)
    reader, options = reader_of(path)
    try:
        rows = datasets.load_dataset(reader, data_files=str(path), split="train", **options)
        check_fields(rows)
        return rows
    except (DatasetsError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {reason(error)}") from error


def check_encoding(path: Path) -> None:
    """Raise ValueError if a file of text is not UTF-8: the reader of JSON would not notice.

    A compressed file is read to its end, so a damaged one is refused too.
    """
    if kind_of(path) not in READERS or kind_of(path) == ".parquet":
        return
    try:
        with _open(path) as file:
            while file.read(_CHUNK):
                pass
    except (UnicodeDecodeError, *_DAMAGED) as error:
        raise ValueError(f"{path} cannot be read: {reason(error)}") from error


def check_fields(rows: datasets.Dataset) -> None:
    """Raise ValueError for columns that pandas made of fields for which a csv header has no name.

    Where the first row is longer than the header, its first field would name the row, and all
    others would be one column to the left. A parquet file that pandas wrote can have such a column
    too: the numbers of the rows before they were shuffled.
    """
    if rows.info.builder_name != "csv":
        return
    extra = sum(name.startswith("__index_level_") for name in rows.column_names)
    if extra:
        raise ValueError(
            f"the first row has {extra} more field{'s' * (extra > 1)} than the header. Put a text "
            "with a comma in quotes, and end no row with a comma"
        )


def kind_of(path: Path) -> str:
    """Return the suffix that tells the kind of a file, without that of a compressed one."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def reader_of(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the reader of a file, and its options.

    Text keeps its line breaks, and the word "None" in a table stays text. The separator of a table
    is the one of `,`, `;`, tab and `|` that its first line has most of. A JSON file whose first
    value is an object can have its rows under the key `data`, as those of SQuAD.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind_of(path) not in READERS:
        raise ValueError(f"{path}: a file of the kinds {', '.join(READERS)} was expected.")
    reader = READERS[kind_of(path)]
    if reader == "text":
        return reader, {"keep_linebreaks": True}
    if reader == "csv":
        return reader, {"keep_default_na": False, "sep": _separator(path)}
    if reader == "json" and _starts_with_data(path):
        return reader, {"field": "data"}
    return reader, {}


def reason(error: BaseException) -> str:
    """Return the reason why `datasets` could not read a file, and what to do."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, UnicodeDecodeError):
        byte = cause.object[cause.start]
        return (
            f"it is not UTF-8 (byte 0x{byte:02x}). Convert it, for instance by iconv -f latin1 -t "
            "utf-8."
        )
    if "corresponds to no data" in str(cause) or "No columns" in str(cause):
        return "it has no rows."
    if "Failed to parse" in str(cause) or "changed from" in str(cause):
        return f"a column has values of different kinds ({cause}). Give all rows one kind."
    return f"{cause}." if not str(cause).rstrip().endswith((".", "!", "?")) else str(cause).rstrip()


def _open(path: Path, errors: str = "strict") -> Any:
    """Open a file of text, which can be compressed, in UTF-8."""
    return _COMPRESSED.get(path.suffix.lower(), open)(path, "rt", encoding="utf-8", errors=errors)


def _separator(path: Path) -> str:
    with _open(path, "replace") as file:
        counts = Counter(file.readline())
    default = "\t" if kind_of(path) == ".tsv" else ","
    return max(_SEPARATORS, key=lambda sign: (counts[sign], sign == default))


def _starts_with_data(path: Path) -> bool:
    if kind_of(path) != ".json":
        return False
    with _open(path, "replace") as file:
        start = "".join(file.read(200).split())
    return _ROWS_UNDER_DATA.match(start) is not None
