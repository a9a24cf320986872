"""What a trained model is worth at every sparsity."""

from hf_td.analysis.curve import CurvePoint, pruning_curve

__all__ = ["CurvePoint", "pruning_curve"]
