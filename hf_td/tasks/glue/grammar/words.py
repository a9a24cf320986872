"""Templates of word forms: irregular verbs, quantifiers, degrees of comparison."""

import random

from . import lexicon as lx
from .writing import Pair, Template, pair, two, with_article


def _subject(rng: random.Random) -> str:
    """Draw a person in the singular: a name or a noun phrase."""
    return rng.choice((rng.choice(lx.NAMES), f"the {rng.choice(lx.PERSONS)[0]}"))


def _simple_past(rng: random.Random) -> Pair:
    _, past, participle, regular, things = rng.choice(lx.IRREGULAR)
    frame = f"{_subject(rng)} _ the {rng.choice(things)} {rng.choice(lx.PAST_TIMES)}"
    return pair(frame, past, rng.choice((participle, regular)))


def _participle(rng: random.Random) -> Pair:
    _, past, participle, regular, things = rng.choice(lx.IRREGULAR)
    auxiliary = rng.choice(("has", "had", "has already", "had already", "has never"))
    frame = f"{_subject(rng)} {auxiliary} _ the {rng.choice(things)}"
    return pair(frame, participle, rng.choice((past, regular)))


def _base(rng: random.Random) -> Pair:
    base, past, participle, _, things = rng.choice(lx.IRREGULAR)
    auxiliary = rng.choice(("did not", "will", "should", "could not", "must"))
    frame = f"{_subject(rng)} {auxiliary} _ the {rng.choice(things)}"
    return pair(frame, base, rng.choice((past, participle)))


def _attribute(rng: random.Random) -> Pair:
    _, past, participle, _, things = rng.choice(
        [verb for verb in lx.IRREGULAR if verb[0] in ("break", "choose", "steal", "tear")]
    )
    verb = rng.choice(("found", "noticed", "mentioned", "hid", "described", "photographed"))
    return pair(f"{_subject(rng)} {verb} the _ {rng.choice(things)}", participle, past)


def _passive_participle(rng: random.Random) -> Pair:
    _, past, participle, _, things = rng.choice(lx.IRREGULAR)
    frame = f"the {rng.choice(things)} was _ by {_subject(rng)}"
    return pair(frame, participle, past)


def _existential_singular(rng: random.Random) -> Pair:
    trait = rng.choice((*lx.PERSON_TRAITS, ""))
    noun = f"{trait} {rng.choice(lx.PERSONS)[0]}".strip()
    good = rng.choice((with_article(noun), f"no {noun}"))
    bad = f"{rng.choice(('each', 'every'))} {noun}"
    return pair(f"there was _ {rng.choice(lx.ROOMS)}", good, bad)


def _existential_plural(rng: random.Random) -> Pair:
    trait = rng.choice((*lx.PERSON_TRAITS, ""))
    noun = f"{trait} {rng.choice(lx.PERSONS)[1]}".strip()
    good = rng.choice(("some", "several", "many", "no", "few", *lx.NUMBERS))
    bad = rng.choice(("all", "most", "both"))
    return pair(f"there were _ {noun} {rng.choice(lx.ROOMS)}", good, bad)


def _counted(rng: random.Random) -> Pair:
    degree = rng.choice(("so", "too", "very", "not"))
    frame = f"there were {degree} _ {rng.choice(lx.THINGS)[1]} {rng.choice(lx.ROOMS)}"
    return pair(frame, "many", "much")


def _not_counted(rng: random.Random) -> Pair:
    degree = rng.choice(("so", "too"))
    frame = f"there was {degree} _ {rng.choice(lx.MASSES)} {rng.choice(lx.ROOMS)}"
    return pair(frame, *rng.choice((("much", "many"), ("little", "few"))))


def _mass_plural(rng: random.Random) -> Pair:
    mass = rng.choice(("advice", "equipment", "furniture", "homework", "jewelry", "luggage"))
    verb = rng.choice(("needed", "received", "mentioned", "wanted"))
    frame = f"{_subject(rng)} {verb} _ {rng.choice(lx.PAST_TIMES)}"
    good, bad = rng.choice((("some", "several"), ("a lot of", "many"), ("some", "two")))
    ending = rng.choice(("", "s"))
    return pair(frame, f"{good} {mass}", f"{bad} {mass}{ending}")


def _partitive(rng: random.Random) -> Pair:
    number = rng.choice(("each", "most", "many", "some", "several", "few", *lx.NUMBERS))
    frame = f"{number} _ {rng.choice(lx.SOLO)[1]} {rng.choice(lx.ROOMS)}"
    noun = rng.choice(lx.PERSONS)[1]
    return pair(frame, f"of the {noun}", f"the {noun}")


def _comparative(rng: random.Random) -> Pair:
    plain, comparative, superlative = rng.choice(lx.COMPARED)
    first, second = two(rng, lx.NAMES)
    bad = rng.choice((f"more {comparative}", superlative, plain))
    return pair(f"{first} is _ than {second}", comparative, bad)


def _superlative(rng: random.Random) -> Pair:
    plain, _, superlative = rng.choice(lx.COMPARED)
    place = rng.choice(("in the village", "in the town", "in the office", "in the country"))
    frame = f"{rng.choice(lx.NAMES)} is _ {rng.choice(lx.PERSONS)[0]} {place}"
    bad = rng.choice((f"the most {superlative}", superlative, f"most {plain}"))
    return pair(frame, f"the {superlative}", bad)


def _equal(rng: random.Random) -> Pair:
    plain, comparative, superlative = rng.choice(lx.COMPARED)
    person, other = two(rng, lx.PERSONS)
    frame = f"the {person[0]} is as _ as the {other[0]}"
    return pair(frame, plain, rng.choice((comparative, superlative)))


WORDS: dict[str, tuple[Template, ...]] = {
    "irregular_forms": (_simple_past, _participle, _base, _attribute, _passive_participle),
    "quantifiers": (
        _existential_singular,
        _existential_plural,
        _counted,
        _not_counted,
        _mass_plural,
        _partitive,
    ),
    "comparison": (_comparative, _superlative, _equal),
}
"""The templates of the phenomena of word forms, by name."""
