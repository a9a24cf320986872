"""What hf_td needs is known: what for, under which licence; and the method needs the core alone."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import textwrap

import pytest
from lab import audit

from tests.programs import SCRIPTS


def test_every_direct_dependency_has_a_reason_and_a_licence():
    direct = audit.needed_by("hf_td", {"dev"})
    rows = {row.name: row for row in audit.packages("dev")}
    assert {"torch", "zstandard", "pytest", "filelock"} <= rows.keys()
    for name, row in rows.items():
        if "hf_td" in direct[name]:
            assert not row.use.startswith("needed by"), f"{name} has no comment in pyproject.toml"
        assert row.licence != "unknown" or "hf_td" not in direct[name], name


def test_each_package_of_dev_has_the_hashes_of_its_pinned_version():
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)", _text("constraints.txt"), re.MULTILINE))
    pinned = {audit.key(name): version for name, version in pinned.items()}
    entries = re.split(r"^(?=[\w.-]+==)", _text("requirements-dev.txt"), flags=re.MULTILINE)[1:]
    hashed = {}
    for entry in entries:
        name, version = entry.split()[0].split("==")
        assert re.search(r"--hash=sha256:[0-9a-f]{64}$", entry, re.MULTILINE), name
        hashed[audit.key(name)] = version
    assert "file:" not in _text("requirements-dev.txt")
    needed = {row.name for row in audit.packages("dev")}
    assert needed - hashed.keys() == {"torch"}, "run scripts/hashes.sh"
    assert hashed == {name: pinned[name] for name in hashed}, "run scripts/hashes.sh"


def _text(name: str) -> str:
    return (audit.ROOT / name).read_text(encoding="utf-8")


def test_the_table_has_a_row_for_each_package():
    rows = audit.packages("hub")
    lines = audit.table(rows).splitlines()
    assert len(lines) == len(rows) + 2
    torch = importlib.metadata.version("torch")
    assert any(line.startswith(f"| torch | {torch} |") for line in lines)
    assert not any(row.name == "pytest" for row in rows)


@pytest.mark.parametrize("answer", ["missing", "slow", "unreachable", "found"])
def test_vulnerabilities_are_looked_up_or_it_is_said_why_not(answer, monkeypatch):
    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        if answer == "slow":
            raise subprocess.TimeoutExpired(command, 1)
        told = "" if answer == "unreachable" else "torch 1.0 GHSA-1"
        return subprocess.CompletedProcess(command, 1, told, "no route")

    there = None if answer == "missing" else object()
    monkeypatch.setattr(audit.importlib.util, "find_spec", lambda name: there)
    monkeypatch.setattr(audit.subprocess, "run", run)
    said = {
        "missing": "were not looked up: install pip-audit",
        "slow": "were not looked up: no answer of the index",
        "unreachable": "were not looked up, pip-audit failed: no route",
        "found": "torch 1.0 GHSA-1",
    }
    assert said[answer] in audit.vulnerabilities()


def test_the_method_needs_no_package_outside_of_the_core(tmp_path):
    """Everything else that is installed cannot be imported, as if it were not there."""
    code = """
        import importlib.metadata, sys
        from importlib.machinery import PathFinder
        sys.path.insert(0, sys.argv[1])
        from lab import audit
        allowed = {"hf-td", *audit.needed_by("hf_td", set())}
        tops = importlib.metadata.packages_distributions()
        others = {top for top, by in tops.items() if not {audit.key(n) for n in by} & allowed}
        others -= {"hf_td", "packaging", "_distutils_hack", "pip"}
        assert {"zstandard", "matplotlib", "sklearn", "pytest"} <= others

        class Core(PathFinder):
            @classmethod
            def find_spec(cls, name, path=None, target=None):
                there = name.partition(".")[0] not in others
                return super().find_spec(name, path, target) if there else None

        sys.meta_path[:] = [Core if finder is PathFinder else finder for finder in sys.meta_path]
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM
        from hf_td import TargetedDropoutArguments, TargetedDropoutTrainer, anneal, compact_model
        from hf_td import export_model, patch_model, prune_model, unpatch_model

        sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2)
        sizes |= dict(num_attention_heads=4, num_key_value_heads=2, vocab_size=64)
        model = LlamaForCausalLM(LlamaConfig(**sizes))
        patch_model(model, level="unit")
        anneal(model, 0.5, 1)
        unpatch_model(model)
        rows = [{"input_ids": torch.arange(5), "labels": torch.arange(5)}] * 4
        arguments = TargetedDropoutArguments(
            sys.argv[2] + "/run", level="unit", use_cpu=True, max_steps=1, report_to="none",
            save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
        )
        TargetedDropoutTrainer(model, arguments, train_dataset=rows).train()
        prune_model(model, 0.5, level="unit")
        for form in ("stock", "compact", "padded"):
            export_model(model, f"{sys.argv[2]}/{form}", form=form, check=False)
        compact_model(model, multiple_of=1)
        assert not others & {name.partition(".")[0] for name in sys.modules}
        print("all done")
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(SCRIPTS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert "all done" in done.stdout, done.stderr
