"""Benchmarks of training, pruning and compact models: cases, measurements, and pages."""
