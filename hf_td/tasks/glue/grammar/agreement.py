"""Templates of agreement: verb and subject, reflexive and antecedent, determiner and noun."""

import random

from . import lexicon as lx
from .writing import Pair, Template, pair, two

_BE = (("is", "are"), ("was", "were"))


def _verb_with_object(rng: random.Random) -> Pair:
    number = rng.randrange(2)
    verb = rng.choice(lx.HANDLING)
    forms = (verb[1], verb[0])
    subject = rng.choice(lx.PERSONS)[number]
    thing = rng.choice(lx.THINGS)[rng.randrange(2)]
    trait = rng.choice((*lx.PERSON_TRAITS, ""))
    frame = f"the {trait} {subject} {rng.choice(lx.HABITS)} _ the {thing}"
    return pair(frame, forms[number], forms[1 - number])


def _verb_with_person(rng: random.Random) -> Pair:
    number = rng.randrange(2)
    verb = rng.choice(lx.MEETING)
    forms = (verb[1], verb[0])
    subject, other = two(rng, lx.PERSONS)
    frame = f"{rng.choice(lx.NAMES)}'s {subject[number]} _ the {other[rng.randrange(2)]}"
    return pair(frame, forms[number], forms[1 - number])


def _copula(rng: random.Random) -> Pair:
    number = rng.randrange(2)
    forms = rng.choice(_BE)
    subject = rng.choice(lx.PERSONS)[number]
    state = rng.choice(lx.PERSON_STATES)
    frame = f"the {subject} {rng.choice(lx.ROOMS)} _ {rng.choice(('', 'very', 'quite'))} {state}"
    return pair(frame, forms[number], forms[1 - number])


def _perfect(rng: random.Random) -> Pair:
    number = rng.randrange(2)
    forms = ("has", "have")
    subject = rng.choice(lx.PERSONS)[number]
    verb = rng.choice(lx.HANDLING)[3]
    frame = f"the {subject} _ {verb} the {rng.choice(lx.THINGS)[rng.randrange(2)]}"
    return pair(frame, forms[number], forms[1 - number])


def _joined_subjects(rng: random.Random) -> Pair:
    first, second = two(rng, lx.PERSONS)
    plural, singular = rng.choice((("are", "is"), ("were", "was")))
    frame = f"the {first[0]} and the {second[0]} _ {rng.choice(lx.PERSON_STATES)}"
    return pair(frame, plural, singular)


def _question(rng: random.Random) -> Pair:
    number = rng.randrange(2)
    forms = ("does", "do")
    verb = rng.choice(lx.HANDLING)[0]
    thing = rng.choice(lx.THINGS)[1]
    frame = f"_ the {rng.choice(lx.PERSONS)[number]} {rng.choice(lx.HABITS[:3])} {verb} {thing}?"
    return pair(frame, forms[number], forms[1 - number])


def _thing_beside_things(rng: random.Random) -> Pair:
    number = rng.randrange(2)
    forms = rng.choice(_BE)
    head, other = two(rng, lx.THINGS)
    place = f"{rng.choice(lx.NEARNESS)} the {other[1 - number]}"
    frame = f"the {head[number]} {place} _ {rng.choice(lx.THING_STATES)}"
    return pair(frame, forms[number], forms[1 - number])


def _person_near_persons(rng: random.Random) -> Pair:
    number = rng.randrange(2)
    verb = rng.choice(lx.HANDLING)
    forms = (verb[1], verb[0])
    head, other = two(rng, lx.PERSONS)
    place = f"{rng.choice(lx.NEARNESS)} the {other[1 - number]}"
    frame = f"the {head[number]} {place} _ the {rng.choice(lx.THINGS)[0]}"
    return pair(frame, forms[number], forms[1 - number])


def _subject_relative(rng: random.Random) -> Pair:
    number = rng.randrange(2)
    forms = rng.choice(_BE)
    head, other = two(rng, lx.PERSONS)
    clause = f"who {rng.choice(lx.MEETING)[2]} the {other[1 - number]}"
    frame = f"the {head[number]} {clause} _ {rng.choice(lx.PERSON_STATES)}"
    return pair(frame, forms[number], forms[1 - number])


def _object_relative(rng: random.Random) -> Pair:
    number = rng.randrange(2)
    forms = rng.choice(_BE)
    head, other = two(rng, lx.PERSONS)
    clause = f"that the {other[1 - number]} {rng.choice(lx.MEETING)[2]}"
    frame = f"the {head[number]} {clause} _ {rng.choice(lx.PERSON_STATES)}"
    return pair(frame, forms[number], forms[1 - number])


def _thing_relative(rng: random.Random) -> Pair:
    number = rng.randrange(2)
    forms = rng.choice(_BE)
    head = rng.choice(lx.THINGS)[number]
    clause = f"that the {rng.choice(lx.PERSONS)[1 - number]} {rng.choice(lx.HANDLING)[2]}"
    frame = f"the {head} {clause} _ {rng.choice(lx.THING_STATES)}"
    return pair(frame, forms[number], forms[1 - number])


