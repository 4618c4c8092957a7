"""Arguments and their help. Imports nothing heavy, so that `--help` comes at once."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any, NoReturn, get_args

from sccagn_scale import __version__
from sccagn_scale.config import Device, Preset

PROGRAM = "sccagn-scale"

_MOST_THREADS = 65_536

_DESCRIPTION = """\
Cluster single-cell RNA-seq data, from a count matrix to clusters in one
command, for hundreds of cells to millions. The method is scCAGN: an adversarial
autoencoder and a graph network over the cells' nearest neighbours, joined by
cross-attention."""

_EXAMPLES = """\
examples:
  sccagn-scale cluster cells.h5ad -o clustered.h5ad
  sccagn-scale evaluate clustered.h5ad --truth cell_type
  sccagn-scale assign more.h5ad --model model/ -o assigned.h5ad
  sccagn-scale recluster clustered.h5ad --inplace --factor 2
  sccagn-scale plan atlas.h5ad --memory 8G
  sccagn-scale simulate -o atlas.h5ad --cells 100000
  sccagn-scale info

`sccagn-scale VERB --help` explains each verb."""

_CLUSTER = """\
Cluster the cells of INPUT and write them, with clusters and embedding, to a
new file.

INPUT is an AnnData file (.h5ad, .zarr), a 10x .h5 file or a 10x folder
(matrix.mtx, features.tsv, barcodes.tsv). It should hold counts; values that are
already log-normalised are recognised, and you are told.

Several files, or a folder of them, are treated as one atlas: it has the genes
that all files share, and obs["file"] says which file a cell is from. OUT then
has X but no layers or raw.

X is never loaded whole. A run that would take more than --memory keeps its
large arrays on disk; `sccagn-scale plan` tells you beforehand."""

_CLUSTER_END = """\
written into the AnnData, with the default --key-added:
  obs["sccagn"]             cluster of each cell; missing for cells that fail
                            quality control
  obs["sccagn_confidence"]  how sure the model is of the cluster, 0 to 1
  obsm["X_sccagn"]          embedding
  obsm["X_pca"], obsp["distances"], obsp["connectivities"], uns["neighbors"]
                            as scanpy writes them, so its tools can use them
  uns["sccagn"]             parameters, versions, seed, training history and
                            what speaks for the number of clusters

examples:
  sccagn-scale cluster cells.h5ad -o clustered.h5ad
  sccagn-scale cluster cells.h5ad -o clustered.h5ad --n-clusters 12 --seed 1
  sccagn-scale cluster cells.h5ad -o clustered.h5ad --layer counts \\
      --plots figures --json run.json
  sccagn-scale cluster cells.h5ad -o clustered.h5ad --batch-key donor
  sccagn-scale cluster atlas.h5ad --inplace --memory 8G --store scratch/
  sccagn-scale cluster lung.h5ad liver.h5ad -o both.h5ad --batch-key file
  sccagn-scale cluster 10x_folder/ -o clustered.h5ad --preset paper

Exit code: 0 on success; 2 after a mistake in the input or an option, with one
sentence on what is wrong, and nothing written. If INPUT is changed by others
during the run, it ends the same way, but its results are kept, without X."""

_ASSIGN = """\
Assign the cells of INPUT to the clusters of a model kept by `cluster --model`,
without training. Cells of another sample or a later day get the same clusters,
with the same names.

INPUT is as in `cluster`, and must have the genes that the model knows. It is
preprocessed as the model's cells were. Every cell gets a cluster, even one
unlike all that the model has seen: look at the confidence."""

_ASSIGN_END = """\
written into the AnnData: the same as `cluster` writes, see its help

example:
  sccagn-scale cluster monday.h5ad -o clustered.h5ad --model model/
  sccagn-scale assign tuesday.h5ad --model model/ -o assigned.h5ad"""

_RECLUSTER = """\
Split or merge the clusters that `cluster` found, without training. It takes
seconds and does not read X.

New clusters are parts or unions of the existing ones. Clusters that stay keep
their names; a union of 1 and 4 is called 1+4, and parts of 3 are called 3,0,
3,1, and so on."""

_RECLUSTER_END = """\
added to the AnnData (here for 20 clusters):
  obs["sccagn_k20"]             cluster of each cell
  obs["sccagn_k20_confidence"]  soft assignment of the cell to its cluster

