"""What `ablation` compares: a preset with one thing changed."""

from __future__ import annotations

from typing import Any

AS_IS = "as it is"
VARIANTS: dict[str, dict[str, Any]] = {
    AS_IS: {},
    # the network
    "no attention": {"fusion": "add"},
    "concat": {"fusion": "concat"},
    "multiply": {"fusion": "multiply"},
    "no fusion": {"fusion": "none"},
    "no graph": {"phi": 0.0},
    "GAT": {"conv": "gat"},
    "GraphSAGE": {"conv": "sage"},
    "1 head": {"n_heads": 1},
    "2 heads": {"n_heads": 2},
    "8 heads": {"n_heads": 8},
    # the losses
    "τ = 0.1": {"tau": 0.1},
    "τ = 0.3": {"tau": 0.3},
    "τ = 1": {"tau": 1.0},
    "τ = 2": {"tau": 2.0},
    "clustering alone": {"weight_reconstruction": 0.0, "weight_adversarial": 0.0},
    "reconstruction alone": {"weight_clustering": 0.0, "weight_adversarial": 0.0},
    "adversarial alone": {"weight_clustering": 0.0, "weight_reconstruction": 0.0},
    "no clustering": {"weight_clustering": 0.0},
    "no reconstruction": {"weight_reconstruction": 0.0},
    "no adversarial": {"weight_adversarial": 0.0},
    # what is ours
    "no joint training": {"joint_steps": 0},
    "400 joint steps": {"joint_steps": 400, "settle_epochs": 400},
    "no anchor": {"anchor_share": 0.0},
    "no whitening": {"whiten": False},
    "no rounding": {"round_clusters": False},
    "one mixture": {"init": "mixture"},
    "Leiden": {"init": "leiden"},
    "Ward": {"init": "ward"},
    "k-means": {"init": "kmeans"},
    "ν = 1": {"nu": 1.0},
    "50 steps of pretraining": {"pretrain_steps": 50},
}
