"""Every choice of a run, in one frozen record."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import tomllib
import types
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sccagn_scale._errors import InputError

Preset = Literal["default", "paper"]
Device = Literal["auto", "cpu", "cuda"]
InputKind = Literal["counts", "linear", "log"]
Backend = Literal["exact", "hnsw", "ivf", "ivf_graph", "torch_exact", "flat_gpu", "ivf_gpu", "cagra_gpu"]
Metric = Literal["euclidean", "cosine"]
Conv = Literal["gcn", "gat", "sage"]
Fusion = Literal["attention", "add", "concat", "multiply", "none"]
Init = Literal["auto", "leiden", "ward", "mixture", "consensus", "kmeans"]
SamplerName = Literal["torch", "torch-sparse", "pyg-lib"]


Record = TypeVar("Record")


def _telling_names(record: type[Record]) -> type[Record]:
    """Have a dataclass say which names it knows where it is given another: Python's own error does not."""
    initialize = record.__init__

    @functools.wraps(initialize)
    def checked(self: Record, *values: Any, **named: Any) -> None:
        _check_names(named, f"`{record.__name__}`")
        initialize(self, *values, **named)

    record.__init__ = checked  # type: ignore[assignment, method-assign]
    return record


@_telling_names
@dataclass(frozen=True)
class Config:
    """All parameters of preprocessing, graph, network, losses and training.

    `Config()` is the preset `"default"`; `Config.preset("paper")` is the published setting. Change single values with
    `Config(n_latent=16)`, with `dataclasses.replace(config, n_latent=16)`, in a TOML file, or on the command line with
    `--set n_latent=16`.

    Parameters
    ----------
    input_kind
        What the values are: counts, linear (such as TPM) or log-normalised. `"auto"` finds out and tells you.
    min_cells_frac
        Quality control: a gene must be detected in more than this fraction of the cells.
    min_genes_frac
        Quality control: a cell must have more than this fraction of the kept genes detected.
    target_sum
        Total count that each cell is normalised to; None: the median total.
    n_top_genes
        Number of genes kept, those with the highest standard deviation.
    input_rep
        Input of the network: the kept genes (scaled, sparse) or principal components of unit-length log expression.
    n_comps
        Number of principal components, for `input_rep` and `graph_rep`.
    graph_rep
        Space in which neighbours are searched: the scaled genes or the principal components.
    n_neighbors
        Neighbours of a cell, counting the cell itself, as in scanpy.
    knn_backend
        How neighbours are searched. `"auto"`: exact search (`"exact"`) up to 30,000 cells; beyond, `"ivf"` if the
        operators of cpp_ext are compiled, else `"ivf_graph"`, which finds as many. On a GPU: FAISS's exact search
        (`"flat_gpu"`) up to 500,000 cells, CAGRA (`"cagra_gpu"`) or inverted lists (`"ivf_gpu"`) beyond; torch's exact
        search (`"torch_exact"`) if FAISS has no GPU support. `"hnsw"` is never chosen by itself.
    metric
        Distance by which neighbours are found: `"euclidean"` or `"cosine"`.
    prune
        Whether to drop edges longer than the mean plus one standard deviation of the cell's own distances.
    n_hidden
        Layer widths of the encoder; the graph network has the first two, the decoder mirrors them.
    n_latent
        Dimensions of the embedding z.
    conv
        Graph convolution: `"gcn"`, `"gat"` or `"sage"` (GraphSAGE).
    phi
        Share of the graph network in the encoder's layers, from 0 to 1.
    fusion
        What the decoder starts from: what z finds in the output g3 of the graph network, plus g3 (`"attention"`);
        z + g3 (`"add"`); a linear layer of both (`"concat"`); z · g3 (`"multiply"`); or z alone, with no layer of the
        graph network mixed into the decoder's either (`"none"`).
    n_heads
        Number of attention heads; divides `n_latent`.
    n_attended
        Most cells that each cell attends to, drawn evenly from its batch. None: all of the batch, in time that grows
        with its square (memory does not); with `batch_size` None too, all cells, as in the published method.
    whiten
        Whether every component that the network starts from is scaled to variance one; if not, all by one factor.
    nu
        Degrees of freedom of the Student-t kernel; None: `n_latent`, the dimensions of z. That is also the mean squared
        distance of a cell from the centre of a round cluster of variance one. With one degree of freedom such cells
        are assigned to almost no cluster in particular.
    tau
        Temperature of the target distribution; below 1 sharpens it.
    weight_clustering
        Weight ε of the clustering loss, KL(P‖Q) + KL(P‖pred).
    weight_reconstruction
        Weight µ of the reconstruction loss, the squared error of a cell.
    weight_adversarial
        Weight θ of the encoder's adversarial loss, with which a discriminator draws z towards the prior N(0, I); 0: no
        discriminator.
    init
        First clustering, which places the centroids: Leiden on the cell graph; Ward, a Gaussian mixture or k-means on
        z; or a consensus. `"auto"` is the consensus, except that it is Leiden for more than 20,000 cells whose number
        of clusters is not given. Up to 20,000 cells, the consensus is that of nine mixtures and three Leiden
        clusterings over three cell graphs. If you give more clusters than are estimated, the estimated ones are divided
        (not below 900 cells); if fewer, they are joined, if that has the higher modularity. Beyond 20,000 cells, it is
        the consensus of three mixtures, one over each graph, or of three Leiden clusterings, whichever agree more.
    resolution
        Resolution at which clusterings are scored when the number of clusters is estimated; higher gives more clusters.
        All cells as one cluster score 1 − resolution, so from 1 on they are divided even where they are of one kind.
        The consensus of up to 20,000 cells uses that number even if you give another one (see `init`).
    n_init
        Number of restarts of k-means.
    mixture_shrinkage
        Weight of the pooled covariance in each covariance of a mixture, in average cluster sizes (1: equal weights).
    round_clusters
        Whether z is rescaled before joint training so that the first clusters are round, with variance one.
    anchor_share
        Share of the first clustering in the target distribution; 0: self-supervision alone.
    learning_rate
        Learning rate of the network (Adamax).
    discriminator_learning_rate
        Learning rate of the discriminator (Adam).
    loader
        How a graph larger than a batch is divided: into groups of its parts (`"partition"`), or into seed cells with a
        sample of their neighbours (`"neighbor"`).
    batch_size
        Approximate number of cells in a batch. None, or a data set of up to that many cells: the whole graph is one
        batch.
    pretrain_batch_size
        The same for pretraining, where many small steps work better than few large ones.
    n_fanout
        Neighbours drawn at each hop with `loader="neighbor"`.
    neighbor_sampler
        What draws these neighbours: plain `"torch"`, or a compiled PyG sampler (`"torch-sparse"`, `"pyg-lib"`), if its
        package is installed.
    pretrain_steps
        Most batches of pretraining, which has the reconstruction loss alone. By default there is none: the network
        starts as smoothed PCA, and reconstructing cells from z alone blurs what that separates.
    joint_steps
        Most batches of joint training.
    patience
        Epochs without a lower loss after which a stage ends.
    tolerance
        Joint training ends when at most this fraction of the cells changes cluster in `settle_epochs` epochs in a row.
    settle_epochs
        Epochs in a row that must stay within `tolerance`.

    Raises
    ------
    InputError
        If a value has the wrong type or is out of range, or there is no such parameter; the message names it.
    """

    # --- input and quality control
    input_kind: Literal["auto", InputKind] = "auto"
    min_cells_frac: float = 0.01
    min_genes_frac: float = 0.01
    target_sum: float | None = None
    n_top_genes: int = 2000

    # --- representation
    input_rep: Literal["genes", "pca"] = "pca"
    n_comps: int = 50

    # --- cell graph
    graph_rep: Literal["genes", "pca"] = "pca"
    n_neighbors: int = 15
    knn_backend: Literal["auto", Backend] = "auto"
    metric: Metric = "euclidean"
    prune: bool = True

    # --- network
    n_hidden: tuple[int, int, int] = (100, 200, 200)
    n_latent: int = 24
    conv: Conv = "gcn"
    phi: float = 0.5
    fusion: Fusion = "attention"
    n_heads: int = 4
    n_attended: int | None = 512
    whiten: bool = True

    # --- losses
    nu: float | None = None
    tau: float = 0.5
    weight_clustering: float = 1.0
    weight_reconstruction: float = 0.5
    weight_adversarial: float = 0.05

    # --- initial clustering
    init: Init = "auto"
    resolution: float = 0.5
    n_init: int = 20
    mixture_shrinkage: float = 1.0
    round_clusters: bool = True
    anchor_share: float = 0.9

    # --- training
    learning_rate: float = 5e-3
    discriminator_learning_rate: float = 2e-4
    loader: Literal["partition", "neighbor"] = "partition"
    batch_size: int | None = 1024
    pretrain_batch_size: int | None = 256
    n_fanout: tuple[int, ...] = (10, 10)
    neighbor_sampler: SamplerName = "torch"
    pretrain_steps: int = 0
    joint_steps: int = 100
    patience: int = 20
    tolerance: float = 1e-3
    settle_epochs: int = 1

    def __post_init__(self) -> None:
        for name, hint in _hints().items():
            object.__setattr__(self, name, _checked(name, hint, getattr(self, name)))
        for name, (low, high, what) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"`{name}` must be {what}; it is {value}.")
        if self.n_hidden[1] != self.n_hidden[2] or min(self.n_hidden) < 1:
            raise InputError(
                f"`n_hidden` must be three positive widths, the last two equal (both are mixed with the same layer of "
                f"the graph network); it is {self.n_hidden}."
            )
        if self.fusion == "attention" and self.n_latent % self.n_heads:
            raise InputError(
                f"`n_latent` must be a multiple of `n_heads`; they are {self.n_latent} and {self.n_heads}."
            )
        if not self.n_fanout or min(self.n_fanout) < 1:
            raise InputError(f"`n_fanout` must be at least one number, each at least 1; it is {self.n_fanout}.")

    @property
    def degrees_of_freedom(self) -> float:
        """`nu`, or `n_latent` if that is None."""
        return float(self.n_latent) if self.nu is None else self.nu

    @classmethod
    def preset(cls, name: Preset) -> Config:
        """Look up a preset: `"default"`, or `"paper"`, as published: joint training on the whole graph at once."""
        if name not in tuple(_PRESETS):  # what came may be a dict or a list, which have no hash
            raise InputError(f"`config` must be a Config or one of {', '.join(map(repr, _PRESETS))}; it is {name!r}.")
        return cls(**_PRESETS[name])

    @classmethod
    def from_toml(cls, path: str | Path, base: Config | None = None) -> Config:
        """Read a TOML file of `name = value` lines on top of `base` (the default preset if None); `"none"` is None.

        Raises
        ------
        InputError
            If the file is missing or not TOML, or holds an unknown name or an unsuitable value.
        """
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise InputError(f"`config` {str(path)!r} cannot be read: {error.strerror}.") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"`config` {str(path)!r} is not a TOML file: {error}.") from error
        return _replace(base or cls(), values, f"`config` {str(path)!r}")

    @classmethod
    def from_assignments(cls, assignments: Iterable[str], base: Config | None = None) -> Config:
        """Read texts of the form `name=value` on top of `base` (the default preset if None).

        A value is written as in TOML, but a text needs no quotes: `"n_neighbors=30"`, `"conv=gat"`, `"nu=none"`,
        `"n_fanout=[15, 10]"`. Of two with one name the later one counts.

        Raises
        ------
        InputError
            If a text has another form, an unknown name or an unsuitable value.
        """
        values: dict[str, Any] = {}
        for text in assignments:
            name, equals, value = (part.strip() for part in text.partition("="))
            if not (name and equals and value):
                raise InputError(f"`assignments` must have the form NAME=VALUE, as in n_neighbors=30; one is {text!r}.")
            try:
                read = tomllib.loads(f"value = {value}")
            except (ValueError, RecursionError):
                read = {"value": value}  # a text without quotes
            if len(read) > 1:
                raise InputError(f"`assignments` must have one NAME=VALUE each, but there are more in {text!r}.")
            values[name] = read["value"]
        return _replace(base or cls(), values, "`assignments`")


_PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "input_rep": "genes",
        "graph_rep": "genes",
        "n_neighbors": 11,  # ten and the cell itself
        "n_latent": 8,
        "nu": 1.0,
        "n_attended": None,
        "weight_clustering": 1e-4,
        "weight_adversarial": 0.5,
        "anchor_share": 0.0,
        "learning_rate": 1e-3,
        "batch_size": None,
        # what the paper leaves open, so that its adversarial weight does not undo the start
        "whiten": False,
        "round_clusters": False,
        "init": "mixture",
        "mixture_shrinkage": 0.01,
        "pretrain_steps": 50,
        "joint_steps": 10,
        "settle_epochs": 5,  # an epoch is a single step
    },
}

_ANY = math.inf
_MOST = 2**63  # where files end to hold whole numbers
_LARGEST = 3.4e38  # where float32 ends, in which networks are trained
_POSITIVE = math.ulp(0.0)  # the smallest number above 0
_RANGES: dict[str, tuple[float, float, str]] = {
    "min_cells_frac": (0, 1, "a fraction between 0 and 1"),
    "min_genes_frac": (0, 1, "a fraction between 0 and 1"),
    "target_sum": (_POSITIVE, _ANY, "above 0"),
    "n_top_genes": (2, _ANY, "at least 2"),
    "n_comps": (1, _ANY, "at least 1"),
    "n_neighbors": (2, _ANY, "at least 2 (it counts the cell itself)"),
    "n_latent": (1, _ANY, "at least 1"),
    "phi": (0, 1, "between 0 and 1"),
    "n_heads": (1, _ANY, 'at least 1 (with `fusion` = "add" there is no attention)'),
    "n_attended": (1, _ANY, "at least 1"),
    "nu": (1e-6, _ANY, "at least 1e-6"),
    "tau": (1e-2, _ANY, "at least 0.01"),
    "weight_clustering": (0, _ANY, "at least 0"),
    "weight_reconstruction": (0, _ANY, "at least 0"),
    "weight_adversarial": (0, _ANY, "at least 0"),
    "resolution": (_POSITIVE, _ANY, "above 0"),
    "n_init": (1, _ANY, "at least 1"),
    "mixture_shrinkage": (1e-6, _ANY, "at least 1e-6"),
    "anchor_share": (0, 1, "between 0 and 1"),
    "learning_rate": (_POSITIVE, _ANY, "above 0"),
    "discriminator_learning_rate": (_POSITIVE, _ANY, "above 0"),
    "batch_size": (2, _ANY, "at least 2"),
    "pretrain_batch_size": (2, _ANY, "at least 2"),
    "pretrain_steps": (0, _ANY, "at least 0"),
    "joint_steps": (0, _ANY, "at least 0"),
    "patience": (1, _ANY, "at least 1"),
    "tolerance": (0, 1, "a fraction between 0 and 1"),
    "settle_epochs": (1, _ANY, "at least 1"),
}