def _gendered(rng: random.Random) -> tuple[tuple, tuple, str, str]:
    """Draw a gender: its nouns, the other gender's nouns, its reflexive, the other reflexive."""
    sides = ((lx.WOMEN, "herself"), (lx.MEN, "himself"))
    (nouns, right), (others, wrong) = sides if rng.random() < 0.5 else sides[::-1]
    return nouns, others, right, wrong


def _reflexive_gender(rng: random.Random) -> Pair:
    nouns, _, right, wrong = _gendered(rng)
    place = rng.choice((*lx.ROOMS, *lx.PAST_TIMES))
    frame = f"the {rng.choice(nouns)[0]} {rng.choice(lx.REFLEXIVES)} _ {place}"
    return pair(frame, right, wrong)


def _reflexive_name(rng: random.Random) -> Pair:
    names, forms = rng.choice(
        ((lx.WOMEN_NAMES, ("herself", "himself")), (lx.MEN_NAMES, ("himself", "herself")))
    )
    place = rng.choice((*lx.ROOMS, *lx.PAST_TIMES))
    return pair(f"{rng.choice(names)} {rng.choice(lx.REFLEXIVES)} _ {place}", *forms)


def _reflexive_number(rng: random.Random) -> Pair:
    nouns, _, singular, _ = _gendered(rng)
    number = rng.randrange(2)
    forms = (singular, "themselves")
    place = rng.choice((*lx.ROOMS, *lx.PAST_TIMES))
    frame = f"the {rng.choice(nouns)[number]} {rng.choice(lx.REFLEXIVES)} _ {place}"
    return pair(frame, forms[number], forms[1 - number])


def _reflexive_relative(rng: random.Random) -> Pair:
    nouns, others, right, wrong = _gendered(rng)
    clause = f"who {rng.choice(lx.MEETING)[2]} the {rng.choice(others)[0]}"
    frame = f"the {rng.choice(nouns)[0]} {clause} {rng.choice(lx.REFLEXIVES)} _"
    return pair(frame, right, wrong)


def _reflexive_is_local(rng: random.Random) -> Pair:
    nouns, others, right, wrong = _gendered(rng)
    said = rng.choice(("said", "thought", "claimed", "believed"))
    clause = f"the {rng.choice(nouns)[0]} {rng.choice(lx.REFLEXIVES)} _"
    return pair(f"the {rng.choice(others)[0]} {said} that {clause}", right, wrong)


def _demonstrative(rng: random.Random) -> Pair:
    number = rng.randrange(2)
    forms = rng.choice((("this", "these"), ("that", "those")))
    thing = rng.choice(lx.THINGS)[number]
    subject = rng.choice((rng.choice(lx.NAMES), f"the {rng.choice(lx.PERSONS)[0]}"))
    frame = f"{subject} {rng.choice(lx.HANDLING)[2]} _ {rng.choice((*lx.LOOKS, ''))} {thing}"
    return pair(frame, forms[number], forms[1 - number])


def _noun_after_demonstrative(rng: random.Random) -> Pair:
    number = rng.randrange(2)
    determiner = rng.choice((("this", "these"), ("that", "those")))[number]
    person = rng.choice(lx.PERSONS)
    frame = f"{rng.choice(lx.NAMES)} {rng.choice(lx.MEETING)[2]} {determiner} _"
    frame = f"{frame} {rng.choice(lx.PAST_TIMES)}"
    return pair(frame, person[number], person[1 - number])


def _noun_after_quantifier(rng: random.Random) -> Pair:
    number = rng.randrange(2)
    singular = ("each", "every", "another", "one")
    determiner = rng.choice((singular, ("many", "several", "few", "both", *lx.NUMBERS))[number])
    trait = rng.choice((*lx.PERSON_TRAITS, ""))
    person = rng.choice(lx.PERSONS)
    frame = f"{determiner} {trait} _ {rng.choice(lx.SOLO)[1]} {rng.choice(lx.ROOMS)}"
    return pair(frame, person[number], person[1 - number])


def _irregular_plural(rng: random.Random) -> Pair:
    singular, plural, regular = rng.choice(lx.IRREGULAR_PLURALS)
    determiner = rng.choice(("these", "those", "several", "many", *lx.NUMBERS))
    verb = rng.choice(("counted", "described", "drew", "mentioned", "noticed", "saw"))
    frame = f"{rng.choice(lx.NAMES)} {verb} {determiner} _ {rng.choice(lx.PAST_TIMES)}"
    return pair(frame, plural, rng.choice((singular, regular)))


AGREEMENT: dict[str, tuple[Template, ...]] = {
    "subject_verb_agreement": (
        _verb_with_object,
        _verb_with_person,
        _copula,
        _perfect,
        _joined_subjects,
        _question,
    ),
    "distractor_agreement": (
        _thing_beside_things,
        _person_near_persons,
        _subject_relative,
        _object_relative,
        _thing_relative,
    ),
    "reflexive_agreement": (
        _reflexive_gender,
        _reflexive_name,
        _reflexive_number,
        _reflexive_relative,
        _reflexive_is_local,
    ),
    "determiner_noun_agreement": (
        _demonstrative,
        _noun_after_demonstrative,
        _noun_after_quantifier,
        _irregular_plural,
    ),
}
"""The templates of the agreement phenomena, by name."""
