"""Publishes an export on the Hugging Face Hub: one commit, or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi

from hf_td.hub.push_errors import Attempt
from hf_td.hub.weights import check_finished

if TYPE_CHECKING:
    from hf_td.hub.export import Export

T = TypeVar("T")

# What an earlier export may have left in a repository, and a load of this one would trip over.
_STALE = (
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "model.hftd",
    "model.onnx",
    "model.onnx.data",
    "modeling_hf_td.py",
    "metrics.json",
    "curve.png",
)
# Attempts at what huggingface_hub does not repeat by itself, and the longest wait between two.
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
    """Publish a finished export, made if need be, in a single commit.

    The commit holds the whole folder (but no hidden files), and takes weights and modeling files
    of earlier exports out of the repository. Until it is there, the repository is as it was.

    Args:
        export: what `export_model` returned, or its folder.
        repo_id: `user/name` or `name`; the repository is made where there is none.
        private: whether a new repository is private; None for the default of the account.
        token: for the Hub; None for the one of `hf auth login` or of HF_TOKEN.
        revision: branch to commit to, made where there is none; None for `main`.
        commit_message: first line of the commit.
        create_pr: open a pull request and leave the branch as it is.

    Returns:
        The commit.

    Raises:
        ValueError: the folder is not a finished export, or the arguments are wrong; nothing was
            sent.
        PermissionError: the Hub does not know who asks, or does not allow it.
        ConnectionError: the Hub cannot be reached, or broke off.
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
        raise ValueError(f"a pull request is made for main, so revision={revision!r} cannot be")


def _prepare(api: HfApi, repo_id: str, private: bool | None, revision: str | None) -> str:
    """Make the repository and the branch where they are missing; the full name of the former."""

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
    files = {path.relative_to(folder).as_posix(): path for path in _visible_files(folder)}
    there = api.list_repo_files(repo_id, revision=revision)
    stale = [name for name in there if name not in files and _is_stale(name)]
    return [
        *(CommitOperationDelete(name) for name in stale),
        *(CommitOperationAdd(name, path) for name, path in files.items()),
    ]


def _visible_files(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _is_stale(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _STALE)


def _attempt(act: Callable[[], T], attempt: Attempt) -> T:
    """Act, again while that helps, and say plainly what happened where it does not."""
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
