"""Real libraries that people use together with hf_td; `scripts/test.sh --friends` installs them.

A test of a library that is not installed is skipped.
"""
