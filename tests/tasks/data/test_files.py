"""Reading of data files, and what is refused."""

from __future__ import annotations

from functools import partial

import datasets
import pytest

from hf_td.tasks.data.files import read_file
from hf_td.tasks.data.splits import load_rows


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("text,label\nthe plot was thin, but good,pos\na, b,neg\n", "1 more field than"),
        ("text,label\nthe plot was thin, but good,pos\nfine,neg\n", "1 more field than"),
        ("text,label\ngood,pos,\nbad,neg,\n", "1 more field than"),
        ("text,label\na,b,c,pos\nd,e,f,neg\n", "2 more fields than"),
    ],
)
@pytest.mark.parametrize("how", ["file", "rows", "folder"])
def test_a_first_row_that_is_longer_than_the_header_is_refused(tmp_path, text, fields, how):
    file = tmp_path / "train.csv"
    file.write_text(text)
    source = str(tmp_path if how == "folder" else file)
    read = partial(read_file, file) if how == "file" else partial(load_rows, source, builtin="")
    with pytest.raises(ValueError, match=f"cannot be read: the first row has {fields} the header"):
        read()


@pytest.mark.parametrize("how", ["file", "rows", "folder"])
def test_the_numbers_of_shuffled_rows_in_parquet_are_a_column(tmp_path, how):
    file = tmp_path / "train.parquet"
    columns = {"text": ["a", "b", "c"], "label": [0, 1, 0], "__index_level_0__": [2, 0, 1]}
    datasets.Dataset.from_dict(columns).to_parquet(file)  # as pandas does
    source = str(tmp_path if how == "folder" else file)
    read = read_file(file) if how == "file" else load_rows(source, builtin="")
    assert read.to_dict() == columns


def test_a_later_row_that_is_too_long_is_named(tmp_path):
    file = tmp_path / "train.csv"
    file.write_text("text,label\nfine,pos\na, b,neg\n")
    with pytest.raises(ValueError, match="Expected 2 fields in line 3, saw 3"):
        read_file(file)


def test_quoted_commas_are_text(tmp_path):
    file = tmp_path / "train.csv"
    file.write_text('text,label\n"a, b",pos\nc,neg\n')
    assert read_file(file).to_list() == [
        {"text": "a, b", "label": "pos"},
        {"text": "c", "label": "neg"},
    ]
