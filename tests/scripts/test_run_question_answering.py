"""scripts/run_question_answering.py, on sentences of who lives where."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.testing import assert_close
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    BertConfig,
    BertModel,
    ByT5Tokenizer,
    EvalPrediction,
    PreTrainedTokenizerFast,
)

from hf_td.experiment import (
    METHODS,
    QuestionArguments,
    builtin_model,
    parse_arguments,
    question_answering_problem,
)
from hf_td.experiment.vocabulary import train_tokenizer
from tests.programs import argv_of, load_script, refusal, results_of, short_run
from tests.tiny import SIZES

run_question_answering = load_script("run_question_answering")

_NAMES = ["Anna", "Ben", "Cem", "Dora", "Eve"]
_PLACES = ["Bonn", "New York", "Rome", "Oslo", "Lima"]
_FILLING = "They met early that morning and then it rained all day ".split()
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def question(number: int, *, filling: int = 0, answered: bool = True) -> dict[str, Any]:
    """Who lives where, behind and before some filling; or only where someone was."""
    name, place = _NAMES[number % 5], _PLACES[number // 5 % 5]
    before = "".join(f"{word} " for word in (_FILLING * filling)[number % 7 :])
    context = f"{before}{name} {'lives in' if answered else 'has left'} {place} ." + before
    start = context.index(place)
    answers = {"text": [place, "Mars"], "answer_start": [start, 0]}
    none: dict[str, list[Any]] = {"text": [], "answer_start": []}
    return {
        "id": str(number),
        "question": f"  Where does {name} live ?",
        "context": context,
        "answers": answers if answered else none,
    }


def write(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in splits.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A folder with a tiny random BERT that knows the words."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    splitter: Any = pre_tokenizers.Whitespace()
    texts = [text for i in range(25) for text in (question(i)["question"], question(i)["context"])]
    texts += ["has left", " ".join(_FILLING)]
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(text)}
    vocabulary = {word: i for i, word in enumerate([*_SPECIAL, *sorted(words)])}
    tokenizer: Any = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), _SPECIAL, strict=True))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="left", **names
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(vocabulary), **SIZES, max_position_embeddings=64)
    config.num_labels = 3  # of the task that it was trained for before
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    rows = [question(i, filling=i % 3) for i in range(40)]
    return write(tmp_path_factory.mktemp("questions"), train=rows[:24], validation=rows[24:])


@pytest.fixture(scope="module")
def negative(tmp_path_factory) -> Path:
    """The same kind of questions, of which every second one has no answer."""
    rows = [question(i, filling=i % 3, answered=i % 2 == 0) for i in range(40)]
    return write(tmp_path_factory.mktemp("negative"), train=rows[:24], validation=rows[24:])


@pytest.fixture
def options(model, folder, tmp_path) -> dict[str, Any]:
    """Arguments of a run of a second."""
    return {
        "model_name_or_path": model,
        "dataset_name": folder,
        "max_seq_length": 24,
        "doc_stride": 6,
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        **short_run(tmp_path / "out"),
    }


def _problem(options: dict[str, Any]) -> Any:
    return question_answering_problem(parse_arguments(argv_of(options), QuestionArguments))


def _places(problem: Any) -> Any:
    """Where the windows of the validation split lie."""
    return problem.compute_metrics.keywords["windows"]


def _true_logits(problem: Any) -> np.ndarray:
    """Logits that are sure of the positions to be learnt."""
    logits = np.zeros((len(problem.eval_data), 64, 2), dtype=np.float32)
    for window, row in zip(logits, problem.eval_data, strict=True):
        window[row["start_positions"], 0] = window[row["end_positions"], 1] = 9
    return logits


def _metrics(problem: Any, logits: np.ndarray) -> dict[str, float]:
    return problem.compute_metrics(EvalPrediction(logits, np.zeros(0)))


# ---- what a run leaves -------------------------------------------------------------------------


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_run_writes_exact_match_and_f1_at_every_sparsity(options, method):
    run_question_answering.main(argv_of({**options, "method": method}))
    results = results_of(options)
    assert (results["task"], results["metric"]) == ("question answering", "f1")
    (run,) = results["runs"]
    assert [point["sparsity"] for point in run["curve"]] == [0, 0.5]
    for point in run["curve"]:
        assert set(point["metrics"]) == {"loss", "exact_match", "f1"}
        assert 0 <= point["metrics"]["exact_match"] <= point["metrics"]["f1"] <= 100
    saved = options["output_dir"] / run["model"]
    assert AutoModelForQuestionAnswering.from_pretrained(saved).config.num_labels == 2
    assert AutoTokenizer.from_pretrained(saved).padding_side == "right"


def test_a_saved_model_is_measured_again_and_seeds_are_kept(options, tmp_path):
    options |= {"importance": "magnitude", "seeds": [0, 1]}
    run_question_answering.main(argv_of(options))
    first = results_of(options)
    run_question_answering.main(argv_of(options))  # nothing is left to do
    assert results_of(options)["runs"] == first["runs"]
    again = {
        **options,
        "model_name_or_path": options["output_dir"] / "seed-1",
        "output_dir": tmp_path / "again",
        "seeds": 1,
        "do_eval": True,
    }
    run_question_answering.main(argv_of(again))
    (run,) = results_of(again)["runs"]
    for before, after in zip(first["runs"][1]["curve"], run["curve"], strict=True):
        assert before["metrics"] == after["metrics"]


def test_a_run_that_was_cut_off_goes_on_from_its_checkpoint(options, tmp_path):
    options |= {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    run_question_answering.main(argv_of(options))
    checkpoint = options["output_dir"] / "seed-42" / "checkpoint-2"
    resumed = {**options, "output_dir": tmp_path / "resumed", "resume_from_checkpoint": checkpoint}
    run_question_answering.main(argv_of(resumed))
    one, other = (results_of(each)["runs"][0]["curve"] for each in (options, resumed))
    assert one == other


def test_an_export_is_loaded_and_its_card_tells_f1(options):
    run_question_answering.main(argv_of({**options, "export_sparsity": 0.5}))
    export = options["output_dir"] / "seed-42" / "export"
    card = (export / "README.md").read_text()
    assert "| f1 |" in card
    assert "pipeline_tag: question-answering" in card
    assert AutoModelForQuestionAnswering.from_pretrained(export).num_parameters() > 0


def test_the_model_before_is_a_teacher_too(options):
    """With a dense stage and nothing but the teacher's word, the two ends are learnt from it."""
    taught = {"dense_epochs": 1, "teacher": "start", "distill_weight": 1.0}
    run_question_answering.main(argv_of({**options, **taught}))
    (run,) = results_of(options)["runs"]
    assert run["dense"]["model"] == "dense"
    assert 0 < run["training"]["loss"] < 1


