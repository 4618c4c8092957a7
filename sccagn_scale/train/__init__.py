"""Training: pretraining, the initial clustering, joint training, and when to stop."""

from sccagn_scale.train._consensus import consensus, steadiest
from sccagn_scale.train._history import History
from sccagn_scale.train._initial import (
    CommunityFinder,
    Estimate,
    Init,
    Mixtures,
    by_size,
    centers,
    estimate_by_mixtures,
    estimate_n_clusters,
    kmeans,
    rounding,
    ward,
    ward_memory,
)
from sccagn_scale.train._joint import JointResult, Target, train_jointly
from sccagn_scale.train._nested import divided, merged, regrouped
from sccagn_scale.train._optimizer import Optimizer
from sccagn_scale.train._pretrain import pretrain
from sccagn_scale.train._stopping import Plateau, Settled

__all__ = [
    "CommunityFinder",
    "Estimate",
    "History",
    "Init",
    "JointResult",
    "Mixtures",
    "Optimizer",
    "Plateau",
    "Settled",
    "Target",
    "by_size",
    "centers",
    "consensus",
    "divided",
    "estimate_by_mixtures",
    "estimate_n_clusters",
    "kmeans",
    "merged",
    "pretrain",
    "regrouped",
    "rounding",
    "steadiest",
    "train_jointly",
    "ward",
    "ward_memory",
]
