"""Kinds of hang, each planted in a rank of a real run: which rank the watchdog names, why, and how soon.

Seconds are from the beginning of the hang to the block, beside a limit of 10 s for a step and for what else
the run does; 25 s are the most. The last line counts the kinds in which everything was as it should be.

    .venv/bin/python -m benchmarks.hangs [PART OF A KIND ...]
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.end_to_end.conftest import lay_out_project
from tests.faults.hangs import HANGS, provoke

LIMIT_SECONDS = 10.0


def main(kinds: list[str]) -> None:
    """Run every kind that is asked for, and print a line for each."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    wanted = [hang for hang in HANGS if not kinds or any(kind in hang.kind for kind in kinds)]
    right = named = 0
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        lay_out_project(project)
        subprocess.run(
            [sys.executable, "-m", "lumbre.cli", "prepare", "run.yaml"],
            cwd=project,
            check=True,
            capture_output=True,
        )
        for number, hang in enumerate(wanted):
            outcome = provoke(hang, project, number, LIMIT_SECONDS)
            faults = outcome.faults(hang, LIMIT_SECONDS)
            right += not faults
            named += outcome.named == hang.rank and outcome.seconds <= LIMIT_SECONDS + 15.0
            print(
                f"{hang.kind:26} rank {hang.rank}: named {outcome.named} after {outcome.seconds:5.1f} s, "
                f"status {outcome.status}: {outcome.reason[:150]}",
                *(f"\n    {fault}" for fault in faults),
                flush=True,
            )
            if faults and os.environ.get("LUMBRE_SHOW"):
                print(outcome.output[-6000:], flush=True)
    print(f"{named} of {len(wanted)}: the right rank within 15 s of the limit; {right} right in everything")


if __name__ == "__main__":
    main(sys.argv[1:])