examples:
  sccagn-scale recluster clustered.h5ad --inplace --n-clusters 20
  sccagn-scale recluster clustered.h5ad -o fine.h5ad --factor 2 \\
      --key-added fine"""

_PLAN = """\
Predict what `cluster` will need for INPUT, stage by stage, before any work:
memory, disk and time, and whether it fits. Nothing is written.

Memory and disk follow from the sizes of the arrays. Time is measured on 25,000
of the cells and extrapolated to all of them, stage by stage. If you will give
`cluster` the number of clusters or --batch-key, give it here too: such a run
takes longer and more memory."""

_PLAN_END = """\
examples:
  sccagn-scale plan atlas.h5ad
  sccagn-scale plan atlas.h5ad --n-clusters 20
  sccagn-scale plan atlas.h5ad --memory 8G --json plan.json"""

_EVALUATE = """\
Compare the clusters in FILE with known cell types. This is a separate step:
training never sees the types.

Prints NMI (arithmetic), ARI, AMI, completeness and accuracy (with the best
one-to-one pairing of clusters and types), and how many cells of each type each
cluster has. Cells without a type are left out. Cells without a cluster count
as one more cluster, so that leaving cells out does not pay."""

_EVALUATE_END = """\
example:
  sccagn-scale evaluate clustered.h5ad --truth cell_type \\
      --json metrics.json --plots figures"""

_SIMULATE = """\
Write a synthetic atlas with known types, block by block: its size is limited by
the disk, not by memory. The types are in obs["cell_type"].

