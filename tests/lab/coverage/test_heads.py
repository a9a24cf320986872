"""The survey of task heads."""

from __future__ import annotations

import json

import pytest
from lab.coverage import heads
from lab.coverage.heads import kinds_of_heads, survey_head
from lab.coverage.page import coverage_section

from hf_td import compact_model
from tests.tables import unpadded

# Heads that do not run on the input of their base model, by the kind of the Auto class.
OWN_INPUTS = ("multiple choice", "audio xvector")
NOT_READ = ("ibert:", "squeezebert:", "xmod:")  # nor are their base models
OTHERS = (
    "bart:BartForSequenceClassification",
    "bigbird_pegasus:BigBirdPegasusForSequenceClassification",
    "longformer:LongformerForQuestionAnswering",
    "mbart:MBartForSequenceClassification",
    "mt5:MT5ForSequenceClassification",
    "plbart:PLBartForSequenceClassification",
    "splinter:SplinterForPreTraining",
    "t5:T5ForSequenceClassification",
    "umt5:UMT5ForSequenceClassification",
    "videomae:VideoMAEForPreTraining",
)
SLOW = sorted(
    {head for head, kinds in kinds_of_heads().items() if {*kinds}.intersection(OWN_INPUTS)}
    | {*OTHERS}
)
FACTS = {"versions": {}, "hardware": {"cores": 2, "cpu": ""}, "command": "", "seed": 0}
pytestmark = pytest.mark.filterwarnings("ignore")  # of default configs, by transformers


@pytest.fixture(autouse=True)
def nothing_read_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_td.anatomy.reading._READINGS", {})


def test_every_head_of_the_auto_classes_has_its_kinds():
    found = kinds_of_heads()
    assert found["bert:BertForMaskedLM"] == ["masked lm"]
    assert "bert:BertModel" not in found
    assert len(found) > 900


@pytest.mark.parametrize(
    ("head", "outcome"),
    [
        ("bert:BertForMultipleChoice", "passed"),
        ("bart:BartForSequenceClassification", "passed"),
        ("ibert:IBertForMaskedLM", "refused"),
        ("funnel:FunnelForNothing", "not built"),
    ],
)
def test_a_head_has_an_outcome_and_a_reason(head, outcome):
    record = survey_head(head)
    assert (record["type"], record["outcome"]) == (head, outcome), record
    assert bool(record.get("reason")) == (outcome != "passed")
    assert json.loads(json.dumps(record)) == record


def test_a_cut_that_depends_on_the_check_is_a_mismatch(monkeypatch):
    def keeping(model, *, check=True, **how):
        return compact_model(model, **how) if check else model

    monkeypatch.setattr(heads, "compact_model", keeping)
    record = survey_head("bert:BertForMaskedLM")
    assert record["outcome"] == "mismatch"
    assert "parameters without the check" in record["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("head", SLOW)
def test_heads_with_inputs_of_their_own_are_made_compact(head):
    outcome = "refused" if head.startswith(NOT_READ) else "passed"
    record = survey_head(head)
    assert record["outcome"] == outcome, record


def test_the_page_counts_heads_by_kind():
    records = [
        {"type": "bert:BertForMaskedLM", "outcome": "passed"},
        {"type": "bert:BertForMultipleChoice", "outcome": "passed"},
        {"type": "xmod:XmodForMultipleChoice", "outcome": "refused", "reason": "ValueError: no"},
    ]
    page = unpadded(coverage_section(records, FACTS))
    assert "| multiple choice | 2 | 1 | | | 1 | |" in page
    assert "| all, each once | 3 | 2 | | | 1 | |" in page
    assert "| xmod:XmodForMultipleChoice | refused | no |" in page
    assert "| registered | 0 | |" in page
