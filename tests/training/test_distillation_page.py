"""The guide's tables of distillation have the presets and the terms of the registries."""

from __future__ import annotations

from pathlib import Path

from hf_td.tasks.taught import TaughtArguments
from hf_td.training.augmentation import Variation
from hf_td.training.augmentation.neighbours import NEAREST
from hf_td.training.distillation import PRESETS, TERMS, DistillationFields
from hf_td.training.distillation.terms import shown

GUIDE = (Path(__file__).parents[2] / "docs" / "guide.md").read_text()
SECTION = GUIDE.partition("\n## Distillation\n")[2].partition("\n## ")[0]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in SECTION.splitlines()
    if line.startswith("| `")
]


def test_the_tables_are_the_registries():
    presets = [[f"`{name}`", shown(row), row.help] for name, row in PRESETS.items()]
    terms = [[f"`{name}`", f"`{row.setting}`", row.help] for name, row in TERMS.items()]
    assert ROWS == presets + terms


def test_the_section_names_every_setting_and_the_rates_of_variants():
    for kind in (DistillationFields, TaughtArguments):
        for name in kind.__dataclass_fields__:
            assert f"{name}`" in SECTION or f"--{name} " in SECTION, name
    variation = Variation()
    assert f"its {NEAREST} nearest words with a probability of .4" in SECTION
    assert (variation.replaced, variation.deleted, variation.cropped) == (0.4, 0.1, 0.2)
    assert "left out with one of .1" in SECTION
    assert "at\n  least half of its words with one of .2" in SECTION
