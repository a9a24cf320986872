"""Extractive question answering: windows over long contexts, and answers from their logits."""
