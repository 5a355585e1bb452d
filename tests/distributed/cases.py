"""Run the cases of matrix.py in a process of their own, and read what they came to."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import torch

from .matrix import Case, reference_of

ROOT = Path(__file__).parents[2]


def run_cases(folder: Path, cases: Sequence[Case], progress: TextIO | None = None) -> dict[str, Any]:
    """Run what has no result in the folder yet; return the results by id.

    `progress` gets what the runs print. Raises RuntimeError with the end of what was said where a case could
    not be run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "cases.json"
    file.write_text(json.dumps(cases))
    with (folder / "log.txt").open("w") as log:
        done = subprocess.run(
            [sys.executable, "-m", "tests.distributed.pretraining", str(folder), str(file)],
            check=False,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"},
            stdout=progress or log,
            stderr=log,
        )
    if done.returncode:
        raise RuntimeError((folder / "log.txt").read_text()[-4000:])
    return {case["id"]: _result(folder, case) for case in cases}


def _result(folder: Path, case: Case) -> dict[str, Any]:
    """Return a case's result, its first gradient held against the reference's as one vector."""
    found: dict[str, Any] = json.loads((folder / "results" / f"{case['id']}.json").read_text())
    if "from" not in case:
        own, expected = (
            torch.load(folder / "results" / f"{one}.pt", weights_only=True)
            for one in (case["id"], reference_of(case)["id"])
        )
        found["gradient_difference"] = float((own - expected).norm() / expected.norm())
    return found
