"""Publishes an export: `hf-td push`."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub.utils import validate_repo_id

from hf_td.cli.answers import Answer
from hf_td.hub.push.commit import push_to_hub, visible_files
from hf_td.hub.push.finished import check_finished
from hf_td.tasks.errors import UsageError, blaming_input


def push_folder(
    folder: Path,
    repo: str,
    *,
    private: bool | None,
    revision: str | None,
    message: str | None,
    pull_request: bool,
    dry_run: bool,
) -> Answer:
    """Publish an export, or with `dry_run` list what would be sent.

    Raises:
        UsageError: the folder is no finished export, or the Hub refuses.
    """
    if dry_run:
        with blaming_input():
            check_finished(folder)
            validate_repo_id(repo)
        files = {str(p.relative_to(folder)): p.stat().st_size for p in visible_files(folder)}
        lines = [f"{name}  {size:,} bytes" for name, size in files.items()]
        lines.append(
            f"{sum(files.values()) / 1e6:.1f} MB would be sent to {repo}; nothing was sent"
        )
        return Answer(shown=tuple(lines), values={"repo": repo, "files": files, "commit": None})
    try:
        commit = push_to_hub(
            folder,
            repo,
            private=private,
            revision=revision,
            commit_message=message,
            create_pr=pull_request,
        )
    except (ValueError, OSError, RuntimeError) as error:
        raise UsageError(str(error)) from error
    where = commit.pr_url or commit.commit_url
    return Answer(shown=(f"published: {where}",), values={"repo": repo, "commit": where})
