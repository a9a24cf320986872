"""The words of messages on the page of troubleshooting are words of the code."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path

import pytest

import hf_td

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "troubleshooting.md"
MESSAGES = [
    part.strip()
    for line in PAGE.read_text().splitlines()
    for message in re.findall(r"`([^`]+)`", line.split("|")[1] if line.startswith("|") else "")
    for part in message.split("...")
]


@lru_cache
def texts() -> str:
    """Return all strings of the package; {} stands for a value."""
    found: list[str] = []
    for path in Path(hf_td.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            words = [p.value if isinstance(p, ast.Constant) else "{}" for p in parts]
            if isinstance(node, ast.JoinedStr | ast.Constant):
                found.append("".join(map(str, words)))
    return re.sub(r"\s+", " ", "\n".join(found))


def test_the_page_has_messages():
    assert len(MESSAGES) > 15


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_one_of_the_code(message):
    assert message in texts()