@pytest.mark.parametrize("negatives", [False, True])
@pytest.mark.slow
def test_who_lives_where_is_learnt(options, folder, negative, negatives):
    more = {"max_steps": 300, "learning_rate": 3e-3, "sparsities": [0], "method": "none"}
    data = {"dataset_name": negative if negatives else folder, "version_2_with_negative": negatives}
    run_question_answering.main(argv_of({**options, **more, **data}))
    (point,) = results_of(options)["summary"]
    assert point["metrics"]["f1"]["mean"] > 80
    assert point["metrics"]["exact_match"]["mean"] > 70


# ---- metrics -----------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [20, 24, 40])
def test_sure_logits_score_100_whatever_the_windows(options, length):
    problem = _problem({**options, "max_seq_length": length})
    rows = _places(problem)["row"]
    assert set(rows) == set(range(16))
    assert len(rows) > 16
    assert _metrics(problem, _true_logits(problem)) == {"exact_match": 100, "f1": 100}
    # "New" is half of the two words; all other answers are one word.
    short = _metrics(problem, _short(problem))
    double = sum(row["answers"]["text"][0] == "New York" for row in _rows(options))
    assert short["exact_match"] == pytest.approx(100 * (16 - double) / 16)
    assert short["f1"] == pytest.approx(100 * (16 - double + double * 2 / 3) / 16)


def _short(problem: Any) -> np.ndarray:
    """Sure of the first word as the whole answer."""
    logits = _true_logits(problem)
    logits[..., 1] = logits[..., 0]
    return logits


