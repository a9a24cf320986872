"""Fine-tunes models with annealed targeted dropout, and distils from a teacher."""

from hf_td.training.arguments import TargetedDropoutArguments, TargetedDropoutSeq2SeqArguments
from hf_td.training.callback import TargetedDropoutCallback
from hf_td.training.distillation import DistillationMixin, forget_teacher, load_teacher
from hf_td.training.gathered import save_gathered
from hf_td.training.optimizer import scale_untargeted
from hf_td.training.reliable import ReliableMixin, ReliableTrainer
from hf_td.training.trainer import TargetedDropoutSeq2SeqTrainer, TargetedDropoutTrainer

__all__ = [
    "DistillationMixin",
    "ReliableMixin",
    "ReliableTrainer",
    "TargetedDropoutArguments",
    "TargetedDropoutCallback",
    "TargetedDropoutSeq2SeqArguments",
    "TargetedDropoutSeq2SeqTrainer",
    "TargetedDropoutTrainer",
    "forget_teacher",
    "load_teacher",
    "save_gathered",
    "scale_untargeted",
]
