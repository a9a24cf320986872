"""The methods that targeted dropout is compared with.

Each is a class in a module of its own, whose fields are its settings. Gradual magnitude pruning is
no class: it is targeted dropout by magnitude with drop rate 1 and a cubic schedule, and is run so.
"""

from hf_td.baselines.attaching import attach_baseline, find_baseline, finish_baseline
from hf_td.baselines.base import Baseline
from hf_td.baselines.dropout import Dropout
from hf_td.baselines.l0 import L0
from hf_td.baselines.l1 import L1
from hf_td.baselines.movement import Movement, SoftMovement
from hf_td.baselines.quantal import QuantalSynapticDilution
from hf_td.baselines.smallify import Smallify
from hf_td.baselines.subnetwork import RandomSubnetwork
from hf_td.baselines.trainer import BaselineSeq2SeqTrainer, BaselineTrainer
from hf_td.baselines.variational import VariationalDropout

__all__ = [
    "L0",
    "L1",
    "Baseline",
    "BaselineSeq2SeqTrainer",
    "BaselineTrainer",
    "Dropout",
    "Movement",
    "QuantalSynapticDilution",
    "RandomSubnetwork",
    "Smallify",
    "SoftMovement",
    "VariationalDropout",
    "attach_baseline",
    "find_baseline",
    "finish_baseline",
]
