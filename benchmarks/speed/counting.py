"""Instructions of training steps, counted by Valgrind: the same on a busy machine as on an idle one."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.speed.contenders import Session, Setting

TOOLS = ("valgrind", "vgdb")
ENVIRONMENT = {
    # Valgrind computes fused multiply-adds one by one, which takes a hundred times as long.
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "ATEN_CPU_CAPABILITY": "default",
    # The order of sets decides how often tables of them collide.
    "PYTHONHASHSEED": "0",
}


def lacking() -> list[str]:
    """Return what of the tools is not installed."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def count(name: str, setting: Setting, given: Mapping[str, Any], folder: Path, steps: int) -> float:
    """Return a contender's user-space instructions a token over so many steps, its start left out.

    Raises RuntimeError where the process or the instrument fails.
    """
    out = folder / f"{name}.callgrind"
    instrument = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
    under = ["env", *(f"{key}={value}" for key, value in ENVIRONMENT.items()), *instrument, "--quiet"]
    session = Session(name, setting, given, folder, under=under)
    try:
        session.run(1, products=False)
        _tell(session, "instrumentation", "on")
        # The second step makes what is made once and kept.
        session.run(1, products=False)
        _tell(session, "zero")
        tokens = sum(session.run(steps, products=False)["tokens"])
        _tell(session, "dump")
    finally:
        session.close()
    return total(out.with_name(f"{out.name}.1").read_text(encoding="utf-8")) / tokens


def total(profile: str) -> int:
    """Return the instructions of a file of Callgrind's."""
    (line,) = (line for line in profile.splitlines() if line.startswith("totals:"))
    return int(line.split()[1])


def _tell(session: Session, *command: str) -> None:
    told = subprocess.run(
        ["vgdb", f"--pid={session.process_id}", *command],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if told.returncode:
        raise RuntimeError(f"vgdb {' '.join(command)}: {told.stderr.strip()}")
