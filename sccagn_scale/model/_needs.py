"""What a run will take, told before it starts: memory and disk of every stage.

Each figure is the sum of the arrays that the stage holds at once, by their sizes in bytes; what is not such an array
(the interpreter and its libraries, blocks of cells in the making) is a constant, from runs on one and ten million
cells. `python -m benchmarks atlas` compares prediction and outcome.
"""

from __future__ import annotations

from typing import NamedTuple

from sccagn_scale import pp, train
from sccagn_scale._threads import n_threads
from sccagn_scale.config import Config
from sccagn_scale.graph import choose_backend

_PROCESS = 310_000_000
"""Python with torch, FAISS and other libraries; their code, which is files' too, aside."""

_LATER = 270_000_000
"""What training loads, and what freed arrays leave behind in pieces, after preprocessing."""

_NAME = 140
"""Bytes of a cell's name and annotation."""

_VALUE = 28
"""Bytes per stored value of a block in the making: as read, as float32 with indices, in bands and logged."""

_LOOKED_INTO = 1_500_000
"""Points of the lists that a block of points looks into, at most (measured at ten million points)."""

_EDGES = 1.5
"""Edges of the symmetric graph for each listed neighbour."""


class Size(NamedTuple):
    """How large an input is."""

    n_obs: int
    n_vars: int
    nnz: int
    is_on_disk: bool  # or in memory already, in which case it takes no more


class Need(NamedTuple):
    """Bytes. Pages of files that lie in memory, which the system drops when it needs the room, are not counted."""

    memory: int
    disk: int


def needs(size: Size, config: Config, *, on_disk: bool) -> dict[str, Need]:
    """Predict what each stage takes.

    Parameters
    ----------
    size
        Of the input. All cells count as kept, and a fifth of the values as those of kept genes.
    config
        The settings; `init` as `choose_init` settled it.
    on_disk
        Whether large arrays are in files rather than in memory.

    Returns
    -------
    Stage → need, in the order of the stages. The largest is what the run needs.
    """
    n, d, k = size.n_obs, min(config.n_comps, size.n_vars), config.n_neighbors
    n_genes = min(config.n_top_genes, size.n_vars)
    per_cell = size.nnz / n

    block = n_threads() * pp.BLOCK_SIZE * per_cell * _VALUE + 3 * 8 * n_genes**2
    counts = size.nnz * (1 + (2 if size.n_vars <= 2**16 else 4)) + 8 * n if size.is_on_disk else 0
    uses_genes = "genes" in (config.input_rep, config.graph_rep)
    genes = 8 * min(0.2 * size.nnz, n * n_genes) if uses_genes else 0
    points = 4 * n * n_genes if config.graph_rep == "genes" else 0
    views = config.init == "consensus"
    scaled = 4 * n * d if views else 0
    inputs = 4 * n * d * (1 if config.input_rep == "genes" else 2) + scaled + genes + points
    width = n_genes if config.graph_rep == "genes" else d
    lists = 12 * n * k
    edges = 8 * _EDGES * n * (k - 1)
    graph = lists + 2 * edges
    layers = 4 * n * (config.n_hidden[0] + 3 * config.n_latent)

    backend = choose_backend(n) if config.knn_backend == "auto" else config.knn_backend

    def search(width: int) -> tuple[float, float]:
        """Bytes that are kept, and others, while neighbours are searched in so many dimensions."""
        if backend == "ivf":
            return 4 * n * width, 24 * n + 4.4 * (width + 1) * min(n, _LOOKED_INTO)
        return 0, n * (6 * width + 270 + 8 * k)

    laid_out, searching = search(width)
    join = n * (k - 1) * 24
    communities = n * 100
    further, looking = 0.0, float(communities)
    if views:  # a graph of both sets of components, and the cells as averaged over it
        laid_out_again, searching_again = search(2 * d)
        further = 2 * 4 * n * d + laid_out_again + graph + 4 * n * config.n_latent
        looking = max(communities, searching_again, join, train.ward_memory(n))

    names = _NAME * n if size.is_on_disk else 0
    trained = inputs - scaled + graph + layers
    held = {
        "Preprocess": (counts + inputs, block),
        "Neighbors": (inputs + graph + laid_out, _LATER + max(searching, join)),
        "Pretrain": (inputs + graph + layers, _LATER + 280 * n),
        "Initial clusters": (inputs + graph + layers + further, _LATER + looking),
        "Joint training": (trained, _LATER + 280 * n),
        "Read out": (trained, _LATER + 100 * n),
        "Write": (trained, _LATER + n * (250 + 10 * k)),
    }
    if not config.pretrain_steps:
        del held["Pretrain"]
    if on_disk:
        return {stage: Need(int(_PROCESS + names + work), int(kept)) for stage, (kept, work) in held.items()}
    return {stage: Need(int(_PROCESS + names + kept + work), 0) for stage, (kept, work) in held.items()}
