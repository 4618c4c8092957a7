"""PyG's sampler interface on a CSR graph in plain torch. Importing this file imports PyG."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.sampler import BaseSampler, EdgeSamplerInput, NodeSamplerInput, SamplerOutput

from sccagn_scale._seed import seeded


class CsrSampler(BaseSampler):
    """Seeds, their neighbours and those of these, hop by hop (GraphSAGE; Hamilton et al. 2017); no compiled package.

    At most `num_neighbors[h]` neighbours of a cell are drawn at hop h, uniformly and without replacement.

    Parameters
    ----------
    indptr, indices
        The graph, CSR: row i lists the sources of the edges that end in i. On the CPU.
    num_neighbors
        Fan-out of each hop.
    generator
        Draws the neighbours.
    """

    def __init__(
        self, indptr: Tensor, indices: Tensor, num_neighbors: tuple[int, ...], *, generator: torch.Generator
    ) -> None:
        self._indptr, self._indices = indptr, indices
        self._num_neighbors, self._generator = num_neighbors, generator
        self._position = torch.full((len(indptr) - 1,), -1)  # kept between calls, and all −1 whenever none is running

    def sample_from_nodes(self, index: NodeSamplerInput, **kwargs: Any) -> SamplerOutput:
        """Sample around seeds, which come first among the nodes. `edge` is an edge's place in the CSR arrays."""
        frontier = index.node
        nodes, edges, counts = [frontier], [], []
        n_found = len(frontier)
        self._position[frontier] = torch.arange(n_found)
        for fan_out in self._num_neighbors:
            drawn, count = self._draw(frontier, fan_out)
            sources = self._indices[drawn]
            frontier = sources[self._position[sources] < 0].unique()
            self._position[frontier] = torch.arange(n_found, n_found + len(frontier))
            n_found += len(frontier)
            nodes.append(frontier)
            edges.append(drawn)
            counts.append(count)
        node, edge, count = torch.cat(nodes), torch.cat(edges), torch.cat(counts)
        source = self._position[self._indices[edge]]
        target = torch.repeat_interleave(torch.arange(len(count)), count, output_size=len(edge))
        self._position[node] = -1
        return SamplerOutput(node, source, target, edge, metadata=(index.input_id, index.time))

    def sample_from_edges(self, index: EdgeSamplerInput, *args: Any, **kwargs: Any) -> SamplerOutput:
        """Not offered: cells are trained on, not edges."""
        raise NotImplementedError("CsrSampler samples around nodes only.")

    def _draw(self, nodes: Tensor, fan_out: int) -> tuple[Tensor, Tensor]:
        """Draw neighbours: places of edges in the CSR arrays, node by node, and how many of each."""
        start = self._indptr[nodes]
        degree = self._indptr[nodes + 1] - start
        width = min(fan_out, int(degree.max())) if len(nodes) else 0
        drawn = torch.arange(width).repeat(len(nodes), 1)  # which neighbour of each node
        many = (degree > width).nonzero().squeeze(1)
        drawn[many] = subsets(degree[many], width, generator=self._generator)
        kept = torch.arange(width) < degree[:, None]
        return (start[:, None] + drawn)[kept], degree.clamp_max(width)


class SeededSampler(BaseSampler):
    """Another sampler, which draws from torch's global generator, made to follow one of ours.

    Parameters
    ----------
    sampler
        Draws at `sample_from_nodes`.
    generator
        Seeds every call.
    """

    def __init__(self, sampler: BaseSampler, generator: torch.Generator) -> None:
        self._sampler, self._generator = sampler, generator

    def sample_from_nodes(self, index: NodeSamplerInput, **kwargs: Any) -> SamplerOutput:
        """Sample, and leave the global generator as it was."""
        seed = int(torch.randint(2**62, (), generator=self._generator))
        with seeded(seed):
            return self._sampler.sample_from_nodes(index, **kwargs)

    def sample_from_edges(self, index: EdgeSamplerInput, *args: Any, **kwargs: Any) -> SamplerOutput:
        """Not offered: cells are trained on, not edges."""
        raise NotImplementedError("SeededSampler samples around nodes only.")

    @property
    def edge_permutation(self) -> Any:
        """From the sampler's order of edges to that of the graph."""
        return self._sampler.edge_permutation


def subsets(n: Tensor, k: int, *, generator: torch.Generator) -> Tensor:
    """Draw k of 0 … n_i − 1 without replacement, every subset alike (Floyd's algorithm; Bentley & Floyd 1987).

    Parameters
    ----------
    n
        int64 [rows], each at least k.

    Returns
    -------
    int64 [rows, k].
    """
    chosen = n.new_empty(len(n), k)
    uniform = torch.rand(len(n), k, generator=generator, dtype=torch.float64)
    for j in range(k):
        last = n - k + j
        candidate = (uniform[:, j] * (last + 1)).long()
        is_taken = (chosen[:, :j] == candidate[:, None]).any(dim=1)
        chosen[:, j] = torch.where(is_taken, last, candidate)
    return chosen
