"""Templates of distant dependencies: polarity items, gaps, islands, ellipsis."""

import random

from . import lexicon as lx
from .writing import Pair, Template, pair, sentence, two

_PEOPLE = (
    *(("she", name) for name in lx.WOMEN_NAMES),
    *(("he", name) for name in lx.MEN_NAMES),
    *(("she", f"the {noun[0]}") for noun in lx.WOMEN),
    *(("he", f"the {noun[0]}") for noun in lx.MEN),
)
"""Persons: (pronoun, name or noun phrase)."""


def _thing(rng: random.Random) -> str:
    return f"the {rng.choice(lx.THINGS)[rng.randrange(2)]}"


def _person(rng: random.Random) -> str:
    return f"the {rng.choice(lx.PERSONS)[rng.randrange(2)]}"


def _handled(rng: random.Random) -> str:
    """Draw the past tense of a verb that needs an object."""
    return rng.choice(lx.HANDLING)[2]


def _ever(rng: random.Random) -> Pair:
    noun = rng.choice(lx.PERSONS)[0]
    wrong = rng.choice(("some", "the", "this", "that"))
    frame = f"_ {noun} has ever {rng.choice(lx.EXPERIENCES)}"
    return pair(frame, "no", wrong)


def _ever_in_question(rng: random.Random) -> Pair:
    number = rng.randrange(2)
    auxiliary = ("has", "have")[number]
    noun = f"the {rng.choice(lx.PERSONS)[number]}"
    ending = f"ever {rng.choice(lx.EXPERIENCES)}"
    return sentence(f"{auxiliary} {noun} {ending}?"), sentence(f"{noun} {auxiliary} {ending}")


def _ever_out_of_scope(rng: random.Random) -> Pair:
    head, other = two(rng, lx.PERSONS)
    verb = rng.choice(lx.MEETING)[2]
    ending = f"{other[1]} {verb} have ever {rng.choice(lx.EXPERIENCES)}"
    good = f"no {head[1]} that the {ending}"
    return sentence(good), sentence(f"the {head[1]} that no {ending}")


def _any(rng: random.Random) -> Pair:
    good = rng.choice(("nobody", "no one"))
    bad = rng.choice(("somebody", "someone", "everybody", "everyone"))
    things = rng.choice(lx.THINGS)[1]
    frame = f"_ {rng.choice(lx.ROOMS)} {_handled(rng)} any {things}"
    return pair(frame, good, bad)


def _any_after_not(rng: random.Random) -> Pair:
    base, _, past, *_ = rng.choice(lx.HANDLING)
    frame = f"{_person(rng)} _ any {rng.choice(lx.THINGS)[1]} {rng.choice(lx.PAST_TIMES)}"
    return pair(frame, f"did not {base}", past)


def _yet(rng: random.Random) -> Pair:
    number = rng.randrange(2)
    frame = f"the {rng.choice(lx.PERSONS)[number]} {('has', 'have')[number]} _"
    frame = f"{frame} {rng.choice(lx.HANDLING)[3]} {_thing(rng)} yet"
    return pair(frame, "not", "")


def _at_all(rng: random.Random) -> Pair:
    base, past, _ = rng.choice(lx.SOLO[1:])
    frame = f"{_person(rng)} _ at all {rng.choice(lx.PAST_TIMES)}"
    return pair(frame, f"did not {base}", past)


def _knows_what(rng: random.Random) -> Pair:
    verb = rng.choice(("knows", "remembers", "discovered", "revealed"))
    frame = f"{rng.choice(lx.NAMES)} {verb} _ {_person(rng)} {_handled(rng)}"
    if rng.random() < 0.5:
        return pair(frame, "what", "that")
    return pair(f"{frame} {_thing(rng)}", "that", "what")


def _knows_what_far(rng: random.Random) -> Pair:
    name, other = two(rng, lx.NAMES)
    verb = rng.choice(("knows", "remembers", "revealed"))
    frame = f"{name} {verb} _ {other} said that {_person(rng)} {_handled(rng)}"
    if rng.random() < 0.5:
        return pair(frame, "what", "that")
    return pair(f"{frame} {_thing(rng)}", "that", "what")


def _knows_who(rng: random.Random) -> Pair:
    verb = rng.choice(("knows", "remembers", "discovered", "revealed"))
    deed = rng.choice(("admired", "examined", "inspected", "mentioned", "purchased", "repaired"))
    frame = f"{rng.choice(lx.NAMES)} {verb} _ {deed} {_thing(rng)}"
    return pair(f"{frame} {rng.choice(lx.PAST_TIMES)}", "who", "that")


def _filled_question(rng: random.Random) -> Pair:
    base = rng.choice(lx.HANDLING)[0]
    time = rng.choice(lx.PAST_TIMES)
    return pair(f"what did {_person(rng)} {base} _ {time}?", "", _thing(rng))


def _filled_relative(rng: random.Random) -> Pair:
    head, other = two(rng, lx.THINGS)
    frame = f"the {head[0]} that {_person(rng)} {_handled(rng)} _"
    return pair(f"{frame} was {rng.choice(lx.THING_STATES)}", "", f"the {other[0]}")


