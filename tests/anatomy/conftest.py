"""Every test starts without kept readings."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def nothing_read_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_td.anatomy.reading._READINGS", {})