Without --from, types lie on a tree and counts are negative binomial. With
--from, counts are Poisson draws around mixtures of two real cells of one type,
with real library sizes; about a fifth fewer genes are detected in a cell than
in the real data."""

_SIMULATE_END = """\
examples:
  sccagn-scale simulate -o atlas.h5ad --cells 1000000 --genes 20000 --types 30
  sccagn-scale simulate -o like_mine.h5ad --cells 100000 \\
      --from mine.h5ad --label cell_type"""

_INFO = """\
Print versions, the machine, optional parts, and the implementation that each
operator will use: what a bug report needs."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line rather than under the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{PROGRAM}: error: {message} (see `{self.prog} --help`)\n")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; the chosen verb is in `verb`, None without one."""
    parser = _Parser(
        PROGRAM,
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    verbs = parser.add_subparsers(dest="verb", title="verbs", metavar="VERB", parser_class=_Parser)
    _add_cluster(verbs)
    _add_assign(verbs)
    _add_recluster(verbs)
    _add_plan(verbs)
    _add_evaluate(verbs)
    _add_simulate(verbs)
    _add_info(verbs)
    return parser


def _add_verb(verbs: Any, name: str, description: str, *, epilog: str = "", summary: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=summary,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # an abbreviation would change its meaning when another option comes
    )
    return parser


def _add_cluster(verbs: Any) -> None:
    parser = _add_verb(verbs, "cluster", _CLUSTER, epilog=_CLUSTER_END, summary="cluster the cells of a file")
    _add_input(parser)
    _add_where(parser, "INPUT")
    model = parser.add_argument_group("what to do")
    _add_n_clusters(model)
    _add_layer(model)
    _add_batch_key(model)
    _add_settings(model)
    model.add_argument("--seed", metavar="S", type=int, default=0, help="random seed (default: %(default)s)")
    _add_device(model)
    _add_threads(model)
    _add_limits(parser)
    results = _add_results(parser, "cells, training, number of clusters")
    results.add_argument("--model", metavar="DIR", type=_path, help="folder to keep the trained model in, for `assign`")


def _add_assign(verbs: Any) -> None:
    summary = "assign other cells to the clusters of a kept model"
    parser = _add_verb(verbs, "assign", _ASSIGN, epilog=_ASSIGN_END, summary=summary)
    _add_input(parser)
    parser.add_argument("--model", metavar="DIR", type=_path, required=True, help="folder written by `cluster --model`")
    _add_where(parser, "INPUT")
    how = parser.add_argument_group("what to do")
    _add_layer(how)
    _add_device(how)
    _add_threads(how)
    _add_limits(parser)
    _add_results(parser, "cells")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("where the work is done")
    _add_memory(limits)
    limits.add_argument(
        "--store",
        metavar="DIR",
        type=_path,
        help="folder for large arrays; keeps the counts, so that the next run on the same input need not read it "
        "(default: a temporary folder beside OUT, only if needed)",
    )
    limits.add_argument(
        "--dask",
        metavar="SCHEDULER",
        help="preprocess on a Dask cluster: its address, or `local` to start one here (default: no cluster)",
    )


def _add_results(parser: argparse.ArgumentParser, pictures: str) -> Any:
    results = parser.add_argument_group("what to write")
    results.add_argument(
        "--key-added", metavar="NAME", default="sccagn", help="name of the results in OUT (default: %(default)s)"
    )
    results.add_argument("--results-only", action="store_true", help="leave X, layers and raw out, for a small OUT")
    results.add_argument("--json", metavar="FILE", type=_path, help="write a machine-readable summary of the run")
    results.add_argument(
        "--plots", metavar="DIR", type=_path, help=f"folder for pictures, in place of an earlier run's: {pictures}"
    )
    results.add_argument("-q", "--quiet", action="store_true", help="print only errors, and notes about the input")
    return results


def _add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input", metavar="INPUT", type=_path, nargs="+", help=".h5ad, .zarr, 10x .h5, 10x folder, or a folder of these"
    )


def _add_where(parser: argparse.ArgumentParser, name: str) -> None:
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("-o", "--output", metavar="OUT", type=_path, help=f"file to write, .h5ad or .zarr; not {name}")
    where.add_argument(
        "--inplace", action="store_true", help=f"add the results to {name} itself (one file; a crash leaves it whole)"
    )


def _add_layer(group: Any) -> None:
    group.add_argument("--layer", metavar="NAME", help="layer to use, `raw` for .raw (default: X)")


def _add_batch_key(group: Any) -> None:
    group.add_argument(
        "--batch-key",
        metavar="COLUMN",
        help="column of obs with batches (donors, runs) to correct for, never types; needs harmonypy (default: none)",
    )


def _add_settings(group: Any) -> None:
    group.add_argument(
        "--preset",
        choices=get_args(Preset),
        default="default",
        help="`paper` follows the publication; for small data, as the whole graph is one batch (default: default)",
    )
    group.add_argument("--config", metavar="FILE.toml", type=_path, help="file of settings that differ from the preset")
    group.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="one such setting, such as n_neighbors=30; may be repeated (list: `python -m pydoc sccagn_scale.Config`)",
    )


def _add_device(group: Any) -> None:
    group.add_argument(
        "--device",
        choices=get_args(Device),
        default="auto",
        help="where to compute; `auto` uses a GPU if there is one (default: %(default)s)",
    )


def _add_threads(group: Any) -> None:
    group.add_argument("--threads", metavar="N", type=_threads, help="CPU threads to use (default: all)")


def _add_memory(group: Any) -> None:
    group.add_argument(
        "--memory",
        metavar="SIZE",
        type=_size,
        help="memory that the run may use, such as 4G or 800M (default: 70 %% of what is free)",
    )


def _add_recluster(verbs: Any) -> None:
    summary = "split or merge clusters without training"
    parser = _add_verb(verbs, "recluster", _RECLUSTER, epilog=_RECLUSTER_END, summary=summary)
    parser.add_argument("input", metavar="FILE", type=_path, help="clustered cells, .h5ad or .zarr")
    _add_where(parser, "FILE")
    how_many = parser.add_mutually_exclusive_group(required=True)
    how_many.add_argument("-k", "--n-clusters", metavar="K", type=_more_than_one, help="number of clusters, 2 or more")
    how_many.add_argument(
        "--factor", metavar="F", type=float, help="multiple of the present number: 2 doubles it, 0.5 halves it"
    )
    parser.add_argument("--key", metavar="NAME", default="sccagn", help="results to start from (default: %(default)s)")
    parser.add_argument(
        "--key-added", metavar="NAME", help="name of the new results (default: that of --key, then _kK)"
    )
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="random seed (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", type=_path, help="write what became of each cluster")
    parser.add_argument("-q", "--quiet", action="store_true", help="print only errors")


def _add_plan(verbs: Any) -> None:
    summary = "predict what `cluster` will need: memory, disk, time"
    parser = _add_verb(verbs, "plan", _PLAN, epilog=_PLAN_END, summary=summary)
    _add_input(parser)
    _add_n_clusters(parser)
    _add_layer(parser)
    _add_batch_key(parser)
    _add_settings(parser)
    _add_device(parser)
    _add_threads(parser)
    _add_memory(parser)
    parser.add_argument("--json", metavar="FILE", type=_path, help="write the plan as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="print only errors, and notes about the input")


def _add_evaluate(verbs: Any) -> None:
    summary = "compare clusters with known cell types"
    parser = _add_verb(verbs, "evaluate", _EVALUATE, epilog=_EVALUATE_END, summary=summary)
    parser.add_argument("input", metavar="FILE", type=_path, help="clustered cells, .h5ad or .zarr")
    parser.add_argument("--truth", metavar="COLUMN", required=True, help="column of obs with the known types")
    parser.add_argument(
        "--key", metavar="COLUMN", default="sccagn", help="column of obs with the clusters (default: %(default)s)"
    )
    parser.add_argument("--json", metavar="FILE", type=_path, help="write the metrics and the table")
    parser.add_argument("--plots", metavar="DIR", type=_path, help="draw clusters and types side by side")
    parser.add_argument("-q", "--quiet", action="store_true", help="print only errors")


def _add_simulate(verbs: Any) -> None:
    summary = "write a synthetic atlas with known types"
    parser = _add_verb(verbs, "simulate", _SIMULATE, epilog=_SIMULATE_END, summary=summary)
    parser.add_argument("-o", "--output", metavar="FILE", type=_path, required=True, help="file to write, .h5ad")
    parser.add_argument("--cells", metavar="N", type=int, required=True, help="number of cells")
    parser.add_argument("--genes", metavar="G", type=int, help="number of genes (default: 20000, or those of --from)")
    parser.add_argument("--types", metavar="K", type=int, help="number of types (default: 10, or those of --from)")
    parser.add_argument(
        "--counts", metavar="UMIS", type=float, help="median counts per cell (default: 3000, or those of --from)"
    )
    parser.add_argument(
        "--from", metavar="REAL", dest="source", type=_path, help="file with counts of real cells to resemble"
    )
    parser.add_argument("--label", metavar="COLUMN", help="column of obs with the types of --from")
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="random seed (default: %(default)s)")
    parser.add_argument("-q", "--quiet", action="store_true", help="print only errors, and notes about the input")


def _add_info(verbs: Any) -> None:
    parser = _add_verb(verbs, "info", _INFO, summary="show versions, optional parts and machine, for a bug report")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_n_clusters(parser: Any) -> None:
    parser.add_argument(
        "-k",
        "--n-clusters",
        metavar="K",
        type=_n_clusters,
        help="number of clusters, 2 or more, or `auto` to estimate it from the data (default: auto)",
    )


def _n_clusters(text: str) -> int | None:
    if text == "auto":
        return None
    return _more_than_one(text, "a whole number or `auto`")


def _more_than_one(text: str, wanted: str = "a whole number") -> int:
    number = _whole(text, wanted)
    if number < 2:
        raise argparse.ArgumentTypeError(f"at least 2 clusters are needed, got {number}")
    return number


def _threads(text: str) -> int:
    number = _whole(text, "a whole number")
    if not 1 <= number <= _MOST_THREADS:
        raise argparse.ArgumentTypeError(f"1 to {_MOST_THREADS:,} threads are needed, got {number}")
    return number


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("a path is needed, got ''")
    return Path(text)


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"a size such as 4G or 800M is needed, got {text!r}")
    number, unit, binary = match.groups()
    size = float(number) * (1024 if binary else 1000) ** " KMGT".index(unit.upper() or " ")
    if not 1000 <= size < 2**63:
        raise argparse.ArgumentTypeError(f"a size such as 4G or 800M is needed, got {text!r}, {size:,.0f} bytes")
    return int(size)


def _whole(text: str, wanted: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{wanted} is needed, got {text!r}") from None
