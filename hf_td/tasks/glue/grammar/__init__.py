"""Templates for minimal pairs: an acceptable and an unacceptable English sentence.

Each module has the templates of some phenomena, in the manner of BLiMP (Warstadt et al., 2020,
https://aclanthology.org/2020.tacl-1.25). A template is a function from a random generator to a
pair (acceptable, unacceptable). A phenomenon is a tuple of templates.
"""

from .agreement import AGREEMENT
from .dependencies import DEPENDENCIES
from .structure import STRUCTURE
from .words import WORDS
from .writing import Pair, Template

PHENOMENA: dict[str, tuple[Template, ...]] = {**AGREEMENT, **WORDS, **STRUCTURE, **DEPENDENCIES}
"""The templates of each phenomenon, by name."""

__all__ = ["PHENOMENA", "Pair", "Template"]