def _adjunct_island(rng: random.Random) -> Pair:
    pronoun, person = rng.choice(_PEOPLE)
    first, second = two(rng, lx.HANDLING)
    thing, when = _thing(rng), rng.choice(("before", "after"))
    good = f"what did {person} {first[0]} {when} {pronoun} {second[2]} {thing}?"
    bad = f"what did {person} {first[0]} {thing} {when} {pronoun} {second[2]}?"
    return sentence(good), sentence(bad)


def _noun_island(rng: random.Random) -> Pair:
    frame = f"what did {rng.choice(lx.NAMES)} _ that {_person(rng)} {_handled(rng)}?"
    nouns = ("the claim", "the fact", "the rumor", "the story", "the news")
    verb = rng.choice(("claim", "say", "suspect", "hear"))
    return pair(frame, verb, f"{rng.choice(('mention', 'hear', 'deny'))} {rng.choice(nouns)}")


def _relative_island(rng: random.Random) -> Pair:
    noun = rng.choice(lx.PERSONS)[rng.randrange(2)]
    matrix = rng.choice(lx.MEETING)[0]
    frame = f"what did {rng.choice(lx.NAMES)} _ {_handled(rng)}?"
    return pair(frame, f"say that the {noun}", f"{matrix} the {noun} who")


def _question_island(rng: random.Random) -> Pair:
    name, other = two(rng, lx.NAMES)
    frame = f"what did {name} _ {_handled(rng)} {rng.choice(lx.PAST_TIMES)}?"
    verb = rng.choice(("say", "think", "claim", "believe"))
    return pair(frame, f"{verb} {other}", f"{rng.choice(('ask', 'wonder', 'know'))} who")


def _coordinate_island(rng: random.Random) -> Pair:
    first, second = two(rng, lx.PERSONS)
    verb, other = two(rng, lx.HANDLING)
    frame = f"what did the {first[0]} {verb[0]} _ and the {second[0]} {other[0]}"
    if rng.random() < 0.5:
        return pair(f"{frame}?", "", _thing(rng))
    frame = f"what did the {first[0]} {verb[0]} and the {second[0]} {other[0]} _?"
    return pair(frame, "", _thing(rng))


def _left_branch(rng: random.Random) -> Pair:
    word = rng.choice(("which", "whose"))
    thing = rng.choice(lx.THINGS)[rng.randrange(2)]
    middle = f"did {_person(rng)} {rng.choice(lx.HANDLING)[0]}"
    return sentence(f"{word} {thing} {middle}?"), sentence(f"{word} {middle} {thing}?")


def _noun_ellipsis(rng: random.Random) -> Pair:
    name, other = two(rng, lx.NAMES)
    verb = _handled(rng)
    size, look = rng.choice(lx.SIZES), rng.choice(lx.LOOKS)
    many, more = two(rng, lx.NUMBERS)
    things = rng.choice(lx.THINGS)[1]
    quality = rng.choice((size, look))
    good = f"{name} {verb} {many} {quality} {things} and {other} {verb} {more}"
    bad = f"{name} {verb} {many} {things} and {other} {verb} {more} {quality}"
    return sentence(good), sentence(bad)


def _verb_ellipsis(rng: random.Random) -> Pair:
    name, other = two(rng, lx.NAMES)
    _, _, past, _, progressive = rng.choice(lx.HANDLING)
    thing, time = _thing(rng), rng.choice(lx.PAST_TIMES)
    if rng.random() < 0.5:
        return pair(f"{name} {past} {thing} {time}, and {other} _ too", "did", "was")
    return pair(f"{name} was {progressive} {thing} {time}, and {other} _ too", "was", "did")


def _neither(rng: random.Random) -> Pair:
    name, other = two(rng, lx.NAMES)
    frame = f"{name} did not {rng.choice(lx.HANDLING)[0]} {_thing(rng)}, and neither _"
    return pair(frame, f"did {other}", rng.choice((f"{other} did", f"was {other}", other)))


def _so(rng: random.Random) -> Pair:
    name, other = two(rng, lx.NAMES)
    frame = f"{name} {_handled(rng)} {_thing(rng)}, and _ {other}"
    return pair(frame, "so did", rng.choice(("so was", "so has", "neither did")))


def _ellipsis_of_object(rng: random.Random) -> Pair:
    name, other = two(rng, lx.NAMES)
    verb = _handled(rng)
    frame = f"{name} {verb} {_thing(rng)}, but {other} _"
    return pair(frame, "did not", f"did not {rng.choice(lx.HANDLING)[0]}")


DEPENDENCIES: dict[str, tuple[Template, ...]] = {
    "polarity_items": (
        _ever,
        _ever_in_question,
        _ever_out_of_scope,
        _any,
        _any_after_not,
        _yet,
        _at_all,
    ),
    "filler_gap": (
        _knows_what,
        _knows_what_far,
        _knows_who,
        _filled_question,
        _filled_relative,
    ),
    "islands": (
        _adjunct_island,
        _noun_island,
        _relative_island,
        _question_island,
        _coordinate_island,
        _left_branch,
    ),
    "ellipsis": (_noun_ellipsis, _verb_ellipsis, _neither, _so, _ellipsis_of_object),
}
"""The templates of the phenomena of dependencies, by name."""
