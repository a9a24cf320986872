"""The page of distillation has the presets and the terms of the registries."""

from __future__ import annotations

from pathlib import Path

from hf_td.tasks.taught import TaughtArguments
from hf_td.training.augmentation import Variation
from hf_td.training.augmentation.neighbours import NEAREST
from hf_td.training.distillation import PRESETS, TERMS, DistillationFields
from hf_td.training.distillation.terms import shown

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "distil.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| `")
]


def test_the_tables_are_the_registries():
    presets = [[f"`{name}`", shown(row), row.help] for name, row in PRESETS.items()]
    terms = [[f"`{name}`", f"`{row.setting}`", row.help] for name, row in TERMS.items()]
    assert ROWS == presets + terms


def test_the_page_names_every_setting_and_the_rates_of_variants():
    for kind in (DistillationFields, TaughtArguments):
        for name in kind.__dataclass_fields__:
            assert f"{name}`" in PAGE or f"--{name} " in PAGE, name
    variation = Variation()
    assert f"its {NEAREST} nearest words with a probability of .4" in PAGE
    assert (variation.replaced, variation.deleted, variation.cropped) == (0.4, 0.1, 0.2)
    assert "left out with one of .1" in PAGE
    assert "at\n  least half of its words with one of .2" in PAGE
