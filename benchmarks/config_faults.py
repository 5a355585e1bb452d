"""Whether `lumbre launch` finds the faults that people make in configs, and how soon.

The configs are those of tests/end_to_end/config_faults.py, which names public threads where each was met.
Each goes through the real command in a process of its own; a line says whether it was refused with the words
that name key, fault and remedy, and after how long. The load average tells how busy the machine was.

    python -m benchmarks.config_faults
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.end_to_end.config_faults import FAULTS, Fault, lay_out

LIMIT_SECONDS = 6.0


def refused(fault: Fault, folder: Path) -> tuple[bool, float, float]:
    """Return whether a config is refused with the right words, its seconds, and those of CPU time."""
    (folder / "broken.yaml").write_text(fault.config)
    start, used = time.perf_counter(), cpu_seconds()
    done = subprocess.run(
        [sys.executable, "-m", "lumbre.cli", "launch", *fault.arguments("broken.yaml")],
        cwd=folder,
        env={**os.environ, **fault.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - used
    told = done.returncode == 2 and "Traceback" not in done.stderr
    return told and all(word in done.stderr for word in fault.says), seconds, cpu


def cpu_seconds() -> float:
    """Return what the children that have ended have used of the processor."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Run every fault once and print a table."""
    times: list[float] = []
    cpu_times: list[float] = []
    found = in_time = 0
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        lay_out(folder)
        for fault in FAULTS:
            is_found, seconds, cpu = refused(fault, folder)
            times.append(seconds)
            cpu_times.append(cpu)
            found += is_found
            in_time += is_found and seconds < LIMIT_SECONDS
            print(
                f"{seconds:5.1f} s  {cpu:4.1f} s of CPU  {'found' if is_found else 'MISSED'}  {fault.name}",
                flush=True,
            )
        left = sorted(one.name for one in folder.iterdir() if one.name in ("runs", "launches", "data"))
    count = len(FAULTS)
    print(f"\n{found} of {count} found, {in_time} of {count} within {LIMIT_SECONDS:g} s")
    print(f"median {statistics.median(times):.1f} s, slowest {max(times):.1f} s")
    print(f"of CPU: median {statistics.median(cpu_times):.1f} s, most {max(cpu_times):.1f} s")
    print(
        f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; left behind: {left or 'nothing'}"
    )


if __name__ == "__main__":
    main()
