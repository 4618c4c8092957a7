"""The scCAGN network: tensors in, tensors out."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sccagn_scale.config import Conv, Fusion
from sccagn_scale.nn._layers import CrossAttention, Discriminator, NodeFeatures, RowLinear, first_rows, graph_layer
from sccagn_scale.nn._losses import (
    generator_loss,
    kl_divergence,
    reconstruction,
    target_distribution,
)
from sccagn_scale.ops import Csr, student_t_assign, student_t_kl


class Latent(NamedTuple):
    """What the encoder side makes of a batch of n cells, s of them seeds."""

    z: Tensor  # [s, n_latent]
    g1: Tensor  # [s, n_hidden[0]]
    g2: Tensor  # [s, n_hidden[1]]
    g3: Tensor  # [n, n_latent]: seeds attend to all


class Losses(NamedTuple):
    """The weighted total, and its parts before weighting. A part that is switched off is zero."""

    total: Tensor
    reconstruction: Tensor
    adversarial: Tensor
    clustering: Tensor  # KL(P‖Q) + KL(P‖pred)


class LossWeights(NamedTuple):
    """ε, µ and θ of the paper."""

    clustering: float
    reconstruction: float
    adversarial: float


class Target(NamedTuple):
    """How the target of n cells is made: p as in `target_distribution`, then p ← (1 − a)·p + a·onehot(anchor)."""

    nu: float  # of q; see `student_t_assign`
    tau: float
    anchor_share: float  # a
    anchor: Tensor  # int64 [n], initial cluster of each
    column_sums: Tensor | None = None  # over all cells of the graph [n_clusters]; a loss needs them


class SCCAGNModule(nn.Module):
    """Adversarial autoencoder and graph network, joined by cross-attention (scCAGN; Tang, Feng, Gao 2025).

    The encoder runs n_input → h₁ → h₂ → h₃ → d and the graph network n_input → h₁ → h₂ → d → K. Each encoder layer
    after the first takes (1 − φ)·encoder + φ·graph of the same width; the last hidden one has g₂ for partner again.
    The decoder mirrors the encoder, starts from the fusion of z and g₃ and mixes g₂, g₂, g₁ in, in the same proportion.
    Half of the reconstruction loss is that of a decoder that has z alone: otherwise z could forget the cells.

    Parameters
    ----------
    n_input
        Genes or components of a cell.
    n_hidden
        Widths h₁, h₂, h₃; h₂ = h₃, since both are mixed with g₂.
    n_latent
        d; with attention a multiple of `n_heads`.
    conv
        Graph convolution.
    fusion
        What the decoder starts from: `"attention"` MHA(z, g₃, g₃) + g₃, `"add"` z + g₃, `"concat"` W[z; g₃],
        `"multiply"` z ⊙ g₃, or `"none"`: z alone, without skips.
    n_heads
        Attention heads.
    n_attended
        Cells attended to; see `CrossAttention`.
    phi
        Share of the graph network in the encoder, in [0, 1]; 0 makes a plain autoencoder's z.
    discriminator
        Whether z is drawn to the prior N(0, I).
    """

    def __init__(
        self,
        n_input: int,
        n_hidden: tuple[int, int, int] = (100, 200, 200),
        n_latent: int = 8,
        *,
        conv: Conv = "gcn",
        fusion: Fusion = "attention",
        n_heads: int = 4,
        n_attended: int | None = None,
        phi: float = 0.5,
        discriminator: bool = True,
    ) -> None:
        super().__init__()
        h1, h2, h3 = n_hidden
        self.n_hidden, self.n_latent = n_hidden, n_latent
        self.phi = phi
        self.fusion = fusion
        self.encoder = nn.ModuleList(
            [RowLinear(n_input, h1), nn.Linear(h1, h2), nn.Linear(h2, h3), nn.Linear(h3, n_latent)]
        )
        self.graph = nn.ModuleList(
            [graph_layer(conv, n_input, h1), graph_layer(conv, h1, h2), graph_layer(conv, h2, n_latent)]
        )
        self.conv = conv
        self.decoder = nn.ModuleList(
            [nn.Linear(n_latent, h3), nn.Linear(h3, h2), nn.Linear(h2, h1), nn.Linear(h1, n_input)]
        )
        self.attention = CrossAttention(n_latent, n_heads, n_attended) if fusion == "attention" else None
        self.join = nn.Linear(2 * n_latent, n_latent) if fusion == "concat" else None
        self.discriminator = Discriminator(n_latent) if discriminator else None
        self.head: nn.Module | None = None  # g3 → K, made by `set_centroids`
        self.centroids: nn.Parameter | None = None

    def set_centroids(self, centroids: Tensor) -> None:
        """Start clustering: place μ [n_clusters, n_latent] and make the graph network's last layer, d → K."""
        n_clusters, n_latent = centroids.shape
        self.centroids = nn.Parameter(centroids.clone())
        self.head = graph_layer(self.conv, n_latent, n_clusters).to(centroids.device)

    @torch.no_grad()
    def reorder_clusters(self, order: Tensor) -> None:
        """Renumber the clusters, in place: what `order` [n_clusters] has at i becomes i, centroids and head alike."""
        assert self.head is not None, "set_centroids comes first"
        assert self.centroids is not None
        for parameter in (self.centroids, *self.head.parameters()):
            of_clusters = list(parameter.shape).index(len(order))  # the first: GAT's attention has it last
            parameter.copy_(parameter.index_select(of_clusters, order))

    def mix(self, own: Tensor, graph: Tensor) -> Tensor:
        """(1 − φ)·encoder + φ·graph, both [n, width]."""
        return torch.lerp(own, graph, self.phi)

    def encode(self, x: NodeFeatures, adjacency: Csr, n_seeds: int | None = None) -> Latent:
        """Embed the first `n_seeds` cells (all if None) of a batch x [n, n_input] with adjacency [n, n].

        The graph network runs over all n cells, the encoder over the seeds.
        """
        n_seeds = adjacency.shape[0] if n_seeds is None else n_seeds
        g1 = F.relu(self.graph[0](x, adjacency))
        g2 = F.relu(self.graph[1](g1, adjacency))
        g3 = F.relu(self.graph[2](g2, adjacency))
        g1, g2 = first_rows(g1, n_seeds), first_rows(g2, n_seeds)
        return Latent(self.code(first_rows(x, n_seeds), g1, g2), g1, g2, g3)

    def code(self, x: NodeFeatures, g1: Tensor, g2: Tensor) -> Tensor:
        """Run the encoder, every cell on its own: x [n, n_input] and the graph network's layers to z [n, n_latent]."""
        first, second, third, last = self.encoder
        hidden = self.mix(F.relu(first(x)), g1)
        hidden = self.mix(F.relu(second(hidden)), g2)
        hidden = self.mix(F.relu(third(hidden)), g2)
        return last(hidden)

    def decode(self, latent: Latent, *, from_z: bool = False) -> Tensor:
        """Carry a latent batch to the last hidden layer [s, h₁]; the output layer is `decoder[-1]`.

        With `from_z` neither fusion nor skips help, so that everything needed to rebuild a cell has to pass through z:
        through the skips alone the decoder could rebuild it and leave z empty.
        """
        z, g1, g2, g3_of_all = latent
        g3 = first_rows(g3_of_all, len(z))
        plain = from_z or self.fusion == "none"
        if plain:
            start = z
        elif self.attention is not None:
            start = self.attention(z, g3_of_all) + g3
        elif self.join is not None:
            start = self.join(torch.cat([z, g3], dim=1))
        else:
            start = z + g3 if self.fusion == "add" else z * g3
        hidden = start
        for layer, skip in zip(self.decoder[:-1], (g2, g2, g1), strict=True):
            own = F.relu(layer(hidden))
            hidden = own if plain else self.mix(own, skip)
        return hidden

    def loss(
        self,
        x: NodeFeatures,
        adjacency: Csr,
        weights: LossWeights,
        *,
        n_seeds: int | None = None,
        target: Target | None = None,
    ) -> tuple[Losses, Tensor]:
        """Compute the losses of a batch and the z of its seeds, for the discriminator's own step.

        Parameters
        ----------
        x, adjacency
            The batch: [n, n_input] and [n, n].
        weights
            A part of weight zero is not computed.
        n_seeds
            Every loss is of the first so many cells (all if None); the others only pass through the graph network,
            and are attended to.
        target
            Of the seeds, after `set_centroids`. None while pretraining: rebuild from z alone, without clusters.
        """
        latent = self.encode(x, adjacency, n_seeds)
        z = latent.z
        own = first_rows(x, len(z))
        zero = z.new_zeros(())
        rec = adv = kl = zero
        if weights.reconstruction:
            output = self.decoder[-1]
            assert isinstance(output, nn.Linear)
            rec = reconstruction(self.decode(latent, from_z=True), output, own)
            if target is not None and self.fusion != "none":
                rec = 0.5 * (rec + reconstruction(self.decode(latent), output, own))
        if weights.adversarial and self.discriminator is not None and len(z) > 1:  # batch norm needs two
            adv = generator_loss(self.discriminator(z))
        if weights.clustering and target is not None:
            assert self.head is not None, "set_centroids comes first"
            assert self.centroids is not None
            nu, tau, anchor_share, anchor, column_sums = target
            assert column_sums is not None
            with torch.no_grad():
                p = target_distribution(student_t_assign(z, self.centroids, nu), tau, column_sums)
                if anchor_share:
                    p = torch.lerp(p, F.one_hot(anchor, p.shape[1]).to(p.dtype), anchor_share)
            predicted = torch.softmax(first_rows(self.head(latent.g3, adjacency), len(z)), dim=1)
            kl = kl_divergence(p, predicted) + student_t_kl(
                z, self.centroids, column_sums, nu=nu, tau=tau, anchor=anchor, anchor_share=anchor_share
            )
        total = weights.reconstruction * rec + weights.adversarial * adv + weights.clustering * kl
        return Losses(total, rec, adv, kl), z
