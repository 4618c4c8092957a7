"""What a run will take, told before it starts: memory and disk of every stage.

Each figure is the sum of the arrays that the stage holds at once, by their sizes in bytes; what is not such an array
(the interpreter and its libraries, blocks of cells in the making) is a constant, from runs on one and ten million
cells. `python -m benchmarks atlas` compares prediction and outcome.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sccagn_scale import clustering, ops, pp
from sccagn_scale._threads import n_workers
from sccagn_scale.config import Config
from sccagn_scale.graph import resolved_backend
from sccagn_scale.io import Copies

_PROCESS = 310_000_000
"""Python with torch, FAISS and other libraries, without the pages of their code, which the files back."""

_LATER = 270_000_000
"""What training loads, and what freed arrays leave behind in pieces, after preprocessing."""

_NAME = 140
"""Bytes of a cell's name and annotation."""

_VALUE = 28
"""Bytes per stored value of a block in the making: as read, as float32 with indices, in bands and logged."""

_LOOKED_INTO = 1_500_000
"""Points of the lists that a block of points looks into, at most (measured at ten million points)."""

_KEPT = 0.65
"""Share of the values that is of kept genes (simulated cells with 20,000 genes)."""

_EDGES = 1.5
"""Edges of the symmetric graph for each listed neighbour."""

_PIECES = 1.2
"""What a step of training takes for each byte of its arrays, as freed ones leave memory in pieces (measured on 25,000
to 100,000 cells in one batch)."""


class Size(NamedTuple):
    """How large an input is."""

    n_obs: int
    n_vars: int
    nnz: int
    is_on_disk: bool  # or in memory already, in which case it takes no more
    value_size: float = 1.0  # bytes that a value takes packed, beside its gene
    copies: Copies = Copies()  # of what is not stored by rows, which are on the disk that the atlas has for them
    on_cluster: bool = False  # whether others than this process keep the packed values

    @property
    def packed(self) -> int:
        """Bytes of the packed values that are kept of what is on disk, in memory or in the cell store."""
        if not self.is_on_disk or self.on_cluster:
            return 0
        gene_size = np.min_scalar_type(self.n_vars - 1).itemsize
        return int(self.nnz * (self.value_size + gene_size) + 8 * self.n_obs)


class Need(NamedTuple):
    """Bytes, without the output.

    Pages of files that lie in memory, which the system drops when it needs the room, are not counted.
    """

    memory: int
    disk: int


