"""Take a tiny twin of a task head through pruning, compaction and comparison.

The base model of each type goes the whole way in survey.py. A head adds inputs of its own, and a
forward that reads what the base model returns.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from hf_td.compaction import compact_model
from hf_td.pruning import prune_model
from lab.coverage.survey import SPARSITY, Record, Twin, blame, first_line, make_twin

OUTCOMES = ("passed", "mismatch", "not compact", "refused", "not built")
_PREFIX, _SUFFIX = "MODEL_FOR_", "_MAPPING_NAMES"


def kinds_of_heads() -> dict[str, list[str]]:
    """Return the kinds of heads of each head, `type:class`, that an Auto class builds."""
    kinds: dict[str, list[str]] = {}
    for name, mapping in vars(modeling_auto).items():
        if name.startswith(_PREFIX) and name.endswith(_SUFFIX):
            kind = name.removeprefix(_PREFIX).removesuffix(_SUFFIX).lower().replace("_", " ")
            for head in _heads_in(mapping):
                kinds.setdefault(head, []).append(kind)
    return kinds


def _heads_in(mapping: dict[str, Any]) -> Iterator[str]:
    for model_type, found in mapping.items():
        classes = found if isinstance(found, (list, tuple)) else [found]
        bare = modeling_auto.MODEL_MAPPING_NAMES.get(model_type, ())
        yield from (f"{model_type}:{name}" for name in classes if name not in bare)


def survey_head(head: str) -> Record:
    """Return the results of one head, `type:class`, as JSON values.

    `outcome` is `not built`, `refused` (not read, or nothing of it can be pruned), `not compact`,
    `passed` or `mismatch`. `reason` is that of all outcomes but `passed`.
    """
    model_type, _, name = head.partition(":")
    record: Record = {"type": head, "outcome": "not built"}
    try:
        config = CONFIG_MAPPING[model_type]()
        head_class: Any = getattr(transformers, name)
        with torch.device("meta"):
            head_class._from_config(copy.deepcopy(config))
    except Exception as error:
        return {**record, "reason": first_line(error)}
    record["outcome"] = "refused"
    try:
        twin = make_twin(config, head_class._from_config)
    except ValueError as error:
        return {**record, "reason": str(error)}
    return record | _compacted(twin)


def _compacted(twin: Twin) -> Record:
    """Prune and compact a twin, with the comparison and without."""
    model = twin.model
    exclude = [b.consumer.module for b in twin.anatomy.blocks if b.obstacle]
    try:
        prune_model(model, SPARSITY, level="unit", exclude=exclude)
    except ValueError as error:
        return {"outcome": "refused", "reason": first_line(error)}
    try:
        unchecked = compact_model(copy.deepcopy(model), multiple_of=1, check=False)
        compact_model(model, multiple_of=1)
    except Exception as error:
        wrong = "differs from the masked" in str(error)
        outcome = "mismatch" if wrong else "not compact"
        return {"outcome": outcome, "reason": first_line(error)} | blame(error)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (model, unchecked)]
    if sizes[0] != sizes[1]:
        return {"outcome": "mismatch", "reason": f"{sizes[1]} parameters without the check"}
    return {"outcome": "passed"}
