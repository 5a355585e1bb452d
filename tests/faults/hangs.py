"""Kinds of hang, each planted in one rank of a real run, and what the watchdog made of it."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from launch.signals import family_of

PLANTED = Path(__file__).with_name("planted")
TWO_RANKS = ["launch", "local", "processes=2", "threads_per_process=1", "--"]
ONE_RANK = ["launch", "local", "processes=1", "threads_per_process=1", "--"]


@dataclass(frozen=True)
class Hang:
    """One kind of hang and what is to be said of it."""

    kind: str
    rank: int
    words: str
    """What the probable cause says."""
    overrides: tuple[str, ...] = ()
    during: str = "limit_seconds"
    """The key of the watchdog that limits what hangs."""
    processes: int = 2
    status: int = 76


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    status: int
    named: int | None
    reason: str
    seconds: float
    """From the beginning of the hang to the block."""
    left: list[str]
    """Processes that were left when the launcher had ended."""
    blocks: int
    output: str

    def faults(self, hang: Hang, limit: float) -> list[str]:
        """Return what is not as it should be."""
        found = []
        if self.named != hang.rank:
            found.append(f"named rank {self.named}, not {hang.rank}")
        if hang.words not in self.reason:
            found.append(f"cause without {hang.words!r}")
        if not self.seconds <= limit + 15.0:
            found.append(f"took {self.seconds:.1f} s")
        if self.status != hang.status:
            found.append(f"status {self.status}, not {hang.status}")
        if self.left:
            found.append(f"left {self.left}")
        if self.blocks != 1:
            found.append(f"{self.blocks} blocks")
        return found


HANGS = [
    Hang("stopped in a step", 0, "stopped by a signal"),
    Hang("stopped in a step", 1, "stopped by a signal"),
    Hang("stopped in a save", 0, "stopped by a signal", during="allowance_seconds"),
    Hang("stopped in an evaluation", 1, "stopped by a signal", during="allowance_seconds"),
    Hang("endless loop", 1, "endless loop"),
    Hang("sleep in the loader", 0, "gets no data"),
    Hang("loader process stuck", 1, "gets no data: loader process", ("data.loader_workers=1",)),
    Hang("loader process stopped", 0, "stopped by a signal", ("data.loader_workers=1",)),
    Hang("lock held", 1, "lock"),
    Hang("interpreter held in C", 0, "GIL"),
    Hang("collective skipped", 1, "collective"),
    Hang("collective too many", 1, "collective"),
    Hang("shapes do not match", 1, "collective"),
    Hang("blocked write", 0, "blocked in a write", ("train.log_every=1",)),
    Hang("blocked open", 1, "opening a file", during="allowance_seconds"),
    Hang("tracker retries", 0, "while logging"),
    Hang("silent death", 1, "ended without a word", status=1),
    Hang("killed", 0, "ended without a word", status=137),
    Hang("crash in C", 1, "crashed", status=139),
    Hang("child waited for", 1, "waits for a process that it has started"),
    Hang("slow rank", 1, "stopped by a signal"),
    Hang("hook in backward", 1, "while running backward"),
    Hang("optimizer step", 0, "while updating the weights"),
    Hang("export", 0, "while exporting", during="allowance_seconds"),
    Hang("at exit", 0, "while ending", during="allowance_seconds", processes=1, status=0),
    Hang("rendezvous", 1, "did not come", during="rendezvous_seconds"),
    Hang("compilation lock", 1, "lock", during="start_seconds"),
]


def provoke(hang: Hang, folder: Path, number: int, limit: float) -> Outcome:
    """Run a training in which the hang is planted; the folder has run.yaml and its prepared data."""
    name = f"hang-{number:02d}"
    note = folder / f"{name}.began"
    patience = {"limit_seconds": limit, hang.during: limit}
    environment = {
        **os.environ,
        "PYTHONPATH": str(PLANTED),
        "LUMBRE_HANG": hang.kind,
        "LUMBRE_HANG_RANK": str(hang.rank),
        "LUMBRE_HANG_NOTE": str(note),
        "TORCH_EXTENSIONS_DIR": str(folder / f"{name}.extensions"),
    }
    ranks = TWO_RANKS if hang.processes == 2 else ONE_RANK
    words = [*ranks, "pretrain", "run.yaml", f"name={name}", f"train.watchdog={json.dumps(patience)}"]
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        job = subprocess.Popen(
            [sys.executable, "-m", "lumbre.cli", *words, *hang.overrides],
            cwd=folder,
            env=environment,
            stdout=out,
            stderr=out,
        )
        family: set[int] = set()
        latest = time.monotonic() + 150 + limit
        while job.poll() is None and time.monotonic() < latest:
            family |= set(family_of(job.pid))
            time.sleep(0.3)
        if job.poll() is None:
            for pid in family_of(job.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            job.wait()
    time.sleep(1.0)
    left = [command for pid in family if (command := _command(pid, folder))]
    try:
        record = json.loads((folder / "runs" / name / "exit.json").read_text())
    except (OSError, ValueError):
        record = {"rank": None, "reason": "", "time": float("nan")}
    accounts = sorted((folder / "runs" / name / "watchdog").glob("*.txt"))
    if accounts and record.get("status") == 0:
        # A run that is done stays done where its process does not end.
        told = accounts[0].read_text()
        line = next(line for line in told.splitlines() if line.startswith("watchdog: "))
        rank = int(line.partition(": rank ")[2].split()[0])
        record = {"rank": rank, "reason": line, "time": accounts[0].stat().st_mtime}
    elif record.get("status") == 0:
        record["rank"] = None
    began = float(note.read_text()) if note.exists() else float("nan")
    output = log.read_text(errors="replace")
    blocks = [line for line in output.splitlines() if line.startswith(("watchdog: the run", "error: "))]
    return Outcome(
        job.returncode,
        record["rank"],
        record["reason"],
        record["time"] - began,
        left,
        len(blocks),
        output,
    )


def _command(pid: int, folder: Path) -> str:
    """Return the command line of a process that is still there and works in the folder."""
    with suppress(OSError):
        if Path(f"/proc/{pid}/cwd").resolve(strict=True) == folder.resolve():
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""
