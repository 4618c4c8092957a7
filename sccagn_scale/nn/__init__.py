"""The network: blocks, losses and the module that joins them. Tensors in, tensors out."""

from sccagn_scale.nn._init import initialize, transform_latent
from sccagn_scale.nn._layers import (
    CrossAttention,
    Discriminator,
    GCNLayer,
    GraphLayer,
    NodeFeatures,
    RowLinear,
    RowSource,
    graph_layer,
)
from sccagn_scale.nn._losses import (
    discriminator_loss,
    generator_loss,
    kl_divergence,
    reconstruction,
    target_distribution,
)
from sccagn_scale.nn._module import Latent, Losses, LossWeights, SCCAGNModule, Target

__all__ = [
    "CrossAttention",
    "Discriminator",
    "GCNLayer",
    "GraphLayer",
    "Latent",
    "LossWeights",
    "Losses",
    "NodeFeatures",
    "RowLinear",
    "RowSource",
    "SCCAGNModule",
    "Target",
    "discriminator_loss",
    "generator_loss",
    "graph_layer",
    "initialize",
    "kl_divergence",
    "reconstruction",
    "target_distribution",
    "transform_latent",
]
