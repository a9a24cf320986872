"""Variants of training texts, made anew in each epoch, for a teacher to label."""

from hf_td.training.augmentation.dataset import VariantDataset, VariantEpochs
from hf_td.training.augmentation.neighbours import nearest_words
from hf_td.training.augmentation.variants import Variation
from hf_td.training.augmentation.words import Words, read_words

__all__ = [
    "VariantDataset",
    "VariantEpochs",
    "Variation",
    "Words",
    "nearest_words",
    "read_words",
]
