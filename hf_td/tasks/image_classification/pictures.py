"""Makes columns of images, also of their paths in a table."""

from __future__ import annotations

from pathlib import Path

import datasets

from hf_td.tasks.data.splits import check_columns, is_text

_OPTION = "--image_column"


def as_images(splits: datasets.DatasetDict, column: str, source: str) -> datasets.DatasetDict:
    """Return the splits with images in a column; a column of paths is cast.

    Args:
        splits: splits with the column.
        column: column with images or paths.
        source: file or folder of the data; relative paths start in its folder.

    Raises:
        ValueError: the column does not exist, or holds neither images nor paths.
        FileNotFoundError: an image does not exist.
    """
    check_columns(splits, [column], _OPTION)
    place = Path(source).expanduser()
    folder = place if place.is_dir() else place.parent
    return datasets.DatasetDict(
        {name: _opened(rows, column, folder, str(name)) for name, rows in splits.items()}
    )


def _opened(rows: datasets.Dataset, column: str, folder: Path, split: str) -> datasets.Dataset:
    feature = rows.features[column]
    if isinstance(feature, datasets.Image):
        return rows
    if not is_text(feature):
        raise ValueError(
            f"the column {column} must hold images or their paths. It holds {feature}. Name "
            f"another with {_OPTION}."
        )
    paths = [folder / (name or "") for name in rows[column][:]]
    _check_files(paths, column, split)
    cast = rows.remove_columns([column]).add_column(column, [str(path) for path in paths])  # type: ignore
    return cast.cast_column(column, datasets.Image())


def _check_files(paths: list[Path], column: str, split: str) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} images of the {split} split do not exist, such as "
            f"{missing[0]}. The column {column} must hold images, or their paths from the folder "
            f"of the table. Name another with {_OPTION}."
        )
