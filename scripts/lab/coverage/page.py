"""Write the results of a survey into a page of the documentation."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_td.analysis.tables import markdown_table
from hf_td.files import write_text
from lab.coverage.heads import OUTCOMES, kinds_of_heads

Record = Mapping[str, Any]

START, END = "<!-- coverage -->", "<!-- /coverage -->"
TITLE = """# Model families

"""
MOST_NAMED = 8


def write_section(page: Path, text: str) -> None:
    """Replace the text between the markers of a page. A page and markers that are missing are made.

    Raises:
        ValueError: the page has only one of the markers.
    """
    before = page.read_text(encoding="utf-8") if page.exists() else TITLE
    if (START in before) != (END in before):
        raise ValueError(
            f"{page} has one of the markers {START} and {END} without the other. Expected are both "
            "or none. Add the missing one."
        )
    if START not in before:
        before = f"{before.rstrip()}\n\n{START}\n{END}\n"
    head, _, rest = before.partition(START)
    _, _, tail = rest.partition(END)
    write_text(page, f"{head}{START}\n{text.strip()}\n{END}{tail}")


def coverage_section(records: Sequence[Record], facts: Record) -> str:
    """Return totals, reasons and a row for each type, as Markdown; then the same for heads.

    Args:
        records: from `survey_type` and `survey_head`, one for each type and each head.
        facts: `environment()`, and the `command` and `seed` of the survey.
    """
    ordered = sorted(records, key=lambda r: r["type"])
    heads = [r for r in ordered if ":" in r["type"]]
    records = [r for r in ordered if ":" not in r["type"]]
    return "\n\n".join(
        [
            "## Every registered model type",
            _HOW,
            _totals(records),
            _made_by(records, facts),
            "### Refusals by reason",
            _REASONS,
            markdown_table(("types", "what", "reason", "such as"), _reasons(records), padded=False),
            "### All types",
            _LEGEND,
            markdown_table(
                ("type", "attention", "feed-forward", "read", "level", "compact", "the whole way"),
                [_line(r) for r in records if r.get("projections")],
                padded=False,
            ),
            *(_heads_section(heads, facts) if heads else ()),
        ]
    )


_HOW = """Each model type that transformers registers for `AutoModel` is built from its default
config on the meta device. A type with projections (a linear layer in a numbered layer, or a module
called attention) is shrunk by general rules (scripts/lab/coverage/twins.py) to a tiny random twin.
The twin goes the whole way. It is read. It is patched at the weight level and at the unit level,
makes one update at each (anneal, forward, backward, step), and is unpatched. Then half of its units
are pruned, and the compact model is compared with the masked one. Blocks whose units cannot be
dropped are excluded at the unit level. A mismatch is a wrong reading. A refusal is none, and has a
reason."""
_REASONS = """*Not built*: the default config of the type does not build here. *Refused*: no block
is targeted. *Weights only*: no unit can be dropped. *Not compact*: masks work at both levels, and
`compact_model` refuses and does not change the model. The table of all types has the share of
linear layers that are in no block."""
_LEGEND = """All figures are those of the twins. The widths of the type are divided by the number
after `/`. The numbers of heads are those of the type, or smaller where there is an `h`. *Read*:
linear layers in blocks, of those in numbered layers. *Level*: the level that can be targeted;
`unit 3/4` where one block in four has an obstacle. *Compact*: the form in which half of the units
is exported: `stock` if a stock config can express it, else `padded` (and `compact`)."""


_HEADS = """Each head that an Auto class other than `AutoModel` builds is shrunk like its type. Its
tiny twin is read, and half of its units are pruned. It is made compact once with the comparison of
all outputs and once without. Both have to take out as much. *Not built* and *refused* are mostly
those of the type. *Not compact*: no input that can be made runs the head, or the comparison is
refused. A head of two kinds counts in both rows."""


def _heads_section(records: Sequence[Record], facts: Record) -> list[str]:
    kinds = kinds_of_heads()
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        for kind in kinds[record["type"]]:
            counts[kind][record["outcome"]] += 1
    counts["all, each once"] = Counter(r["outcome"] for r in records)
    rows = [
        (kind, str(n.total()), *(str(n[outcome] or "") for outcome in OUTCOMES))
        for kind, n in counts.items()
    ]
    refused = [r for r in records if r["outcome"] not in ("passed", "not built")]
    return [
        "## Every task head",
        _HEADS,
        markdown_table(("heads", "number", *OUTCOMES), rows),
        _made_by(records, facts),
        markdown_table(
            ("head", "outcome", "reason"),
            [(r["type"], r["outcome"], _cell(_general(r["reason"]))) for r in refused],
            padded=False,
        ),
    ]


def _totals(records: Sequence[Record]) -> str:
    having = [r for r in records if r.get("projections")]
    weight = [r for r in having if r.get("weight")]
    unit = [r for r in having if r.get("unit")]
    complete = [r for r in unit if r["droppable"] == r["blocks"]]
    claimed = [r for r in weight if r["layers_in_blocks"] == r["layers"]]
    through = [r for r in having if r["outcome"] in ("passed", "mismatch")]
    rows: list[tuple[str, int, int]] = [
        ("registered", len(records), 0),
        ("built from the default config", sum(r["outcome"] != "not built" for r in records), 0),
        ("with attention or feed-forward projections", len(having), 0),
        ("patched at the weight level", len(weight), len(having)),
        ("... with every linear layer of a numbered layer in a block", len(claimed), len(having)),
        ("patched at the unit level", len(unit), len(having)),
        ("... in every block", len(complete), len(having)),
        ("run the whole way", len(through), len(having)),
        ("mismatches", sum(r["outcome"] == "mismatch" for r in records), 0),
    ]
    return markdown_table(
        ("types", "number", "share of those with projections"),
        [(what, str(n), f"{n / of:.1%}" if of else "") for what, n, of in rows],
    )


def _made_by(records: Sequence[Record], facts: Record) -> str:
    commits = Counter(_shown(r["commit"]) for r in records if r.get("commit"))
    ran = ", ".join(f"{n} at commit {commit}" for commit, n in commits.most_common())
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    hardware = facts["hardware"]
    return (
        f"Made by `{facts['command']}` with {versions}, on {hardware['cores']} cores of "
        f"{hardware['cpu']}; seed {facts['seed']}; {ran}."
    )


def _shown(commit: str) -> str:
    short, _, dirty = commit.partition("-")
    return f"{short[:12]} with changes" if dirty else short[:12]


def _reasons(records: Sequence[Record]) -> list[tuple[str, ...]]:
    groups: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for record in records:
        if record["outcome"] not in ("passed", "no projections"):
            groups[_kind(record), _general(_reason(record))].append(record["type"])
    ranked = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        (str(len(types)), kind, _cell(reason), _named(types)) for (kind, reason), types in ranked
    ]


def _kind(record: Record) -> str:
    if record["outcome"] == "patched":
        return "not compact" if record["unit"] else "weights only"
    return record["outcome"]


def _reason(record: Record) -> str:
    if record.get("weight") and not record.get("unit") and record.get("obstacles"):
        return record["obstacles"][0]
    return record.get("reason", "")


def _general(reason: str) -> str:
    """Return a reason without the names and numbers of one model."""
    reason = re.sub(r"^\w+(Error|Exception): ", "", reason)
    reason = re.sub(r" from '/[^']*'?", "", reason)  # paths of installed packages
    reason = re.sub(r"\b[A-Z]\w*(Model|Encoder|Decoder|Backbone|Config)\b", "the model", reason)
    reason = re.sub(r"first at [\w.#*]+", "first at one layer", reason)
    reason = re.sub(r"found no attention or feed-forward block; .*", "found no block", reason)
    reason = re.sub(r"\d+(\.\d+)?", "#", reason)
    return re.sub(r"(#(, |x|\.))+#", "#", reason)[:140]


def _line(record: Record) -> tuple[str, ...]:
    if not record.get("weight"):
        return (record["type"], "", "", "", "refused", "", _cell(_general(_reason(record))))
    blocks, free = record["blocks"], record["droppable"]
    unit = "unit" if free == blocks else f"unit {free}/{blocks}"
    divisor = f" /{record['divisor']}{'h' if record['fewer_heads'] else ''}"
    return (
        record["type"] + divisor,
        "; ".join(record["attention"]),
        "; ".join(record["feed_forward"]),
        f"{record['layers_in_blocks']}/{record['layers']}{' fused' if record['fused'] else ''}",
        unit if record["unit"] else "weight",
        _cell((record.get("form") or "").partition(" (")[0]),
        record["outcome"] if record["outcome"] != "patched" else _kind(record),
    )


def _named(types: Sequence[str]) -> str:
    more = f", and {len(types) - MOST_NAMED} more" if len(types) > MOST_NAMED else ""
    return ", ".join(types[:MOST_NAMED]) + more


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def summary(records: Sequence[Record]) -> str:
    """Return a line with the number of types for each outcome."""
    counts = Counter(r["outcome"] for r in records)
    return ", ".join(f"{number} {outcome}" for outcome, number in counts.most_common())
