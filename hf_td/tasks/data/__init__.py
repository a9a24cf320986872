"""Loads data sets from the Hub or from disk, and selects rows."""
