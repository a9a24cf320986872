"""Distils from a dense teacher that was fine-tuned on the task."""

from hf_td.training.distillation.settings import Distillation, DistillationFields
from hf_td.training.distillation.teacher import forget_teacher, load_teacher
from hf_td.training.distillation.terms import PRESETS, TERMS
from hf_td.training.distillation.trainer import DistillationMixin

__all__ = [
    "PRESETS",
    "TERMS",
    "Distillation",
    "DistillationFields",
    "DistillationMixin",
    "forget_teacher",
    "load_teacher",
]
