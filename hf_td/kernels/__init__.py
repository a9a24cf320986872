"""The functions of `hf_td.functional` that a training step spends its time in, made fast.

Same results, one pass over the weights: on the CPU by blocks of rows that fit its cache, on CUDA by
Triton. What neither can do (other types, other devices) is left to `hf_td.functional`.
"""

from hf_td.kernels.products import autocast_type, clear, compute_type, masked, masked_together
from hf_td.kernels.ranked import Drawn, Order, Ranked
from hf_td.kernels.ranking import Ranking
from hf_td.kernels.sums import sums_of_squares

__all__ = [
    "Drawn",
    "Order",
    "Ranked",
    "Ranking",
    "autocast_type",
    "clear",
    "compute_type",
    "masked",
    "masked_together",
    "sums_of_squares",
]
