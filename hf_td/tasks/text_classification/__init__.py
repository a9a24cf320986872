"""Text classification and regression on the user's own data."""

from hf_td.tasks.text_classification.loading import TextData, load_texts

__all__ = ["TextData", "load_texts"]
