"""A method has one colour in all figures, and a variant that of its method."""

from __future__ import annotations

from hf_td.analysis.looks import METHOD_COLOURS, looks_of
from hf_td.tasks.experiment.methods import METHODS


def test_every_method_of_the_scripts_has_a_colour_of_its_own():
    colours = [METHOD_COLOURS[method.label] for method in METHODS.values()]
    assert len(set(colours)) == len(colours)


def test_a_method_has_the_same_colour_in_any_company():
    few = looks_of(["targeted dropout"])
    many = looks_of(["a", "gradual magnitude", "b", "targeted dropout"])
    assert few["targeted dropout"] == many["targeted dropout"]


def test_a_variant_has_the_colour_of_its_method_and_another_line():
    method, variant, other = "targeted dropout", "targeted dropout, distilled", "dropout"
    looks = looks_of([method, variant, other])
    assert looks[variant].colour == looks[method].colour != looks[other].colour
    assert looks[variant].dashes != looks[method].dashes
    assert (looks[method].hollow, looks[variant].hollow) == (False, True)


def test_other_names_get_colours_that_no_method_beside_them_has():
    names = ["targeted dropout", *"abcde"]
    looks = looks_of(names)
    assert len({look.colour for look in looks.values()}) == len(names)
