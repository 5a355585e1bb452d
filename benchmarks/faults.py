"""Many faults at random moments in one run on two ranks: is it, to the bit, the run that had none?

The laboratory is that of tests/faults/. `lumbre launch local` supervises the run and starts it again; after
each fault every checkpoint that has a name is verified, and at the end losses, evaluations and weights are
held against an unbroken run's.

    python -m benchmarks.faults --count 200 --seed 1                 # SIGKILL alone
    python -m benchmarks.faults --count 50 --seed 2 --kinds all      # stops, damage, full disks
"""

import argparse
import math
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.end_to_end.conftest import lay_out_project
from tests.faults.kinds import KILLS, OTHERS
from tests.faults.laboratory import SAVE_EVERY, Verdict, disk_for, endure

ENGINE = ("engine.type=deepspeed", "engine.zero_stage=2")


def show(verdict: Verdict) -> None:
    """Print what was done, what it cost, and what is wrong."""
    moments = Counter(line.partition(",")[0] for line in verdict.struck)
    print(f"faults: {len(verdict.struck)}, while {dict(moments)}")
    print(f"restarts: {verdict.restarts}; damaged checkpoints: {verdict.harmed}; skipped: {verdict.skipped}")
    if verdict.lost:
        mean = sum(verdict.lost) / len(verdict.lost)
        print(f"steps lost: {max(verdict.lost)} at most, {mean:.1f} in the mean; a save every {SAVE_EVERY}")
    for problem in verdict.problems:
        print(f"PROBLEM: {problem}")
    print("verdict: " + ("bad" if verdict.problems else "the run is the unbroken one to the bit"))


def main() -> int:
    """Do it and return 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", choices=["kills", "all"], default="kills")
    parser.add_argument("--minutes", type=float, default=math.inf, help="do no more faults after so many")
    parser.add_argument("options", nargs="*", default=ENGINE, help="overrides of the run's config")
    asked = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        folder = Path(place)
        lay_out_project(folder)
        kinds = KILLS if asked.kinds == "kills" else (*KILLS, *OTHERS)
        verdict = Verdict()
        until = began + 60 * asked.minutes
        with disk_for(folder, kinds) as possible:
            for verdict in endure(
                folder, "run.yaml", possible, asked.count, asked.seed, *asked.options, until=until
            ):
                print(f"{len(verdict.struck):4}  {verdict.struck[-1]}", flush=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    show(verdict)
    print(f"{time.monotonic() - began:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of CPU")
    return 1 if verdict.problems else 0


if __name__ == "__main__":
    sys.exit(main())
