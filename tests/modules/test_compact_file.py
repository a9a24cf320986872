"""The modeling file of compact checkpoints is complete: it has every name that it uses."""

from __future__ import annotations

import builtins
import dis
from collections.abc import Iterator
from types import CodeType

from hf_td.modules.compact_file import FILE, loader_source


def codes_in(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes_in(constant)


def names_in(code: CodeType, *operations: str) -> set[str]:
    return {step.argval for step in dis.get_instructions(code) if step.opname in operations}


def test_every_name_that_the_modeling_file_uses_is_in_it():
    whole = compile(loader_source(), FILE, "exec")
    used = {name for code in codes_in(whole) for name in names_in(code, "LOAD_GLOBAL")}
    defined = names_in(whole, "STORE_NAME")
    assert "CompactQuantizer" in used & defined
    assert used - defined - vars(builtins).keys() - {"__file__"} == set()


def test_the_modeling_file_imports_nothing_of_hf_td():
    imported = names_in(compile(loader_source(), FILE, "exec"), "IMPORT_NAME")
    assert {name.split(".")[0] for name in imported} >= {"torch", "transformers"}
    assert not {name for name in imported if name.startswith("hf_td")}