def needs(size: Size, config: Config, *, on_disk: bool, device_type: str, corrects: bool = False) -> dict[str, Need]:
    """Predict what each stage takes.

    Parameters
    ----------
    size
        Of the input. All cells count as kept.
    config
        The settings; `init` as `choose_init` settled it.
    on_disk
        Whether large arrays are in files rather than in memory.
    device_type
        What is computed on: `"cpu"`, or `"cuda"`, whose own memory is not counted.
    corrects
        Whether components are corrected for batches.

    Returns
    -------
    Stage → need, in the order of the stages. The largest is what the run needs.
    """
    n, d, k = size.n_obs, min(config.n_comps, size.n_vars), config.n_neighbors
    n_genes = min(config.n_top_genes, size.n_vars)
    per_cell = size.nnz / n

    block = n_workers() * pp.BLOCK_SIZE * per_cell * _VALUE + 3 * 8 * n_genes**2
    correction = pp.correction_memory(n, d) if corrects else 0
    counts = size.packed
    uses_genes = "genes" in (config.input_rep, config.graph_rep)
    genes = 8 * min(_KEPT * size.nnz, n * n_genes) if uses_genes else 0
    points = 4 * n * n_genes if config.graph_rep == "genes" else 0
    views = config.init == "consensus"
    scaled = 4 * n * d if views else 0
    inputs = 4 * n * d * (1 if config.input_rep == "genes" else 2) + scaled + genes + points
    width = n_genes if config.graph_rep == "genes" else d
    lists = 12 * n * k
    edges = 8 * _EDGES * n * (k - 1)
    graph = lists + 2 * edges
    layers = 4 * n * (config.n_hidden[0] + 3 * config.n_latent)

    backend = resolved_backend(config.knn_backend, n, device_type)

    def search(width: int) -> tuple[float, float]:
        """Bytes that are kept, and others, while neighbours are searched in so many dimensions."""
        unit = 4 * n * width if config.metric == "cosine" else 0
        if backend == "ivf":
            return unit + 4 * n * width, 24 * n + 4.4 * (width + 1) * min(n, _LOOKED_INTO)
        if backend == "torch_exact" or backend.endswith("_gpu"):  # the points are on the device
            return unit, lists
        return unit, n * (6 * width + 270 + 8 * k)

    def training(batch_size: int | None, *, pretraining: bool = False) -> float:
        """Bytes, other than those kept, while the network learns from batches of about so many cells."""
        n_batch = n if batch_size is None else min(n, batch_size)
        on_cpu = device_type == "cpu"
        step = _PIECES * n_batch * _step(config, d, n_genes, pretraining=pretraining) if on_cpu else 0
        copies = on_disk + (on_cpu and not ops.is_compiled("csr_matmul_transposed", "cpu"))
        whole = copies * genes if n_batch == n and config.input_rep == "genes" else 0
        return _LATER + 280 * n + step + whole

    laid_out, searching = search(width)
    join = n * (k - 1) * 24
    communities = n * 100
    further, looking = 0.0, float(communities)
    if views:  # a graph of both sets of components, and the cells as averaged over it
        laid_out_again, searching_again = search(2 * d)
        further = 2 * 4 * n * d + laid_out_again + graph + 4 * n * config.n_latent
        looking = max(communities, searching_again, join, clustering.ward_memory(n))

    joined = 0 if on_disk else genes  # from their blocks, which are held
    names = _NAME * n if size.is_on_disk else 0
    trained = inputs - scaled + graph + layers
    held = {
        "Preprocess": (counts + inputs, max(block, correction, joined, size.copies.memory)),
        "Neighbors": (inputs + graph + laid_out, _LATER + max(searching, join)),
        "Pretrain": (inputs + graph + layers, training(config.pretrain_batch_size, pretraining=True)),
        "Initial clusters": (inputs + graph + layers + further, _LATER + looking),
        "Joint training": (trained, training(config.batch_size) if config.joint_steps else _LATER),
        "Read out": (trained, _LATER + 100 * n),
        "Write": (trained, _LATER + n * (250 + 10 * k)),
    }
    if not config.pretrain_steps:
        del held["Pretrain"]
    copied = dict.fromkeys(held, size.copies.kept)
    copied["Preprocess"] += size.copies.making
    if not on_disk:
        return {stage: Need(int(_PROCESS + names + kept + work), copied[stage]) for stage, (kept, work) in held.items()}
    beside: dict[str, float] = dict.fromkeys(held, counts)  # packed counts stay, while in memory they are let go of
    beside["Preprocess"] = genes // 2  # laid out twice, at 6 bytes a value
    return {
        stage: Need(int(_PROCESS + names + work), int(kept + beside[stage]) + copied[stage])
        for stage, (kept, work) in held.items()
    }


def _step(config: Config, n_comps: int, n_genes: int, *, pretraining: bool) -> float:
    """Bytes of each cell in a batch that the network learns from: what its layers put out, held for their gradients."""
    of_genes = config.input_rep == "genes"
    h1, h2, _ = config.n_hidden
    n_input = 0 if of_genes else n_comps  # genes are sparse
    output = 2 * h1 if of_genes else n_comps
    encoder = n_input + 4 * h1 + 5 * h2 + 7 * config.n_latent + 400  # with graph network, discriminator and losses
    decoder = h1 + 2 * h2 + output
    joined = 0 if pretraining or config.fusion == "none" else 2 * (h1 + 2 * h2) + output
    along_edges = 0.0
    if config.conv != "gcn":  # PyG's layers fill genes in, and send along every edge
        width = n_genes if of_genes else n_comps
        sent = 3 * (h1 + h2 + config.n_latent) if config.conv == "gat" else max(width, h2)
        along_edges = of_genes * width + _EDGES * (config.n_neighbors - 1) * sent
    return 4 * (encoder + decoder + joined + along_edges)
