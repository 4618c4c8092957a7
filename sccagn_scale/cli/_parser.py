"""Arguments of each verb. Imports nothing heavy, so that `--help` comes at once."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any, NoReturn, get_args

from sccagn_scale import __version__
from sccagn_scale.cli import _help
from sccagn_scale.config import Device, Preset

PROGRAM = "sccagn-scale"

_MOST_THREADS = 65_536


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line rather than under the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{PROGRAM}: error: {message} (see `{self.prog} --help`)\n")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; the chosen verb is in `verb`, None without one."""
    parser = _Parser(
        PROGRAM,
        description=_help.DESCRIPTION,
        epilog=_help.EXAMPLES,
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
    parser = _add_verb(verbs, "cluster", _help.CLUSTER, epilog=_help.CLUSTER_END, summary="cluster the cells of a file")
    _add_input(parser)
    _add_where(parser, "INPUT")
    model = parser.add_argument_group("what to do")
    _add_n_clusters(model)
    _add_layer(model)
    _add_batch_key(model)
    _add_settings(model)
    _add_seed(model)
    _add_device(model)
    _add_threads(model)
    _add_limits(parser)
    results = _add_results(parser, "cells, training, number of clusters")
    results.add_argument("--model", metavar="DIR", type=_path, help="folder to keep the trained model in, for `assign`")


def _add_assign(verbs: Any) -> None:
    summary = "assign other cells to the clusters of a kept model"
    parser = _add_verb(verbs, "assign", _help.ASSIGN, epilog=_help.ASSIGN_END, summary=summary)
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
    _add_results_only(results)
    results.add_argument("--json", metavar="FILE", type=_path, help="write a machine-readable summary of the run")
    results.add_argument(
        "--plots", metavar="DIR", type=_path, help=f"folder for pictures, in place of an earlier run's: {pictures}"
    )
    _add_quiet(results)
    return results


def _add_results_only(group: Any) -> None:
    group.add_argument("--results-only", action="store_true", help="leave X, layers and raw out, for a small OUT")


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


def _add_seed(group: Any) -> None:
    group.add_argument("--seed", metavar="S", type=int, default=0, help="random seed (default: %(default)s)")


def _add_quiet(group: Any) -> None:
    group.add_argument("-q", "--quiet", action="store_true", help="print only errors and notes")


def _add_memory(group: Any) -> None:
    group.add_argument(
        "--memory",
        metavar="SIZE",
        type=_size,
        help="memory that the run may use, such as 4G or 800M (default: 70 %% of what is free)",
    )


def _add_recluster(verbs: Any) -> None:
    summary = "split or merge clusters without training"
    parser = _add_verb(verbs, "recluster", _help.RECLUSTER, epilog=_help.RECLUSTER_END, summary=summary)
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
    _add_seed(parser)
    parser.add_argument("--json", metavar="FILE", type=_path, help="write what became of each cluster")
    _add_quiet(parser)


def _add_plan(verbs: Any) -> None:
    summary = "predict what `cluster` will need: memory, disk, time"
    parser = _add_verb(verbs, "plan", _help.PLAN, epilog=_help.PLAN_END, summary=summary)
    _add_input(parser)
    _add_n_clusters(parser)
    _add_layer(parser)
    _add_batch_key(parser)
    _add_settings(parser)
    _add_device(parser)
    _add_threads(parser)
    _add_memory(parser)
    parser.add_argument(
        "-o", "--output", metavar="OUT", type=_path, help="what `cluster` will write (default: a file beside INPUT)"
    )
    _add_results_only(parser)
    parser.add_argument("--json", metavar="FILE", type=_path, help="write the plan as JSON")
    _add_quiet(parser)


def _add_evaluate(verbs: Any) -> None:
    summary = "compare clusters with known cell types"
    parser = _add_verb(verbs, "evaluate", _help.EVALUATE, epilog=_help.EVALUATE_END, summary=summary)
    parser.add_argument("input", metavar="FILE", type=_path, help="clustered cells, .h5ad or .zarr")
    parser.add_argument("--truth", metavar="COLUMN", required=True, help="column of obs with the known types")
    parser.add_argument(
        "--key", metavar="COLUMN", default="sccagn", help="column of obs with the clusters (default: %(default)s)"
    )
    parser.add_argument("--json", metavar="FILE", type=_path, help="write the metrics and the table")
    parser.add_argument("--plots", metavar="DIR", type=_path, help="draw clusters and types side by side")
    _add_quiet(parser)


def _add_simulate(verbs: Any) -> None:
    summary = "write a synthetic atlas with known types"
    parser = _add_verb(verbs, "simulate", _help.SIMULATE, epilog=_help.SIMULATE_END, summary=summary)
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
    _add_seed(parser)
    _add_quiet(parser)


def _add_info(verbs: Any) -> None:
    parser = _add_verb(verbs, "info", _help.INFO, summary="show versions, optional parts and machine, for a bug report")
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
