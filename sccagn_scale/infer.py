"""Reading the trained network out over the whole graph: exact, no sampling."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from sccagn_scale.loader import Batch
from sccagn_scale.nn import GraphLayer, SCCAGNModule


@torch.no_grad()
def embed(module: SCCAGNModule, whole: Batch, *, block_size: int = 16_384) -> Tensor:
    """Compute z of every cell [n_obs, n_latent] over the full graph, one layer after the other, in blocks of cells.

    z needs only the encoder and the first two layers of the graph network, so attention and decoder do not run. Of the
    first layer n_obs × h₁ values are held, twice where the input is CSR; of everything wider, `block_size` rows.
    """
    was_training = module.training
    module.eval()
    x, adjacency = whole.x, whole.adjacency
    n_obs = len(whole.n_id)
    blocks = [(start, min(start + block_size, n_obs)) for start in range(0, n_obs, block_size)]
    first, second = (cast(GraphLayer, layer) for layer in module.graph[:2])
    sent = first.send(x)
    g1 = adjacency.values.new_empty(n_obs, module.n_hidden[0])
    for start, stop in blocks:
        g1[start:stop] = F.relu(first.gather(sent, adjacency.rows(start, stop), start))
    sent = second.send(g1)
    z = adjacency.values.new_empty(n_obs, module.n_latent)
    for start, stop in blocks:
        g2 = F.relu(second.gather(sent, adjacency.rows(start, stop), start))
        own = x[start:stop] if isinstance(x, Tensor) else x.rows(start, stop)
        z[start:stop] = module.code(own, g1[start:stop], g2)
    module.train(was_training)
    return z
