"""Building blocks: input projection, graph convolutions, cross-attention, discriminator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sccagn_scale.config import Conv
from sccagn_scale.ops import Csr, csr_matmul

NodeFeatures = Csr | Tensor
"""The cells of a batch: kept genes as CSR, or dense components [n, n_input]."""


class RowSource(Protocol):
    """All cells × genes, from which rows can be had: a CSR matrix in memory, or one on disk."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def rows(self, start: int, stop: int) -> Csr:
        """Rows from `start` to before `stop`."""
        ...

    def take(self, rows: Tensor) -> Csr:
        """Rows, int64 [n], in that order."""
        ...


FeaturesT = TypeVar("FeaturesT", Tensor, Csr, NodeFeatures)


def first_rows(x: FeaturesT, n: int) -> FeaturesT:
    """The first n rows; all of them are the same object, so that gradients add up in the same order."""
    if n == x.shape[0]:
        return x
    return x[:n] if isinstance(x, Tensor) else x.rows(0, n)


class RowLinear(nn.Linear):
    """A linear layer whose input may be CSR; never forms the dense cells × genes matrix."""

    def forward(self, x: NodeFeatures) -> Tensor:  # x [n, in] -> [n, out]
        """Project rows."""
        if isinstance(x, Tensor):
            return super().forward(x)
        product = csr_matmul(x, self.weight.T.contiguous())
        return product if self.bias is None else product + self.bias


class GraphLayer(nn.Module, ABC):
    """A graph convolution that can be computed for all cells at once or for some rows after the others."""

    n_out: int

    @abstractmethod
    def sends_itself(self, x: NodeFeatures | RowSource) -> bool:
        """Whether cells of this kind send what they are."""

    @abstractmethod
    def send(self, x: NodeFeatures) -> NodeFeatures:
        """Compute what cells [n, n_in] send to their neighbours, each on its own: themselves, or [n, n_out]."""

    @abstractmethod
    def gather(self, sent: NodeFeatures | RowSource, adjacency: Csr, start: int = 0) -> Tensor:
        """Compute the layer for the cells from `start` on, whose rows the adjacency [m, n] has: [m, n_out]."""


class GCNLayer(GraphLayer):
    """Graph convolution Â·X·W + b (Kipf & Welling 2017).

    The edge weights come with the batch, normalised once on the whole graph. PyG's `GCNConv` would either normalise the
    sampled subgraph, with the wrong degrees, or densify X. Of (ÂX)W and Â(XW) the one is computed that gathers the
    narrower rows.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.n_out = n_out
        self.linear = RowLinear(n_in, n_out, bias=False)
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: NodeFeatures, adjacency: Csr) -> Tensor:
        """Map [n, n_in] to [n, n_out] over the normalised adjacency [n, n]."""
        return self.gather(self.send(x), adjacency)

    def sends_itself(self, x: NodeFeatures | RowSource) -> bool:
        n_out, n_in = self.linear.weight.shape
        return isinstance(x, Tensor) and n_in < n_out and x.shape[1] == n_in

    def send(self, x: NodeFeatures) -> Tensor:
        return x if isinstance(x, Tensor) and self.sends_itself(x) else self.linear(x)

    def gather(self, sent: NodeFeatures | RowSource, adjacency: Csr, start: int = 0) -> Tensor:
        assert isinstance(sent, Tensor)
        gathered = csr_matmul(adjacency, sent)
        return (self.linear(gathered) if self.sends_itself(sent) else gathered) + self.bias


class PyGLayer(GraphLayer):
    """GAT (Veličković et al. 2018) or GraphSAGE (Hamilton et al. 2017) from PyG, in the place of `GCNLayer`.

    Both learn or average their own weights and take only the edges of the adjacency, which has self-loops already.
    Their input is dense: CSR rows are filled in, at n · n_in memory.
    """

    def __init__(self, conv: Literal["gat", "sage"], n_in: int, n_out: int) -> None:
        super().__init__()
        from torch_geometric.nn import GATConv, SAGEConv

        self.n_out = n_out
        self.conv = GATConv(n_in, n_out, add_self_loops=False) if conv == "gat" else SAGEConv(n_in, n_out)

    def forward(self, x: NodeFeatures, adjacency: Csr) -> Tensor:
        """Map [n, n_in] to [n, n_out] over the edges of the adjacency [n, n]."""
        return self.conv(_filled(x), adjacency.edge_index)

    def sends_itself(self, x: NodeFeatures | RowSource) -> bool:
        return True

    def send(self, x: NodeFeatures) -> NodeFeatures:
        return x

    def gather(self, sent: NodeFeatures | RowSource, adjacency: Csr, start: int = 0) -> Tensor:
        own = torch.arange(start, start + adjacency.shape[0], device=adjacency.indices.device)
        used, position = torch.unique(adjacency.indices, return_inverse=True)  # the others send nothing here
        edges = torch.stack([position, adjacency.row_of_value()])
        return self.conv((_filled(_taken(sent, used)), _filled(_taken(sent, own))), edges)

    @property
    def value_weight(self) -> Tensor:
        """The weight [n_out, n_in] that neighbours' values go through."""
        return self.conv.lin.weight if hasattr(self.conv, "lin") else self.conv.lin_l.weight

    @property
    def own_weight(self) -> Tensor | None:
        """The weight [n_out, n_in] that a cell's own values go through besides; None for GAT."""
        return None if hasattr(self.conv, "lin") else self.conv.lin_r.weight

    @property
    def value_bias(self) -> Tensor:
        """The bias [n_out]."""
        return self.conv.bias if hasattr(self.conv, "lin") else self.conv.lin_l.bias


