"""Measures a trained model at every sparsity, and explains the change of its loss."""

from hf_td.analysis.curve import CurvePoint, pruning_curve
from hf_td.analysis.dependence import Dependence, measure_dependence

__all__ = ["CurvePoint", "Dependence", "measure_dependence", "pruning_curve"]
