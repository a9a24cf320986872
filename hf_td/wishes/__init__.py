"""Prunes to a speed, a size or a loss in place of a sparsity, and measures what units cost."""

from hf_td.wishes.measuring import measure_times
from hf_td.wishes.prune_to import prune_to
from hf_td.wishes.report import Wish, WishReport

__all__ = ["Wish", "WishReport", "measure_times", "prune_to"]