def _hints() -> dict[str, Any]:
    return get_type_hints(Config)


def _replace(config: Config, values: dict[str, Any], source: str) -> Config:
    """Change settings to what was read from text, where `"none"` is None; `source` begins messages on names."""
    _check_names(values, source)
    hints = _hints()
    may_be_none = {name for name, value in values.items() if value == "none" and type(None) in get_args(hints[name])}
    return dataclasses.replace(config, **values | dict.fromkeys(may_be_none))


def _check_names(names: Iterable[str], source: str) -> None:
    """Refuse names that no setting has; `source` begins the message."""
    known = _hints()
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            hint = f"did you mean '{near[0]}'?" if near else f"the names are {', '.join(known)}."
            raise InputError(f"{source} has an unknown name '{name}'; {hint}")


def _checked(name: str, hint: Any, value: Any) -> Any:
    """Return the value in the type that the field declares, or say what is wrong with it."""
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        raise InputError(f"`{name}` must be one of {', '.join(map(repr, get_args(hint)))}; it is {value!r}.")
    if get_origin(hint) in (Union, types.UnionType):
        return None if value is None else _checked(name, get_args(hint)[0], value)
    if get_origin(hint) is tuple and get_args(hint)[-1] is Ellipsis:
        if isinstance(value, (list, tuple)):
            return tuple(_checked(name, get_args(hint)[0], v) for v in value)
        raise InputError(f"`{name}` must be a list of whole numbers; it is {value!r}.")
    if get_origin(hint) is tuple:
        if isinstance(value, (list, tuple)) and len(value) == len(get_args(hint)):
            return tuple(_checked(name, part, v) for part, v in zip(get_args(hint), value, strict=True))
        raise InputError(f"`{name}` must be {len(get_args(hint))} whole numbers; it is {value!r}.")
    if getattr(value, "shape", None) == ():  # a number of NumPy, which this file does without so as to load fast
        value = value.item()
    if isinstance(value, int) and not -_MOST <= value < _MOST:
        raise InputError(f"`{name}` must be below 2⁶³; it has {len(f'{value:x}')} hexadecimal digits.")
    whole_for_float = hint is float and isinstance(value, int) and not isinstance(value, bool)
    if whole_for_float or (isinstance(value, hint) and (hint is bool or not isinstance(value, bool))):
        if hint is float and not abs(value) <= _LARGEST:
            beyond = ", which float32 cannot hold" if math.isfinite(value) else ""
            raise InputError(f"`{name}` must be a finite number; it is {value}{beyond}.")
        return hint(value)
    kind = {bool: "true or false", int: "a whole number", float: "a number"}[hint]
    raise InputError(f"`{name}` must be {kind}; it is {value!r}.")
