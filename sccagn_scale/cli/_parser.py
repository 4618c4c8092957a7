"""Arguments and their help. Imports nothing heavy, so that `--help` comes at once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from sccagn_scale import __version__

PROGRAM = "sccagn-scale"

_DESCRIPTION = """\
Cluster single-cell RNA-seq data with scCAGN: an adversarial autoencoder and a
graph network over the cells' nearest neighbours, joined by cross-attention.
From a count matrix to clusters in one command, from hundreds of cells to
millions."""

_EXAMPLES = """\
examples:
  sccagn-scale cluster cells.h5ad -o clustered.h5ad
  sccagn-scale evaluate clustered.h5ad --truth cell_type
  sccagn-scale simulate -o atlas.h5ad --cells 100000
  sccagn-scale info

`sccagn-scale VERB --help` explains each verb."""

_CLUSTER = """\
Cluster the cells of INPUT and write them, with clusters and embedding, to a
new file.

INPUT is an AnnData file (.h5ad, .zarr), a 10x .h5 file or a 10x folder
(matrix.mtx, features.tsv, barcodes.tsv). It should hold counts; values that
are already log-normalised are recognised, and that is said."""

_CLUSTER_END = """\
written into the AnnData, with the default --key-added:
  obs["sccagn"]             cluster of each cell; missing for cells that fail
                            quality control
  obs["sccagn_confidence"]  how sure the model is of it, 0 to 1
  obsm["X_sccagn"]          embedding
  obsm["X_pca"], obsp["distances"], obsp["connectivities"], uns["neighbors"]
                            as scanpy writes them, so that its tools go on
  uns["sccagn"]             parameters, versions, seed, training history and
                            all that the run decided

examples:
  sccagn-scale cluster cells.h5ad -o clustered.h5ad
  sccagn-scale cluster cells.h5ad -o clustered.h5ad --n-clusters 12 --seed 1
  sccagn-scale cluster cells.h5ad -o clustered.h5ad --layer counts \\
      --plots figures --json run.json
  sccagn-scale cluster cells.h5ad -o clustered.h5ad --batch-key donor
  sccagn-scale cluster 10x_folder/ -o clustered.h5ad --preset paper

Exit code: 0; or 2 after a mistake in the input or an option, with one sentence
on what is wrong, and nothing written."""

_EVALUATE = """\
Compare the clusters in FILE with known cell types. Training never sees the
types; this is a separate step.

Prints NMI (arithmetic), ARI, AMI, completeness, accuracy (clusters paired with
types as favourably as possible), and how many cells of each cluster are of
each type. Cells without a type are left out. Cells without a cluster count as
one cluster of their own, so that refusing cells does not pay."""

_EVALUATE_END = """\
example:
  sccagn-scale evaluate clustered.h5ad --truth cell_type \\
      --json metrics.json --plots figures"""

_SIMULATE = """\
Write a synthetic atlas with known types, block by block: its size is bounded
by the disk and not by memory. The types are in obs["cell_type"].

