"""A smaller vocabulary: the tokens that no text uses go, with their rows of the embeddings."""

from hf_td.vocabulary.trim import TrimReport, trim_vocabulary

__all__ = ["TrimReport", "trim_vocabulary"]