def _filled(x: NodeFeatures) -> Tensor:
    return x if isinstance(x, Tensor) else x.to_dense()


def _taken(x: NodeFeatures | RowSource, rows: Tensor) -> NodeFeatures:
    return x[rows] if isinstance(x, Tensor) else x.take(rows).to(rows.device)


def graph_layer(conv: Conv, n_in: int, n_out: int) -> GraphLayer:
    """Make a graph convolution by name."""
    return GCNLayer(n_in, n_out) if conv == "gcn" else PyGLayer(conv, n_in, n_out)


_FEW_PAIRS = 2**22
"""Pairs of cells whose weights a GPU holds at once, 16 MiB a head: several times those of a batch of the default."""


class CrossAttention(nn.Module):
    """Multi-head attention of cells over cells: queries from z, keys and values from g (Vaswani et al. 2017).

    softmax(Q Kᵀ / √(d / n_heads)) V is exact, and torch's fused kernels compute it in tiles with an online softmax:
    memory is O((n + m) · d) forwards and backwards, time O(n · m), for n cells that ask and m that are attended to. On
    a GPU they take over where n · m is above 4 million; there the last bits of gradients may differ from run to run.

    Parameters
    ----------
    n_latent
        d, a multiple of `n_heads`.
    n_heads
        Heads of d / n_heads dimensions each.
    n_attended
        At most how many of the cells given are attended to, taken at even distances; all if None.
    """

    def __init__(self, n_latent: int, n_heads: int, n_attended: int | None = None) -> None:
        super().__init__()
        self.n_heads, self.n_attended = n_heads, n_attended
        self.query = nn.Linear(n_latent, n_latent)
        self.key = nn.Linear(n_latent, n_latent)
        self.value = nn.Linear(n_latent, n_latent)
        self.out = nn.Linear(n_latent, n_latent)

    def forward(self, z: Tensor, g: Tensor) -> Tensor:
        """Attend: z [n, d], g [n_cells, d] -> [n, d]."""
        if self.n_attended is not None and len(g) > self.n_attended:
            g = g[evenly(len(g), self.n_attended, g.device)]
        q, k, v = (  # [1, heads, n or m, d / heads]
            layer(t).unflatten(1, (self.n_heads, -1)).transpose(0, 1).unsqueeze(0)
            for layer, t in ((self.query, z), (self.key, g), (self.value, g))
        )
        if z.is_cpu:
            attended = tiled_attention(q, k, v, multiple=1)
        elif len(z) * len(g) <= _FEW_PAIRS:
            attended = plain_attention(q, k, v)
        else:
            attended = tiled_attention(q, k, v, multiple=8)
        return self.out(attended.squeeze(0).transpose(0, 1).flatten(1))


def evenly(n_cells: int, n_attended: int, device: torch.device) -> Tensor:
    """Positions at even distances from the first of so many cells to the last: int64 [n_attended]."""
    return torch.arange(n_attended, device=device) * (n_cells - 1) // max(n_attended - 1, 1)


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend with all weights in memory, [1, heads, n, m]; arguments and result as in :func:`tiled_attention`.

    The order of every sum is fixed. CUDA's tiled kernel adds the tiles' gradients in the order in which they come.
    """
    weights = torch.softmax(query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5, dim=-1)
    return weights @ value


def tiled_attention(query: Tensor, key: Tensor, value: Tensor, *, multiple: int) -> Tensor:
    """Attend with a fused kernel that wants head dimensions in multiples of some number.

    CUDA's memory-efficient kernel wants multiples of 8 and would give way to one whose memory is quadratic; the CPU's
    takes all. Zeros are filled in: they change neither Q Kᵀ nor the scale, which is that of the true dimension.

    Parameters
    ----------
    query, key, value
        [1, heads, n, d_head], [1, heads, m, d_head] and [1, heads, m, d_head].
    multiple
        The kernel's number.

    Returns
    -------
    [1, heads, n, d_head].
    """
    d_head = query.shape[-1]
    missing = -d_head % multiple
    if not missing:
        return F.scaled_dot_product_attention(query, key, value)
    q, k, v = (F.pad(t, (0, missing)) for t in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, scale=d_head**-0.5)[..., :d_head]


class Discriminator(nn.Sequential):
    """Tells draws of the prior N(0, I) from latent vectors: [n, d] -> logits [n, 1] (Makhzani et al. 2015)."""

    def __init__(self, n_latent: int, n_hidden: int = 64) -> None:
        super().__init__(
            nn.Linear(n_latent, n_hidden),
            nn.BatchNorm1d(n_hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(n_hidden, n_hidden),
            nn.BatchNorm1d(n_hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(n_hidden, 1),
        )
