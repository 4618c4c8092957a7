"""The fresh process in which one method runs: `python -m benchmarks._child JOB.json OUTCOME.json`."""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import Any

from benchmarks._outcome import Outcome, peak_rss_mb
from benchmarks._results import plain
from sccagn_scale._errors import InputError


def execute(target: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Call `target` ("module:function") and turn its outcome, or its exception, into plain values."""
    try:
        module, function = target.split(":")
        outcome: Outcome = getattr(importlib.import_module(module), function)(**kwargs)
        peak = peak_rss_mb()
        metrics = outcome.score()
    except Exception as error:
        if not isinstance(error, InputError):  # whose sentence says it all
            traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}
    return {
        "seconds": outcome.seconds,
        "metrics": metrics,
        "evidence": outcome.evidence,
        "peak_rss_mb": {case: outcome.peak_rss_mb.get(case, peak) for case in outcome.seconds},
    }


if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps(plain(execute(job["target"], job["kwargs"]))))
