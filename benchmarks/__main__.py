"""`python -m benchmarks NAME [--quick] [--json FILE]`: one runner for all benchmarks."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks._choice import check_whole
from benchmarks._results import RESULTS
from benchmarks._session import Session
from sccagn_scale._errors import InputError

# Name → module with `add_arguments(parser)` and `run(arguments, session)`; its docstring's first line is the help.
BENCHMARKS = {
    "ablation": "benchmarks.ablation",
    "accuracy": "benchmarks.accuracy",
    "atlas": "benchmarks.atlas",
    "epoch": "benchmarks.epoch",
    "kernels": "benchmarks.kernels",
    "knn": "benchmarks.knn",
    "loaders": "benchmarks.loaders",
    "pipeline": "benchmarks.pipeline",
    "scale": "benchmarks.scale",
    "sparse": "benchmarks.sparse",
    "store": "benchmarks.store",
    "transfer": "benchmarks.transfer",
}
# Arguments that change nothing in what is measured.
NOT_MEASURED = ("benchmark", "json", "resume", "run")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark that the arguments name; 0, 2 for a request that cannot be met, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    asked_by: dict[str, argparse.ArgumentParser] = {}
    verbs = parser.add_subparsers(dest="benchmark", required=True, metavar="NAME")
    for name, home in BENCHMARKS.items():
        module = importlib.import_module(home)
        summary = (module.__doc__ or "").splitlines()[0]
        verb = verbs.add_parser(name, help=summary, description=summary)
        verb.add_argument("--quick", action="store_true", help="small and short: shows that it works, proves nothing")
        verb.add_argument("--json", type=Path, metavar="FILE", help="result file (default: benchmarks/results/NAME.json"
                          ", NAME_cuda.json with --device cuda, none with --quick; for parts, name one)")  # fmt: skip
        verb.add_argument("--resume", action="store_true", help="take up the rows of an interrupted run")
        module.add_arguments(verb)
        verb.set_defaults(run=module.run)
        asked_by[name] = verb
    arguments = parser.parse_args(argv)
    on_gpu = getattr(arguments, "device", "cpu") == "cuda"
    default = None if arguments.quick else RESULTS / f"{arguments.benchmark}{'_cuda' if on_gpu else ''}.json"
    measured = {name: value for name, value in vars(arguments).items() if name not in NOT_MEASURED}
    path = arguments.json or default
    try:
        if path is not None and arguments.json is None:
            usual = {name: asked_by[arguments.benchmark].get_default(name) for name in measured}
            check_whole(measured, usual, path)
        session = Session(arguments.benchmark, path=path, arguments=measured, resume=arguments.resume)
        arguments.run(arguments, session)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = "nothing is kept" if path is None else "the same command with --resume goes on from here"
        print(f"interrupted; {goes_on}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
