"""Exports of pruned models: written, described, published and loaded."""

from hf_td._names import names_of_stub

# The names and their modules stand in __init__.pyi. A module loads when a name of it is first used.
__getattr__, __dir__, __all__ = names_of_stub(__name__, __file__)
