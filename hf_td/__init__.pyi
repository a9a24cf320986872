# The one list of public names: _names.py reads it to load them, type checkers read it to know
# their types.
from .analysis import pruning_curve as pruning_curve
from .anatomy import Anatomy as Anatomy
from .anatomy import AttentionBlocks as AttentionBlocks
from .anatomy import FeedForwardBlocks as FeedForwardBlocks
from .anatomy import read_anatomy as read_anatomy
from .anatomy import register_family as register_family
from .compaction import compact_model as compact_model
from .config import TargetedDropoutConfig as TargetedDropoutConfig
from .hub import export_model as export_model
from .hub import prune_folder as prune_folder
from .patching import anneal as anneal
from .patching import patch_model as patch_model
from .patching import unpatch_model as unpatch_model
from .pruning import PruningReport as PruningReport
from .pruning import Times as Times
from .pruning import fix_pattern as fix_pattern
from .pruning import keep_pruned as keep_pruned
from .pruning import prune_model as prune_model
from .pruning import prune_units as prune_units
from .schedules import Schedule as Schedule
from .training import TargetedDropoutArguments as TargetedDropoutArguments
from .training import TargetedDropoutCallback as TargetedDropoutCallback
from .training import TargetedDropoutSeq2SeqArguments as TargetedDropoutSeq2SeqArguments
from .training import TargetedDropoutSeq2SeqTrainer as TargetedDropoutSeq2SeqTrainer
from .training import TargetedDropoutTrainer as TargetedDropoutTrainer
from .vocabulary import TrimReport as TrimReport
from .vocabulary import trim_vocabulary as trim_vocabulary
from .wishes import WishReport as WishReport
from .wishes import measure_times as measure_times
from .wishes import prune_to as prune_to

__all__: list[str]
__version__: str
