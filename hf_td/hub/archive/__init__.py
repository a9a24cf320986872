"""Lossless archives: every tensor, bit for bit, with its pruned zeros squeezed out.

An archive is for storing and sending models with unstructured sparsity, not for running them:
`load_archive` gives the dense tensors back. It is an ordinary safetensors file. Its tensors are the
compressed streams, as bytes: `NAME/positions` of the values that are not zero, and `NAME/plane0` to
`NAME/plane7` with their bytes by significance. Its metadata describe the archived tensors in JSON.
"""

from hf_td.hub.archive.description import ArchiveDescription, ArchiveEntry
from hf_td.hub.archive.reading import LIMIT, load_archive, read_description
from hf_td.hub.archive.writing import SUFFIX, ArchiveReport, save_archive

__all__ = [
    "save_archive",
    "load_archive",
    "read_description",
    "ArchiveReport",
    "ArchiveDescription",
    "ArchiveEntry",
    "LIMIT",
    "SUFFIX",
]
