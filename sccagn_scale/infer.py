"""Reading the trained network out over the whole graph: exact, no sampling."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sccagn_scale._memory import IN_MEMORY, Scratch
from sccagn_scale.loader import WholeGraph
from sccagn_scale.nn import GraphLayer, NodeFeatures, RowSource, SCCAGNModule


@torch.no_grad()
def embed(module: SCCAGNModule, whole: WholeGraph, *, block_size: int = 16_384, scratch: Scratch = IN_MEMORY) -> Tensor:
    """Compute z of every cell [n_obs, n_latent] over the full graph, one layer after the other, in blocks of cells.

    z needs only the encoder and the first two layers of the graph network, so attention and decoder do not run. Of the
    first layer n_obs × h₁ values are held, twice where the input is CSR; of everything wider, `block_size` rows. On the
    CPU these and z are in `scratch`.
    """
    was_training = module.training
    module.eval()
    x, adjacency = whole.x, whole.adjacency
    n_obs, device = adjacency.shape[0], adjacency.values.device
    blocks = [(start, min(start + block_size, n_obs)) for start in range(0, n_obs, block_size)]
    first, second = (cast(GraphLayer, layer) for layer in module.graph[:2])

    def room(width: int) -> Tensor:
        if device.type == "cpu":
            return torch.from_numpy(scratch.empty((n_obs, width), np.float32))
        return torch.empty(n_obs, width, device=device)

    def send(layer: GraphLayer, rows: NodeFeatures | RowSource) -> NodeFeatures | RowSource:
        if layer.sends_itself(rows):
            return rows
        sent = room(layer.n_out)
        for start, stop in blocks:
            sent[start:stop] = cast(Tensor, layer.send(_block(rows, start, stop, device)))
        return sent

    sent = send(first, x)
    g1 = room(module.n_hidden[0])
    for start, stop in blocks:
        g1[start:stop] = F.relu(first.gather(sent, adjacency.rows(start, stop), start))
    sent = send(second, g1)
    z = room(module.n_latent)
    for start, stop in blocks:
        g2 = F.relu(second.gather(sent, adjacency.rows(start, stop), start))
        z[start:stop] = module.code(_block(x, start, stop, device), g1[start:stop], g2)
    module.train(was_training)
    return z


def _block(x: NodeFeatures | RowSource, start: int, stop: int, device: torch.device) -> NodeFeatures:
    return x[start:stop] if isinstance(x, Tensor) else x.rows(start, stop).to(device)
