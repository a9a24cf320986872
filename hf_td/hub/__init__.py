"""Exports of pruned models: written, described, published and loaded."""

import lazy_loader

# The names and their modules stand in __init__.pyi. A module loads when a name of it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
