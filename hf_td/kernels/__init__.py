"""Fast forms of the functions of `hf_td.functional` that dominate a training step.

They compute equal results in one pass over the weights: on the CPU in blocks of rows that fit the
cache, on CUDA in Triton. Other types and devices fall back to `hf_td.functional`.
"""

from hf_td.kernels.cpu_masking import clear
from hf_td.kernels.masking import masked, masked_linear
from hf_td.kernels.ranked import Ranked
from hf_td.kernels.ranking import candidate_mask, cutoffs, row_norms, sums_of_squares
from hf_td.kernels.shards import is_sharded, local, rows_of, sharded_dim, whole

__all__ = [
    "Ranked",
    "candidate_mask",
    "clear",
    "cutoffs",
    "is_sharded",
    "local",
    "masked",
    "masked_linear",
    "row_norms",
    "rows_of",
    "sharded_dim",
    "sums_of_squares",
    "whole",
]
