"""The archive form of an export: every tensor, bit for bit, with its pruned zeros squeezed out.

An archive is for storing and sending models with unstructured sparsity, not for running them:
`load_archive` gives the dense tensors back. Its name ends in `.hftd`, so that nothing takes it
for weights that it could load itself.

The file, in order: a preamble of fixed size (magic, version, where the header is and its
checksum); the compressed streams of one tensor after the other; the header, JSON, which comes
last because the sizes are known only then.
"""

from hf_td.hub.archive.header import ArchiveEntry, ArchiveHeader
from hf_td.hub.archive.reading import LIMIT, load_archive, read_archive_header
from hf_td.hub.archive.writing import SUFFIX, ArchiveReport, save_archive

__all__ = [
    "save_archive",
    "load_archive",
    "read_archive_header",
    "ArchiveReport",
    "ArchiveHeader",
    "ArchiveEntry",
    "LIMIT",
    "SUFFIX",
]
