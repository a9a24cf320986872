"""Fast forms of the functions of `hf_td.functional` that dominate a training step.

They compute equal results in one pass over the weights: on the CPU in blocks of rows that fit the
cache, on CUDA in Triton. Other types and devices fall back to `hf_td.functional`.
"""

from hf_td.kernels.cpu import clear
from hf_td.kernels.masking import masked, masked_linear
from hf_td.kernels.ranked import Ranked
from hf_td.kernels.ranking import candidate_mask, cutoffs, sums_of_squares

__all__ = [
    "Ranked",
    "candidate_mask",
    "clear",
    "cutoffs",
    "masked",
    "masked_linear",
    "sums_of_squares",
]
