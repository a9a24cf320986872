"""The methods that targeted dropout is compared with.

Each method is a class in its own module; its fields are the settings. Another method is another
module and another row of `BASELINES`. Gradual magnitude pruning needs no class: it is targeted
dropout by magnitude with drop rate 1 and a cubic schedule.
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

# From the name of a method, as results and command lines write it, to its class.
BASELINES: dict[str, type[Baseline]] = {
    "dropout": Dropout,
    "quantal": QuantalSynapticDilution,
    "l1": L1,
    "l0": L0,
    "variational": VariationalDropout,
    "smallify": Smallify,
    "random_subnetwork": RandomSubnetwork,
    "movement": Movement,
    "soft_movement": SoftMovement,
}

__all__ = [
    "BASELINES",
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
