"""hf_td makes Hugging Face Transformers small by targeted dropout."""

from hf_td._names import names_of_stub
from hf_td._register import register_loader

__version__ = "0.1.0"

# The public names and their modules stand in __init__.pyi. A module loads when a name of it is
# first used: `import hf_td` loads neither torch nor transformers.
__getattr__, __dir__, __all__ = names_of_stub(__name__, __file__)

register_loader()
