"""A fixture that makes many short training runs quick."""

from tests.training.conftest import little_to_collect

__all__ = ["little_to_collect"]
