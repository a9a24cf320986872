"""Reading of data files, and what is refused."""

from __future__ import annotations

from functools import partial

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
