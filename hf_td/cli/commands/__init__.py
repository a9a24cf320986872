"""The commands of `hf-td`, one a file: their options and their help.

A command imports what does the work when it runs: `--help` needs neither torch nor transformers.
"""
