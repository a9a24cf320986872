"""Causal language modelling, also on text that the model writes itself."""
