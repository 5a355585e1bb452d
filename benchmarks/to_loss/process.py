"""Processes of both sides, timed from their start, with caches of their own that are empty."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = sys.executable
LUMBRE = (PYTHON, "-m", "lumbre.cli")


@dataclass(frozen=True)
class Ran:
    """A process that has ended well."""

    began: float
    """The time of day at its start."""
    seconds: float
    """From its start to its exit."""
    lines: list[tuple[float, str]]
    """What it printed, each line with the seconds since the start."""


def run(command: Sequence[str], folder: Path, threads: int) -> Ran:
    """Run a command in a folder; raises RuntimeError with the end of what it printed where it fails."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        # As `lumbre` has it: threads that spin long starve each other.
        "GOMP_SPINCOUNT": "10000",
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "TRITON_CACHE_DIR": str(folder / "triton"),
    }
    began, start = time.time(), time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [(time.perf_counter() - start, line.rstrip("\n")) for line in process.stdout]
    seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError("\n".join([" ".join(command), *(line for _, line in lines[-40:])]))
    return Ran(began, seconds, lines)
