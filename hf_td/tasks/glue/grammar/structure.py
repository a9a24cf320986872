"""Templates of argument structure: transitivity, prepositions, passives."""

import random

from . import lexicon as lx
from .writing import Pair, Template, pair, sentence, two


def _subject(rng: random.Random) -> str:
    """Draw a person: a name or a noun phrase of either number."""
    return rng.choice((rng.choice(lx.NAMES), f"the {rng.choice(lx.PERSONS)[rng.randrange(2)]}"))


def _needless_object(rng: random.Random) -> Pair:
    frame = f"{_subject(rng)} _ the {rng.choice(lx.THINGS)[rng.randrange(2)]}"
    return pair(frame, rng.choice(lx.HANDLING)[2], rng.choice(lx.SOLO)[1])


def _needless_person(rng: random.Random) -> Pair:
    first, second = two(rng, lx.PERSONS)
    frame = f"the {first[rng.randrange(2)]} _ the {second[0]} {rng.choice(lx.PAST_TIMES)}"
    return pair(frame, rng.choice(lx.MEETING)[2], rng.choice(lx.SOLO)[1])


def _missing_object(rng: random.Random) -> Pair:
    frame = f"{_subject(rng)} _ {rng.choice(lx.ROOMS)}"
    return pair(frame, rng.choice(lx.SOLO)[1], rng.choice(lx.HANDLING)[2])


def _missing_preposition(rng: random.Random) -> Pair:
    verb, preposition = rng.choice(lx.WITH_PREPOSITION)
    first, second = two(rng, lx.PERSONS)
    frame = f"the {first[rng.randrange(2)]} {verb} _ the {second[rng.randrange(2)]}"
    return pair(frame, preposition, "")


def _needless_preposition(rng: random.Random) -> Pair:
    verb = rng.choice(lx.MEETING)[2]
    first, second = two(rng, lx.PERSONS)
    frame = f"the {first[rng.randrange(2)]} {verb} _ the {second[rng.randrange(2)]}"
    return pair(frame, "", rng.choice(("at", "of", "to")))


def _two_objects(rng: random.Random) -> Pair:
    good = rng.choice(("gave", "handed", "lent", "mailed", "sent", "sold", "showed"))
    bad = rng.choice(("criticized", "described", "explained", "mentioned", "praised"))
    receiver = rng.choice(lx.PERSONS)[rng.randrange(2)]
    frame = f"{rng.choice(lx.NAMES)} _ the {receiver} the {rng.choice(lx.PAPERS)}"
    return pair(frame, good, bad)


def _missing_place(rng: random.Random) -> Pair:
    time = rng.choice(("again", "yesterday", "last night", "last week", "this morning"))
    frame = f"{_subject(rng)} _ the {rng.choice(lx.THINGS)[0]} {time}"
    return pair(frame, rng.choice(lx.HANDLING)[2], "put")


def _passive_without_by(rng: random.Random) -> Pair:
    thing = rng.choice(lx.THINGS)[0]
    frame = f"the {thing} was {rng.choice(lx.HANDLING)[3]} _ {_subject(rng)}"
    return pair(f"{frame} {rng.choice(lx.PAST_TIMES)}", "by", "")


def _passive_of_solo(rng: random.Random) -> Pair:
    first, second = two(rng, lx.PERSONS)
    frame = f"the {first[0]} was _ by the {second[rng.randrange(2)]}"
    return pair(frame, rng.choice(lx.MEETING)[3], rng.choice(lx.SOLO)[1])


def _passive_form(rng: random.Random) -> Pair:
    base, _, _, participle, progressive = rng.choice(lx.HANDLING)
    number = rng.randrange(2)
    verb = ("was", "were")[number]
    frame = f"the {rng.choice(lx.THINGS)[number]} {verb} _ by {_subject(rng)}"
    return pair(frame, participle, rng.choice((base, progressive)))


def _passive_with_object(rng: random.Random) -> Pair:
    thing, other = two(rng, lx.THINGS)
    frame = f"the {thing[0]} was {rng.choice(lx.HANDLING)[3]} _ by {_subject(rng)}"
    return pair(frame, rng.choice(("", "again", "recently")), f"the {other[0]}")


def _passive_or_active(rng: random.Random) -> Pair:
    verb = rng.choice(lx.HANDLING)[3]
    person = rng.choice(lx.PERSONS)[0]
    thing = rng.choice(lx.THINGS)[0]
    ending = f"the {thing} {rng.choice(lx.ROOMS)}"
    return sentence(f"the {person} {verb} {ending}"), sentence(f"the {person} was {verb} {ending}")


STRUCTURE: dict[str, tuple[Template, ...]] = {
    "argument_structure": (
        _needless_object,
        _needless_person,
        _missing_object,
        _missing_preposition,
        _needless_preposition,
        _two_objects,
        _missing_place,
    ),
    "passive": (
        _passive_without_by,
        _passive_of_solo,
        _passive_form,
        _passive_with_object,
        _passive_or_active,
    ),
}
"""The templates of the phenomena of argument structure, by name."""
