"""Which parts of the network, the losses and the start matter: a preset with one thing changed, for every thing."""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial
from pathlib import Path
from typing import cast, get_args

from benchmarks import _ablation_report
from benchmarks._choice import chosen, chosen_files, chosen_seeds, names
from benchmarks._contest import Contest, Method
from benchmarks._methods import Clustering, ours
from benchmarks._outcome import Outcome
from benchmarks._session import Session
from benchmarks._variants import VARIANTS
from benchmarks.accuracy import cluster_set
from sccagn_scale.config import Config, Preset

PRESETS: tuple[Preset, ...] = get_args(Preset)
COLUMNS = ("nmi", "ari", "cross_seed_ari")
QUICK_VARIANTS = ("as it is", "no attention", "Ward")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `ablation` can be asked for."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help='folder of .h5ad with obs["cell_type"]')
    parser.add_argument("--sets", type=names, metavar="A,B", help="file names without .h5ad (default: all)")
    parser.add_argument("--presets", type=names, metavar="A,B", help="default, paper (default: both)")
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds 0 … N-1 (default: 5; quick: 1)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="sets at a time; above 1, times are shared")


def run(arguments: argparse.Namespace, session: Session) -> None:
    """Run every variant of the presets on every set, number of clusters given, and lay table and figure beside."""
    presets = cast(list[Preset], chosen("presets", arguments.presets, list(PRESETS)))
    variants = list(QUICK_VARIANTS if arguments.quick else VARIANTS)
    n_seeds = chosen_seeds(arguments.seeds, 1 if arguments.quick else 5)
    contests = [
        Contest(
            f"{path.stem}/{preset}",
            tuple(
                Method(
                    variant,
                    "benchmarks.ablation:measure",
                    {
                        "path": str(path),
                        "preset": preset,
                        "variant": variant,
                        "n_seeds": n_seeds,
                    },
                )
                for variant in variants
                if not VARIANTS[variant] or changed(preset, variant) != Config.preset(preset)
            ),
        )
        for preset in presets
        for path in chosen_files(arguments)
    ]
    rows = session.run(contests, jobs=arguments.jobs)
    session.finish(rows, columns=COLUMNS, mean_of=lambda case: case.rpartition("/")[2])
    if rows and session.path is not None:
        _ablation_report.write(rows, beside=session.path)


def changed(preset: Preset, variant: str) -> Config:
    """The preset with what the variant changes."""
    return dataclasses.replace(Config.preset(preset), **VARIANTS[variant])


def measure(path: str, preset: Preset, variant: str, n_seeds: int) -> Outcome:
    """Target: one variant on one set, once per seed; see `benchmarks.accuracy.run_seeds`."""
    clustering = Clustering(partial(ours, preset=preset, changes=VARIANTS[variant]), ("given",), is_ours=True)
    outcome = cluster_set(Path(path), clustering, "given", n_seeds)
    case = f"{Path(path).stem}/{preset}"
    return Outcome(
        {case: next(iter(outcome.seconds.values()))},
        lambda: {case: next(iter(outcome.score().values()))},
        outcome.evidence,
    )
