"""How fast training, pruning and compact models are: cases, what is measured of them, and pages."""
