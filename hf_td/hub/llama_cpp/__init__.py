"""Writes and reads Llamas as GGUF, the file of llama.cpp.

The file has the architecture `deci` of llama.cpp. It is that of a Llama with a number of heads, of
KV heads and of neurons for each layer, so compact models fit.
"""

from hf_td.hub.llama_cpp.fitting import find_obstacle
from hf_td.hub.llama_cpp.reading import check_file, read_tensors
from hf_td.hub.llama_cpp.vocabulary import check_packages
from hf_td.hub.llama_cpp.writing import write_gguf

__all__ = ["find_obstacle", "write_gguf", "read_tensors", "check_file", "check_packages"]
