"""The functions of `hf_td.functional` that a training step spends its time in, made fast.

They give the same results in one pass over the weights: on the CPU by blocks of rows that fit its
cache, on CUDA by Triton. Other types and devices are left to `hf_td.functional`.
"""

from hf_td.kernels.cpu import clear
from hf_td.kernels.masking import masked
from hf_td.kernels.ranked import Ranked
from hf_td.kernels.ranking import candidate_mask, cutoffs, sums_of_squares

__all__ = ["Ranked", "candidate_mask", "clear", "cutoffs", "masked", "sums_of_squares"]
