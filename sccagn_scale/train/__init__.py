"""Training: pretraining, joint training, and when to stop."""

from sccagn_scale.train._history import History
from sccagn_scale.train._joint import JointResult, train_jointly
from sccagn_scale.train._optimizer import Optimizer, check_finite
from sccagn_scale.train._pretrain import pretrain
from sccagn_scale.train._stopping import Plateau, Settled

__all__ = [
    "History",
    "JointResult",
    "Optimizer",
    "Plateau",
    "Settled",
    "check_finite",
    "pretrain",
    "train_jointly",
]
