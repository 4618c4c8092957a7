"""How the cells are divided into batches."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from sccagn_scale import graph
from sccagn_scale.config import Config
from sccagn_scale.loader import CellsOnDisk, FullLoader, Loader, NeighborLoader, PartitionLoader, Prefetch
from sccagn_scale.model._prepare import Prepared, part_size


def make_loader(
    prepared: Prepared,
    normalized: sp.csr_matrix,
    config: Config,
    size: int | None,
    *,
    device: torch.device,
    random_state: int,
) -> Loader:
    """Divide the graph Â [n, n] into batches of about `size` cells; None: one batch holds it all."""
    if size is None or len(prepared.pcs) <= size:
        x = prepared.x[:] if isinstance(prepared.x, CellsOnDisk) else prepared.x
        return FullLoader(x, normalized, device)
    generator = np.random.default_rng(random_state)
    if config.loader == "neighbor":
        sampled = NeighborLoader(
            prepared.x,
            normalized,
            config.n_fanout,
            batch_size=size,
            device=device,
            generator=generator,
            sampler=config.neighbor_sampler,
        )
        return Prefetch(sampled)
    parts = graph.partition(prepared.pcs, part_size(size), random_state=random_state)
    return Prefetch(PartitionLoader(prepared.x, normalized, parts, batch_size=size, device=device, generator=generator))
