"""Where the helpers of a job meet: files in the run folder, touched only when something is wrong."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lumbre.watchdog.report import Report

FOLDER = ".watchdog"
PATIENCE_SECONDS = 3.0
T = TypeVar("T")


class Exchange:
    """One job's meeting place, seen from one rank. A file system that does not answer is given up."""

    def __init__(self, run_folder: Path, rank: int) -> None:
        self._folder = run_folder / FOLDER
        self._rank = rank
        self.lost = False
        """Whether the file system has stopped answering."""

    def join(self) -> None:
        """Leave a sign that this rank takes part."""
        self._try(lambda: self._here(self._rank).write_text(os.uname().nodename), None)

    def leave(self) -> None:
        """Take the sign away: the rank has come to its own end."""
        self._try(lambda: self._here(self._rank).unlink(missing_ok=True), None)

    def members(self) -> dict[int, str]:
        """Return the hosts of the ranks that take part."""

        def read() -> dict[int, str]:
            return {int(file.name[5:]): file.read_text() for file in self._folder.glob("here-*")}

        return self._try(read, {})

    def is_alarmed(self) -> bool:
        """Whether some helper has found a hang."""
        return self._try((self._folder / "alarm").exists, False)

    def raise_alarm(self) -> None:
        """Ask every helper for a report."""
        self._try((self._folder / "alarm").touch, None)

    def put(self, report: Report) -> None:
        """Hand in this rank's report."""

        def write() -> None:
            working = self._folder / f".report-{self._rank}"
            working.write_text(report.text())
            working.replace(self._folder / f"report-{self._rank}")

        self._try(write, None)

    def reports(self) -> list[Report]:
        """Return the reports that have come."""

        def read() -> list[Report]:
            return [Report.of(file.read_text()) for file in self._folder.glob("report-*")]

        none: list[Report] = []
        return sorted(self._try(read, none), key=lambda report: report.rank)

    def take_the_lead(self) -> bool:
        """Whether this helper is the one that tells; true for one of them alone."""

        def create() -> bool:
            try:
                os.close(os.open(self._folder / "lead", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            except FileExistsError:
                return False
            return True

        return self._try(create, True)

    def decide(self, verdict: str) -> None:
        """Say that everything is told and every rank is to end."""
        self._try(lambda: (self._folder / "verdict").write_text(verdict), None)

    def verdict(self) -> str:
        """Return what was decided, "" before."""
        return self._try(
            lambda: (self._folder / "verdict").read_text() if (self._folder / "verdict").exists() else "", ""
        )

    def _here(self, rank: int) -> Path:
        return self._folder / f"here-{rank}"

    def _try(self, work: Callable[[], T], otherwise: T) -> T:
        if self.lost:
            return otherwise
        try:
            return bounded(work, PATIENCE_SECONDS)
        except TimeoutError:
            self.lost = True
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return otherwise


def open_exchange(run_folder: Path) -> None:
    """Make the meeting place anew; the main rank does, once it holds the run folder."""
    close_exchange(run_folder)
    (run_folder / FOLDER).mkdir()


def close_exchange(run_folder: Path) -> None:
    """Remove the meeting place."""
    shutil.rmtree(run_folder / FOLDER, ignore_errors=True)


def bounded(work: Callable[[], T], seconds: float) -> T:
    """Return what `work` gives; raises TimeoutError where a disk or a pipe keeps it longer than that."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]
