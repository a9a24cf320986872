"""Ranks weights and units: sites, importance, and the activations that importance uses."""
