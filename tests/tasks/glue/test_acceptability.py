import hashlib
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_td.tasks.glue.acceptability import _new_pairs, generate
from hf_td.tasks.glue.grammar import PHENOMENA, lexicon
from hf_td.tasks.glue.grammar.writing import sentence, with_article


@pytest.fixture(scope="module")
def default():
    return generate()


def test_shape_and_features(default):
    assert {name: len(split) for name, split in default.items()} == {
        "train": 4000,
        "validation": 1000,
    }
    for split in default.values():
        assert split.column_names == ["sentence", "label", "phenomenon", "idx"]
        assert split.features["label"].names == ["unacceptable", "acceptable"]
        assert split["idx"][:] == list(range(len(split)))


def test_no_sentence_occurs_twice(default):
    sentences = [text for split in default.values() for text in split["sentence"]]
    assert len(set(sentences)) == len(sentences) == 5000


def test_labels_and_phenomena_are_balanced(default):
    for split in default.values():
        counts = Counter(zip(split["phenomenon"], split["label"], strict=True))
        assert set(counts) == {(name, label) for name in PHENOMENA for label in (0, 1)}
        assert max(counts.values()) - min(counts.values()) <= 1
        assert all(counts[name, 0] == counts[name, 1] for name in PHENOMENA)


def test_at_least_ten_phenomena():
    assert len(PHENOMENA) >= 10


def test_both_sentences_of_a_pair_are_in_one_split(monkeypatch):
    partner = {}

    def recorded(template):
        def draw(rng):
            good, bad = template(rng)
            partner.update({good: bad, bad: good})
            return good, bad

        return draw

    for name, templates in PHENOMENA.items():
        monkeypatch.setitem(PHENOMENA, name, tuple(recorded(t) for t in templates))
    for split in generate(train_size=400, validation_size=200).values():
        sentences = set(split["sentence"])
        assert all(partner[text] in sentences for text in sentences)


def test_same_seed_same_sentences():
    first, second = generate(3, 200, 50), generate(3, 200, 50)
    for name in first:
        assert first[name][:] == second[name][:]


def test_other_seed_other_sentences():
    first, second = generate(0, 200, 50), generate(1, 200, 50)
    assert first["train"]["sentence"][:] != second["train"]["sentence"][:]


def test_default_sentences_are_pinned(default):
    """Check the sentences by hash: recorded results depend on them."""
    text = "\n".join(
        f"{row['label']} {row['sentence']}" for split in default.values() for row in split
    )
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "996bb99e6c0d7901"


def test_sentences_are_well_written(default):
    for text in default["train"]["sentence"]:
        assert text[0].isupper()
        assert text[-1] in ".?"
        assert "_" not in text
        assert text == " ".join(text.split())
        assert not any(gap in text for gap in (" .", " ?", " ,"))


@pytest.mark.parametrize("size", [-2, 3])
@pytest.mark.parametrize("name", ["train_size", "validation_size"])
def test_bad_sizes_are_refused(name, size):
    with pytest.raises(ValueError, match=f"{name} must be an even number .* got {size}"):
        generate(**{name: size})


def test_more_than_the_templates_can_give(monkeypatch):
    monkeypatch.setitem(PHENOMENA, "islands", (lambda rng: ("It is.", "It are."),))
    with pytest.raises(ValueError, match="of 'islands' yields no more new sentences"):
        generate(train_size=100, validation_size=0)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32), train=st.integers(0, 60), validation=st.integers(0, 40))
def test_any_even_size_is_met(seed, train, validation):
    data = generate(seed, 2 * train, 2 * validation)
    for split, pairs in ((data["train"], train), (data["validation"], validation)):
        assert len(split) == 2 * pairs
        assert sum(split["label"]) == pairs


@pytest.mark.parametrize("phenomenon", PHENOMENA)
def test_no_template_is_near_its_end(phenomenon):
    """Check that four times the default number of pairs can be drawn."""
    count = 4 * 2500 // len(PHENOMENA)
    pairs = _new_pairs(random.Random(1), phenomenon, PHENOMENA[phenomenon], count, set())
    assert len(pairs) == count


def test_word_lists_have_no_word_twice():
    for name, words in vars(lexicon).items():
        if name.isupper():
            assert len(set(words)) == len(words), name


def test_writing():
    assert sentence("the  cat sat ") == "The cat sat."
    assert sentence("who sat ?") == "Who sat?"
    assert with_article("old nurse") == "an old nurse"
    assert with_article("tall artist") == "a tall artist"
