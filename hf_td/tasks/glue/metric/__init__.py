"""Holds the metric module that the `evaluate` library loads by its path."""