def _rows(options: dict[str, Any]) -> list[dict[str, Any]]:
    lines = (Path(options["dataset_name"]) / "validation.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_evaluation_agrees_with_a_window_at_a_time_in_their_order(options):
    """Grouped by length, as the recipe trains: that is not to shuffle what is evaluated."""
    options |= {"per_device_eval_batch_size": 3, "max_seq_length": 40}
    arguments = parse_arguments(argv_of(options), QuestionArguments)
    assert arguments.training.train_sampling_strategy == "group_by_length"
    arguments.training.dataloader_pin_memory = False
    problem = question_answering_problem(arguments)
    model: Any = problem.make_model().eval()
    trainer = METHODS["none"].trainer_of(problem.trainer_family)(
        model=model,
        args=arguments.training,
        eval_dataset=problem.eval_data,
        processing_class=problem.processor,
        data_collator=problem.collator,
        compute_metrics=problem.compute_metrics,
        preprocess_logits_for_metrics=problem.reduce_logits,
    )
    alone = []
    for row in problem.eval_data:
        inputs = {name: torch.tensor([values]) for name, values in row.items()}
        with torch.no_grad():
            output = model(**inputs)
        alone.append(torch.stack([output.start_logits[0], output.end_logits[0]], -1))
    done = trainer.predict(problem.eval_data)
    for expected, logits in zip(alone, done.predictions, strict=True):
        assert_close(torch.tensor(logits[: len(expected)]), expected)
    padded = torch.nn.utils.rnn.pad_sequence(alone, batch_first=True).numpy()
    expected = _metrics(problem, padded)
    found = trainer.evaluate()
    assert {name: found[f"eval_{name}"] for name in expected} == pytest.approx(expected)


# ---- windows -----------------------------------------------------------------------------------


def test_windows_hold_the_whole_context_and_overlap(options):
    problem = _problem(options)
    tokenizer, rows = problem.processor, _rows(options)
    spans: dict[int, list[Any]] = {}
    for window, place in zip(problem.eval_data, _places(problem), strict=True):
        row = rows[place["row"]]
        words = tokenizer.convert_ids_to_tokens(window["input_ids"])
        held = list(zip(words, place["token_starts"], place["token_ends"], strict=True))
        assert len(words) <= 24
        assert words[:7] == ["[CLS]", *row["question"].split(), "[SEP]"]
        assert words[place["null"]] == "[CLS]"
        assert all(start == end == -1 for _, start, end in [*held[:7], held[-1]])
        assert all(row["context"][start:end] == word for word, start, end in held[7:-1])
        spans.setdefault(place["row"], []).append(held[7:-1])
    for number, parts in spans.items():
        for one, other in pairwise(parts):
            assert one[-6:] == other[:6]
        tokens = [parts[0], *(part[6:] for part in parts[1:])]
        words = [word for part in tokens for word, *_ in part]
        assert words == tokenizer.tokenize(rows[number]["context"])


def test_windows_learn_the_answer_that_they_hold(options):
    problem = _problem(options)
    rows, seen = _rows(options), set()
    for window, place in zip(problem.eval_data, _places(problem), strict=True):
        row = rows[place["row"]]
        first, last = window["start_positions"], window["end_positions"]
        start, text = row["answers"]["answer_start"][0], row["answers"]["text"][0]
        held = [i for i in place["token_starts"] if i >= 0]
        if held[0] <= start and start + len(text) <= max(place["token_ends"]):
            assert row["context"][place["token_starts"][first] : place["token_ends"][last]] == text
            seen.add(place["row"])
        else:
            assert first == last == place["null"] == 0
    assert len(seen) == len(rows)
    assert len(problem.eval_data) > len(rows)


def test_an_answer_inside_of_a_word_is_that_word(options, tmp_path):
    row = question(0)
    row["answers"] = {"text": ["onn"], "answer_start": [row["context"].index("onn")]}
    data = write(tmp_path / "inside", train=[row], validation=[row])
    problem = _problem({**options, "dataset_name": data})
    (window,) = problem.train_data
    first, last = window["start_positions"], window["end_positions"]
    assert problem.processor.decode(window["input_ids"][first : last + 1]) == "Bonn"


@pytest.mark.parametrize("kind", ["byte pairs", "word pieces"])
def test_answers_are_found_in_any_letters(options, kind, tmp_path):
    """Letters of several bytes, and a tokenizer without a token for the whole window."""
    context = "Grüße aus Zürich, sagte sie; nicht aus der Neuen Welt (世界), wie er es meint."
    rows = [
        {
            "question": "Woher?",
            "context": f"{context} {context}",
            "answers": {"text": [text], "answer_start": [context.index(text)]},
        }
        for text in ("Zürich", "Grüße", "世界", "der Neuen Welt", "wie er es")
    ]
    data = write(tmp_path / "letters", train=rows, validation=rows)
    options |= {"dataset_name": data, "max_seq_length": 40, "tokenizer_name": builtin_model()}
    if kind == "byte pairs":
        train_tokenizer([context], 300).save_pretrained(tmp_path / "bytes")
        options |= {"tokenizer_name": tmp_path / "bytes", "max_seq_length": 60}
    problem = _problem(options)
    assert len(problem.eval_data) > len(rows)
    assert set(_places(problem)["null"]) == {0}
    assert _metrics(problem, _true_logits(problem)) == {"exact_match": 100, "f1": 100}


def test_samples_are_questions_and_not_windows(options):
    problem = _problem({**options, "max_train_samples": 3, "max_eval_samples": 5})
    assert sorted(set(_places(problem)["row"])) == list(range(5))
    assert len(problem.eval_data) > 5
    assert set(problem.train_data.column_names) == set(problem.eval_data.column_names)


def test_columns_can_have_other_names(options, folder, tmp_path):
    names = {"question": "q", "context": "text", "answers": "spans"}
    for split in ("train", "validation"):
        rows = map(json.loads, (folder / f"{split}.jsonl").read_text().splitlines())
        renamed: list[Any] = [{names.get(name, name): v for name, v in row.items()} for row in rows]
        write(tmp_path / "other", **{split: renamed})
    named = {"question_column": "q", "context_column": "text", "answers_column": "spans"}
    other = _problem({**options, "dataset_name": tmp_path / "other", **named})
    assert other.train_data.to_list() == _problem(options).train_data.to_list()


def test_an_answer_that_is_not_in_its_place_is_warned_of(options, tmp_path, caplog):
    wrong = question(1)
    wrong["answers"]["answer_start"][0] += 1
    data = write(tmp_path / "wrong", train=[question(0), wrong], validation=[question(2)])
    _problem({**options, "dataset_name": data})
    assert "the contexts of 1 of 2 training rows do not have the answer where" in caplog.text
    assert "Where does Ben live ?" in caplog.text


# ---- questions without an answer ---------------------------------------------------------------


def test_questions_without_an_answer_are_learnt_and_measured(options, negative):
    problem = _problem({**options, "dataset_name": negative, "version_2_with_negative": True})
    rows = [json.loads(x) for x in (negative / "validation.jsonl").read_text().splitlines()]
    for window, place in zip(problem.eval_data, _places(problem), strict=True):
        if not rows[place["row"]]["answers"]["text"]:
            assert window["start_positions"] == window["end_positions"] == place["null"]
    logits = _true_logits(problem)
    assert _metrics(problem, logits) == {"exact_match": 100, "f1": 100}
    logits[:, 0] = 20  # every window is sure that there is nothing
    assert _metrics(problem, logits)["f1"] == 50
    generous = {"null_score_diff_threshold": 100, "version_2_with_negative": True}
    problem = _problem({**options, "dataset_name": negative, **generous})
    assert _metrics(problem, _true_logits(problem))["f1"] == 50  # never says that there is none


@pytest.mark.parametrize("method", ["targeted_dropout", "none"])
def test_a_run_with_such_questions(options, negative, method):
    data = {"dataset_name": negative, "version_2_with_negative": True}
    run_question_answering.main(argv_of({**options, **data, "method": method}))
    assert len(results_of(options)["summary"]) == 2


# ---- bad input ---------------------------------------------------------------------------------


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
        ({"question_column": "q"}, "has no column q; it has id, question, context, answers. Name"),
        ({"context_column": "text"}, "Name the column with --context_column"),
        ({"context_column": "answers"}, "must hold text; it holds"),
        ({"answers_column": "id"}, "must hold {text: [...], answer_start: [...]}; it holds Value"),
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
            "1 of 2 questions of the train split have no answer; give --version_2_with_negative",
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


def test_data_without_a_validation_split_are_refused(options, tmp_path, capsys):
    options["dataset_name"] = write(tmp_path / "bad", train=[question(0)])
    message = refusal(run_question_answering, options, capsys)
    assert 'Unknown split "validation"' in message
    assert "train[:90%] and train[90%:]" in message


def test_without_a_data_set_it_is_squad_of_the_hub(options, capsys):
    del options["dataset_name"]
    message = refusal(run_question_answering, options, capsys)
    assert "'rajpurkar/squad'" in message


def test_a_tokenizer_that_is_not_fast_is_refused(options, tmp_path, capsys):
    ByT5Tokenizer().save_pretrained(tmp_path / "slow")
    options["tokenizer_name"] = tmp_path / "slow"
    message = refusal(run_question_answering, options, capsys)
    assert "ByT5Tokenizer, is not a fast one: it cannot tell where in the text" in message


def test_a_model_for_other_data_is_refused(options, model, capsys):
    options |= {"model_name_or_path": "new:vit", "tokenizer_name": model}
    message = refusal(run_question_answering, options, capsys)
    assert "there is no AutoModelForQuestionAnswering of the type vit" in message
