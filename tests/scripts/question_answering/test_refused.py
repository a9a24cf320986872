"""Bad arguments and bad rows of question answering: one message each."""

from __future__ import annotations

import pytest
from transformers import (
    ByT5Tokenizer,
)

from tests.programs import refusal
from tests.scripts.question_answering.questions import (
    question,
    run_question_answering,
    write,
)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dataset_name": "./nowhere"}, "the folder ./nowhere does not exist"),
        ({"validation_split": "dev"}, 'Unknown split "dev"'),
        ({"doc_stride": 20}, "doc_stride is from 0 to 19"),
        ({"doc_stride": 24}, "doc_stride is from 0 to 19, so that windows of 24 tokens advance"),
        ({"doc_stride": -1}, "doc_stride is from 0 to 19"),
        ({"doc_stride": 16}, "leave room for questions of 4 tokens, and this one has 5: 'Where d"),
        ({"max_seq_length": 0}, "max_seq_length must be at least 1, got 0"),
        ({"n_best_size": 0}, "n_best_size must be at least 1, got 0"),
        ({"max_answer_length": 0}, "max_answer_length must be at least 1, got 0"),
        ({"max_eval_samples": 0}, "max_eval_samples must be at least 1"),
        ({"question_column": "q"}, "has no column q. It has id, question, context, answers. Name"),
        ({"context_column": "text"}, "Name the column with --context_column"),
        ({"context_column": "answers"}, "must hold text. It holds"),
        ({"answers_column": "id"}, "such as '0'. An answer must be a part of its context"),
        ({"model_name_or_path": "new:vit"}, "new:vit has no tokenizer"),
    ],
    ids=str,
)
def test_bad_input_is_one_message_and_no_traceback(options, wrong, message, capsys):
    assert message in refusal(run_question_answering, {**options, **wrong}, capsys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"answers": {"text": [], "answer_start": []}},
            "1 of 2 questions of the train split have no answer. Give --version_2_with_negative",
        ),
        (
            {"answers": {"text": ["Anna"], "answer_start": []}},
            "1 rows of the train split have not as many starts as answers",
        ),
        ({"answers": None}, "1 of 2 rows of the train split have no answers"),
        ({"context": None}, "1 of 2 rows of the train split have no context"),
    ],
    ids=str,
)
def test_rows_that_cannot_be_learnt_from_are_refused(options, changes, message, tmp_path, capsys):
    rows = [question(0), question(1) | changes]
    options["dataset_name"] = write(tmp_path / "bad", train=rows, validation=[question(2)])
    assert message in refusal(run_question_answering, options, capsys)


def test_one_question_cannot_be_divided(options, tmp_path, capsys):
    options["dataset_name"] = write(tmp_path / "bad", train=[question(0)])
    message = refusal(run_question_answering, options, capsys)
    assert "1 row cannot be divided. Give a file to measure on" in message


def test_a_part_of_a_split_that_is_not_there_is_refused(options, tmp_path, capsys):
    options |= {"dataset_name": write(tmp_path / "bad", train=[question(0)])}
    message = refusal(run_question_answering, {**options, "validation_split": "dev"}, capsys)
    assert 'Unknown split "dev"' in message
    assert "train[:90%] and train[90%:]" in message


def test_without_a_data_set_it_is_squad_of_the_hub(options, capsys):
    del options["dataset_name"]
    message = refusal(run_question_answering, options, capsys)
    assert "'rajpurkar/squad'" in message


def test_a_tokenizer_that_is_not_fast_is_refused(options, tmp_path, capsys):
    ByT5Tokenizer().save_pretrained(tmp_path / "slow")
    options["tokenizer_name"] = tmp_path / "slow"
    message = refusal(run_question_answering, options, capsys)
    assert "ByT5Tokenizer, is not a fast one. It cannot give the position" in message


def test_a_model_for_other_data_is_refused(options, model, capsys):
    options |= {"model_name_or_path": "new:vit", "tokenizer_name": model}
    message = refusal(run_question_answering, options, capsys)
    assert "there is no AutoModelForQuestionAnswering of the type vit" in message