Without --from, types lie on a tree and counts are negative binomial. With
--from, counts are Poisson draws around mixtures of two real cells of one type,
with real library sizes: as noisy and as sparse as the real data."""

_SIMULATE_END = """\
examples:
  sccagn-scale simulate -o atlas.h5ad --cells 1000000 --genes 20000 --types 30
  sccagn-scale simulate -o like_mine.h5ad --cells 100000 \\
      --from mine.h5ad --label cell_type"""

_INFO = """\
Print versions, the machine, optional parts, and which implementation each
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
    parser.add_argument("input", metavar="INPUT", type=Path, help=".h5ad, .zarr, 10x .h5 or 10x folder")
    parser.add_argument(
        "-o", "--output", metavar="OUT", type=Path, required=True, help="file to write, .h5ad or .zarr; not INPUT"
    )
    model = parser.add_argument_group("what to do")
    model.add_argument(
        "-k",
        "--n-clusters",
        metavar="K",
        type=_n_clusters,
        help="number of clusters, 2 or more, or `auto` to estimate it from the data (default: auto)",
    )
    model.add_argument("--layer", metavar="NAME", help="layer to use, `raw` for .raw (default: X)")
    model.add_argument(
        "--batch-key",
        metavar="COLUMN",
        help="column of obs with batches (donors, runs) to correct for, never types; needs harmonypy (default: none)",
    )
    model.add_argument(
        "--preset",
        choices=["default", "paper"],
        default="default",
        help="`paper` follows the publication, whole graph in one batch, for small data (default: default)",
    )
    model.add_argument("--config", metavar="FILE.toml", type=Path, help="settings that differ from the preset")
    model.add_argument("--seed", metavar="S", type=int, default=0, help="random seed (default: %(default)s)")
    model.add_argument(
        "--device",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="where to train; `auto` takes a GPU when there is one (default: %(default)s)",
    )
    model.add_argument("--threads", metavar="N", type=_threads, help="CPU threads to use (default: all)")
    results = parser.add_argument_group("what to write")
    results.add_argument(
        "--key-added", metavar="NAME", default="sccagn", help="name of the results in OUT (default: %(default)s)"
    )
    results.add_argument("--json", metavar="FILE", type=Path, help="write a machine-readable summary of the run")
    results.add_argument(
        "--plots", metavar="DIR", type=Path, help="write pictures: cells, training, number of clusters"
    )
    results.add_argument("--model", metavar="DIR", type=Path, help="keep the trained model")
    results.add_argument("-q", "--quiet", action="store_true", help="print only errors, and notes about the input")


def _add_evaluate(verbs: Any) -> None:
    summary = "compare clusters with known cell types"
    parser = _add_verb(verbs, "evaluate", _EVALUATE, epilog=_EVALUATE_END, summary=summary)
    parser.add_argument("input", metavar="FILE", type=Path, help="clustered cells, .h5ad or .zarr")
    parser.add_argument("--truth", metavar="COLUMN", required=True, help="column of obs with the known types")
    parser.add_argument(
        "--key", metavar="COLUMN", default="sccagn", help="column of obs with the clusters (default: %(default)s)"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the metrics and the table")
    parser.add_argument("--plots", metavar="DIR", type=Path, help="draw clusters and types side by side")
    parser.add_argument("-q", "--quiet", action="store_true", help="print only errors")


def _add_simulate(verbs: Any) -> None:
    summary = "write a synthetic atlas with known types"
    parser = _add_verb(verbs, "simulate", _SIMULATE, epilog=_SIMULATE_END, summary=summary)
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="file to write, .h5ad")
    parser.add_argument("--cells", metavar="N", type=int, required=True, help="number of cells")
    parser.add_argument("--genes", metavar="G", type=int, help="number of genes (default: 20000, or those of --from)")
    parser.add_argument("--types", metavar="K", type=int, help="number of types (default: 10, or those of --from)")
    parser.add_argument("--from", metavar="REAL", dest="source", type=Path, help="real cells, with counts, to resemble")
    parser.add_argument("--label", metavar="COLUMN", help="column of obs of --from with its types")
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="random seed (default: %(default)s)")
    parser.add_argument("-q", "--quiet", action="store_true", help="print only errors, and notes about the input")


def _add_info(verbs: Any) -> None:
    parser = _add_verb(verbs, "info", _INFO, summary="versions, optional parts and machine, for a bug report")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _n_clusters(text: str) -> int | None:
    if text == "auto":
        return None
    number = _whole(text, "a whole number or `auto`")
    if number < 2:
        raise argparse.ArgumentTypeError(f"at least 2 clusters are needed, got {number}")
    return number


def _threads(text: str) -> int:
    number = _whole(text, "a whole number")
    if number < 1:
        raise argparse.ArgumentTypeError(f"at least 1 thread is needed, got {number}")
    return number


def _whole(text: str, wanted: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{wanted} is needed, got {text!r}") from None
