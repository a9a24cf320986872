"""Lists the packages that hf_td needs: versions, licences, what each is for, vulnerabilities."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
NAME = "hf_td"
# For pip-audit.
SECONDS = 120
# A line of pyproject.toml: a requirement, and what it is for.
_LINE = re.compile(r'"([^"]+)"[],]*\s*(?:#\s*(.+))?$')


@dataclass(frozen=True)
class Package:
    """A package that is installed.

    Attributes:
        name: as requirements spell it.
        version: that is installed.
        licence: as its metadata say; "unknown" if they do not.
        use: what it is for, from pyproject.toml, or the packages that need it.
    """

    name: str
    version: str
    licence: str
    use: str


def packages(extra: str) -> list[Package]:
    """Return the packages of the core and of an extra, with all that they need, by name."""
    reasons = reasons_in((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = dict(sorted(needed_by(NAME, {extra}).items()))
    return [_package(name, reasons, users) for name, users in needed.items() if name != key(NAME)]


def key(name: str) -> str:
    """Return the one spelling of a name."""
    return canonicalize_name(name)


def reasons_in(text: str) -> dict[str, str]:
    """Return what each requirement in a pyproject.toml is for, by name.

    >>> reasons_in('  "rich>=14",  # tables')
    {'rich': 'tables'}
    """
    found = (_LINE.search(line.strip()) for line in text.splitlines())
    pairs = (match.groups() for match in found if match)
    return {key(re.split(r"[^\w.-]", need)[0]): use for need, use in pairs if use}


def needed_by(name: str, extras: set[str]) -> dict[str, list[str]]:
    """Return the installed packages that a package needs, each with those that need it."""
    users: dict[str, list[str]] = {key(name): []}
    waiting = [(name, extras)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        user, wanted = waiting.pop()
        if (key(user), frozenset(wanted)) in seen:
            continue
        seen.add((key(user), frozenset(wanted)))
        for need in _requirements(user, wanted):
            users.setdefault(key(need.name), []).append(user)
            waiting.append((need.name, set(need.extras)))
    return {name: sorted(set(by)) for name, by in users.items() if _is_installed(name)}


def _requirements(name: str, extras: set[str]) -> Iterator[Requirement]:
    """Yield what an installed package needs on this system."""
    if not _is_installed(name):
        return
    for text in importlib.metadata.requires(name) or ():
        need = Requirement(text)
        marker = need.marker
        if marker is None or any(marker.evaluate({"extra": one}) for one in ("", *extras)):
            yield need


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _package(name: str, reasons: Mapping[str, str], users: Sequence[str]) -> Package:
    use = reasons.get(name) or f"needed by {', '.join(users)}"
    return Package(name, importlib.metadata.version(name), licence_of(name), use)


def licence_of(name: str) -> str:
    """Return the licence that the metadata of a package name, in one line."""
    found: Any = importlib.metadata.metadata(name)
    classes = [c.split(" :: ")[-1] for c in found.get_all("Classifier", ()) if "License ::" in c]
    said = found.get("License-Expression") or ", ".join(classes) or found.get("License") or ""
    return (said.strip().splitlines() or ["unknown"])[0][:60]


def table(rows: Sequence[Package]) -> str:
    """Return the packages as a Markdown table."""
    lines = [f"| {p.name} | {p.version} | {p.licence} | {p.use} |" for p in rows]
    return "\n".join(["| package | version | licence | for |", "|---|---|---|---|", *lines])


def vulnerabilities() -> str:
    """Return what pip-audit says of constraints.txt, or why it was not asked."""
    if importlib.util.find_spec("pip_audit") is None:
        return "Vulnerabilities were not looked up: install pip-audit (pip install pip-audit)."
    command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip"]
    command += ["--requirement", str(ROOT / "constraints.txt")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"Vulnerabilities were not looked up: no answer of the index in {SECONDS} s."
    if done.returncode and not done.stdout:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return f"Vulnerabilities were not looked up, pip-audit failed: {last}"
    return f"{done.stderr}{done.stdout}".strip()
