"""Prunes a folder of weights tensor by tensor, for models that do not fit into memory."""

from hf_td.hub.from_disk.prune import PrunedFolder, prune_folder

__all__ = ["PrunedFolder", "prune_folder"]
