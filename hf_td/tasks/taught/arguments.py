"""The arguments that name rows for a teacher to label."""

from __future__ import annotations

from dataclasses import dataclass

from hf_td.tasks.experiment.arguments import argument


@dataclass(kw_only=True)
class TaughtArguments:
    """Rows without labels, for runs with a teacher."""

    transfer_set: str | None = argument(
        None,
        "texts without labels that the teacher labels, added to the training rows: a file, a "
        "folder, or an id on the Hub. Needs --teacher",
    )
    augment: int = argument(
        0,
        "variants of each training text in an epoch, made anew in each and labelled by the "
        "teacher. Needs --teacher",
    )
