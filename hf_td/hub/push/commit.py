"""Publishes an export on the Hugging Face Hub: one commit, or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi

from hf_td.hub.card.writing import METRICS, PICTURE
from hf_td.hub.forms import FORMS, load_form
from hf_td.hub.push.errors import Attempt
from hf_td.hub.push.finished import check_finished

if TYPE_CHECKING:
    from hf_td.hub.export import Export

T = TypeVar("T")

# Files of an earlier export beside those of its form; a load of this export could take them for
# its own.
_STALE = (METRICS, PICTURE)
# Attempts at each request that huggingface_hub does not repeat, and the longest wait in seconds.
ATTEMPTS = 5
LONGEST_WAIT = 300.0


def push_to_hub(
    export: Export | str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
) -> CommitInfo:
    """Publish a finished export in a single commit.

    The commit adds the whole folder (but no hidden files), and removes weights and modeling files
    of earlier exports from the repository. Until the commit is made, the repository stays as it
    was.

    Args:
        export: what `export_model` returned, or its folder.
        repo_id: `user/name` or `name`; a missing repository is created.
        private: make a new repository private; None for the default of the account.
        token: for the Hub; None for the one of `hf auth login` or of HF_TOKEN.
        revision: branch to commit to; a missing one is created. None for `main`.
        commit_message: first line of the commit.
        create_pr: open a pull request and leave the branch as it is.

    Returns:
        The commit.

    Raises:
        ValueError: the folder is not a finished export, or the arguments are wrong; nothing was
            sent.
        PermissionError: the Hub does not know the user, or does not allow it.
        ConnectionError: the Hub cannot be reached, or the connection broke.
        RuntimeError: the Hub refused for another reason.
    """
    folder = Path(export if isinstance(export, (str, Path)) else export.folder).absolute()
    check_finished(folder)
    _check_branch(revision, create_pr)
    api = HfApi(token=token)
    where = _prepare(api, repo_id, private, revision)
    message = commit_message or f"Export of {folder.name} by hf_td"

    def commit() -> CommitInfo:
        return api.create_commit(
            where,
            _operations(api, where, folder, revision),
            commit_message=message,
            revision=revision,
            create_pr=create_pr,
        )

    return _attempt(commit, Attempt(repo_id, "commit", repeatable=not create_pr))


def _check_branch(revision: str | None, create_pr: bool) -> None:
    if create_pr and revision not in (None, "main"):
        raise ValueError(
            f"a pull request is made for main, got revision={revision!r}; leave the revision out"
        )


def _prepare(api: HfApi, repo_id: str, private: bool | None, revision: str | None) -> str:
    """Create the repository and the branch where they are missing; return the full repo id."""

    def create() -> str:
        return api.create_repo(repo_id, private=private, exist_ok=True).repo_id

    where = _attempt(create, Attempt(repo_id, "create the repository"))
    if revision is not None and not revision.startswith("refs/"):

        def branch() -> None:
            api.create_branch(where, branch=revision, exist_ok=True)

        _attempt(branch, Attempt(repo_id, f"create the branch {revision}"))
    return where


def _operations(
    api: HfApi, repo_id: str, folder: Path, revision: str | None
) -> list[CommitOperationAdd | CommitOperationDelete]:
    files = {path.relative_to(folder).as_posix(): path for path in visible_files(folder)}
    there = api.list_repo_files(repo_id, revision=revision)
    patterns = [*_STALE, *(file for name in FORMS for file in load_form(name).files)]
    stale = [
        name
        for name in there
        if name not in files and any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
    return [
        *(CommitOperationDelete(name) for name in stale),
        *(CommitOperationAdd(name, path) for name, path in files.items()),
    ]


def visible_files(folder: Path) -> list[Path]:
    """Return the files of a folder that are published: none that is hidden."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _attempt(act: Callable[[], T], attempt: Attempt) -> T:
    """Call `act`, again while that helps; raise an error with an explanation where it does not."""
    for left in reversed(range(ATTEMPTS)):
        try:
            return act()
        except Exception as error:
            wait = attempt.wait_after(error, ATTEMPTS - left)
            if wait is None or wait > LONGEST_WAIT or not left:
                explained = attempt.explain(error)
                if explained is None:
                    raise
                raise explained from error
            time.sleep(wait)
    raise AssertionError("unreachable")
