"""There is one list of export forms: what is registered is offered everywhere."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import hf_td
from hf_td.hub import export_model, push_to_hub
from hf_td.hub.forms import AUTO, FORMS, Row, check_form, form_choices, forms_help, load_form
from hf_td.hub.forms.form import Form, Place, Plan, Refusal, Source
from hf_td.hub.forms.stock import Stock
from hf_td.hub.push.finished import check_finished
from hf_td.hub.way import Way
from tests.compaction.models import masked_model, uneven_model
from tests.hub.push.published import ON_A_LOOPBACK_HUB, REPO, content_of
from tests.tiny import tiny_model

ROW = Row("weights of a dummy", __name__)


class Dummy(Form):
    """A form that writes no weights that anything loads."""

    files = ("dummy.bin",)

    def plan(self, source: Source) -> Plan:
        return Plan(units=source.needed)

    def write(self, model: Any, folder: Path, example_inputs: Mapping[str, Any] | None) -> None:
        model.config.save_pretrained(folder)
        (folder / "dummy.bin").write_bytes(b"dummy")

    def weights(self, folder: Path) -> list[Path]:
        return list(folder.glob("dummy.bin"))

    def check_weights(self, file: Path) -> None:
        if file.read_bytes() != b"dummy":
            raise ValueError(f"{file} is not a whole dummy")

    def ways(self, model: Any) -> tuple[Way, ...]:
        loader = type(model).__name__
        return (Way(name="dummy", loader=loader, call=f"{loader}.from_dummy(model_id)"),)

    def how_to_load(self, exported: Any, place: Place) -> str:
        return f"Load {place.name} by hand."


FORM = Dummy()


@pytest.fixture
def dummy(monkeypatch) -> Dummy:
    monkeypatch.setitem(FORMS, "dummy", ROW)
    return FORM


@pytest.mark.usefixtures("dummy")
def test_a_registered_form_is_a_choice_with_its_help():
    assert form_choices() == [
        AUTO,
        "stock",
        "compact",
        "padded",
        "archive",
        "onnx",
        "gguf",
        "dummy",
    ]
    assert "dummy (weights of a dummy)" in forms_help()
    assert load_form("dummy") is sys.modules[__name__].FORM
    check_form("dummy")


@pytest.mark.usefixtures("dummy")
def test_a_registered_form_is_written_described_and_known_to_be_finished(tmp_path):
    done = export_model(masked_model("bert"), tmp_path / "x", form="dummy", check=False)
    assert (done.form, done.reason) == ("dummy", "it was asked for")
    card = (done.folder / "README.md").read_text()
    assert "## How to load it\n\nLoad x by hand.\n" in card
    assert f"{len(b'dummy') / 1e6:.2f} MB on disk" in card
    check_finished(done.folder)
    (done.folder / "dummy.bin").write_bytes(b"dum")
    with pytest.raises(ValueError, match="is not a whole dummy"):
        check_finished(done.folder)


@pytest.mark.usefixtures("dummy")
def test_a_registered_form_is_loaded_by_its_own_code_before_it_is_kept(tmp_path):
    with pytest.raises(RuntimeError, match=r"does not load .*\(dummy, Bert[\s\S]*from_dummy"):
        export_model(masked_model("bert"), tmp_path / "x", form="dummy")
    assert list(tmp_path.iterdir()) == []


class TestOnALoopbackHub:
    pytestmark = ON_A_LOOPBACK_HUB

    @pytest.mark.usefixtures("dummy")
    def test_the_files_of_a_registered_form_go_when_another_form_is_pushed(self, hub, tmp_path):
        model = masked_model("vit")
        for form in ("dummy", "padded"):
            export = export_model(model, tmp_path / form, form=form, check=False)
            push_to_hub(export, REPO)
            assert hub.files(REPO) == content_of(export.folder)


def test_a_registered_form_is_offered_by_the_command_line_and_the_arguments_of_the_scripts():
    code = f"""
from hf_td.hub.forms import FORMS, Row
FORMS["dummy"] = Row({ROW.help!r}, {ROW.module!r})
from transformers import HfArgumentParser
from typer.testing import CliRunner
from hf_td.cli import app
from hf_td.tasks.experiment.arguments import CurveArguments
help = CliRunner().invoke(app, ["prune", "--help"], terminal_width=2000).output
assert "gguf, dummy;" in help, help
parser = HfArgumentParser(CurveArguments)
assert "dummy (weights of a dummy)" in parser.format_help()
assert parser.parse_args(["--export_form", "dummy"]).export_form == "dummy"
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "COLUMNS": "2000", "TERMINAL_WIDTH": "2000"},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def strings_in(node: ast.AST) -> list[Any]:
    """Return the strings of a literal collection, or of the parameters of a type."""
    elements = [*getattr(node, "elts", ()), *(getattr(node, "keys", None) or ())]
    return [element.value for element in elements if isinstance(element, ast.Constant)]


def collections_in(folder: Path) -> Iterator[tuple[Path, list[Any]]]:
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            yield path, strings_in(node)


def test_no_other_file_of_the_package_lists_forms():
    registry = load_form.__code__.co_filename
    lists = [
        (path, strings)
        for path, strings in collections_in(Path(hf_td.__file__).parent)
        if len(FORMS.keys() & {s for s in strings if isinstance(s, str)}) > 1
    ]
    assert [path for path, _ in lists] == [Path(registry)]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_complete(name):
    form = load_form(name)
    assert isinstance(form, Form)
    assert form.files
    model = tiny_model("bert")
    ways = form.ways(model)
    assert ways
    assert len({way.name for way in ways}) == len(ways)
    text = form.how_to_load(model, Place(name="x", processor="AutoTokenizer"))
    assert text.startswith("```python\n")
    compile("\n".join(ways[0].imports() for _ in ways), "<card>", "exec")
    assert "\n" not in FORMS[name].help


def test_auto_takes_the_first_automatic_form_that_can_hold_a_model(monkeypatch, tmp_path):
    def refuse(self: Stock, source: Source) -> Plan:
        raise Refusal("it cannot; try another", "it cannot")

    monkeypatch.setattr(Stock, "plan", refuse)
    done = export_model(masked_model("vit"), tmp_path / "x", check=False)
    assert (done.form, done.reason) == ("compact", "it cannot")
    monkeypatch.setitem(FORMS, "compact", FORMS["compact"]._replace(automatic=False))
    with pytest.raises(ValueError, match="no form can hold this model: it cannot"):
        export_model(masked_model("vit"), tmp_path / "y", check=False)


def test_a_form_that_cannot_hold_a_model_says_why(tmp_path):
    with pytest.raises(Refusal, match="a stock config cannot express") as caught:
        export_model(uneven_model("bert"), tmp_path / "x", form="stock")
    assert caught.value.reason.startswith("no stock config expresses the widths of bert.")
