"""The helper: a small process beside each rank that notices a hang, explains it and ends the rank.

It needs nothing of its rank: not its interpreter, not its threads, not its network.
"""

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lumbre.errors import ExitStatus
from lumbre.exit_record import record_early_failure, record_failure
from lumbre.watchdog import process
from lumbre.watchdog.block import Verdict
from lumbre.watchdog.board import Board
from lumbre.watchdog.evidence import Standstill, Subject
from lumbre.watchdog.exchange import Exchange, bounded
from lumbre.watchdog.messages import END, LENGTH, MOVES, STALLED
from lumbre.watchdog.report import Report

LOOKS = 40.0
"""Looks in the time that is a hang."""
SHORTEST_LOOK, LONGEST_LOOK = 0.1, 1.0
OTHERS_SECONDS = 5.0
"""How long reports of other ranks are waited for."""
LEAD_SECONDS = 7.0
"""After how long another helper tells, where the one that found the hang has not."""
LAST_SECONDS = 12.0
"""After how long a rank is ended without a verdict."""
WORDS_SECONDS = 2.5
"""How long a rank may take to end itself."""
FOLDER = "watchdog"


class Helper:
    """Looks after one rank until it ends."""

    def __init__(self, subject: Subject, line: socket.socket, size: int, folder: Path) -> None:
        self._subject = subject
        self._line = line
        self._size = size
        self._folder = folder
        self._exchange = Exchange(folder, subject.rank)
        self._joined = False
        self._told = False
        self._ended = _end_of(subject.pid)
        self._stood = self._standstill()

    def work(self) -> None:
        """Watch until the rank ends; end it where it hangs."""
        latest = time.monotonic()
        while True:
            look = min(max(self._stood.note.limit / LOOKS, SHORTEST_LOOK), LONGEST_LOOK)
            if self._gone(look):
                break
            now = time.monotonic()
            # Time in which this process was itself stopped or starved is nobody's hang.
            self._observe(min(now - latest, 2 * look))
            latest = now
            if self._subject.board.claimed != self._joined:
                self._joined = self._subject.board.claimed
                (self._exchange.join if self._joined else self._exchange.leave)()
            overdue = self._stood.seconds > self._stood.note.limit
            if overdue or (self._joined and self._exchange.is_alarmed()):
                report = self._subject.report(self._stood, alive=True)
                if report.tracer and self._size == 1:
                    self._stood = self._standstill()
                    continue
                if self._gone(0):
                    break
                self._resolve(report, found_it=overdue)
                return
        if not self._subject.board.ending and self._size > 1:
            self._report_death()
        elif self._joined:
            self._exchange.leave()

    def _observe(self, passed: float) -> None:
        note = self._subject.board.read()
        if note.count != self._stood.note.count:
            if self._told:
                self._say(MOVES, f"went on after {self._stood.seconds:.0f} s")
                self._told = False
            self._stood = self._standstill()
            return
        self._stood.seconds += passed
        state = process.state(self._subject.pid)
        self._stood.states[state] = self._stood.states.get(state, 0) + 1
        if not self._told and self._stood.seconds > note.limit / 2:
            self._told = True
            where = f", in collective {note.collective}" if note.collective else ""
            text = f"no sign of life for {self._stood.seconds:.0f} s: {note.phase}{where}"
            self._say(STALLED, f"{text}; the job is ended after {note.limit:.0f} s")

    def _standstill(self) -> Standstill:
        return Standstill(self._subject.board.read())

    def _report_death(self) -> None:
        """Tell of a rank that has ended without saying so; its peers may only see a closed connection."""
        self._observe(0.0)
        # At once: ranks that meet the closed connection would be recorded as the first cause.
        self._joined = self._joined or self._subject.board.claimed
        report = self._subject.report(self._stood, alive=False)
        if self._joined and self._exchange.verdict():
            return
        self._record(Verdict([report], {}, ""), ExitStatus.BUG)
        self._resolve(report, found_it=True)

    def _resolve(self, report: Report, *, found_it: bool) -> None:
        """Agree with the other helpers on what happened; one tells, and all end their ranks."""
        reports, members, leads = [report], {report.rank: report.host}, True
        if self._joined and self._size > 1:
            self._exchange.raise_alarm()
            self._exchange.put(report)
            reports, members, leads = self._meet(report, found_it)
        text = ""
        if leads:
            name = time.strftime("%Y%m%d-%H%M%S.txt")
            verdict = Verdict(reports, members, str(self._folder / FOLDER / name))
            text = verdict.reason
            self._record(verdict, ExitStatus.WATCHDOG)
            self._tell(verdict, name)
            self._exchange.decide(text)
        self._end(text or self._exchange.verdict())

    def _meet(self, report: Report, found_it: bool) -> tuple[list[Report], dict[int, str], bool]:
        """Wait for the other helpers' reports or for their verdict; return whether this one tells."""
        began = time.monotonic()
        while (waited := time.monotonic() - began) < LAST_SECONDS:
            if self._exchange.verdict():
                return [], {}, False
            if found_it or waited > LEAD_SECONDS:
                members, reports = self._exchange.members(), self._exchange.reports()
                complete = {one.rank for one in reports} >= set(members)
                if (complete or waited > OTHERS_SECONDS) and self._exchange.take_the_lead():
                    return reports or [report], members, True
            if self._exchange.lost:
                return [report], {report.rank: report.host}, True
            time.sleep(0.1)
        return [], {}, False

    def _record(self, verdict: Verdict, status: ExitStatus) -> None:
        # A run that has come to its end has recorded it; one that does not hold its folder yet has not.
        begun = self._joined or self._subject.board.ending
        record = record_failure if begun else record_early_failure
        rank, step = verdict.rank, verdict.step
        _patiently(lambda: record(self._folder, status, verdict.reason, rank=rank, step=step))

    def _tell(self, verdict: Verdict, name: str) -> None:
        def write() -> None:
            (self._folder / FOLDER).mkdir(parents=True, exist_ok=True)
            (self._folder / FOLDER / name).write_text(verdict.account())

        def show() -> None:
            sys.stderr.write(verdict.text())
            sys.stderr.flush()

        _patiently(write)
        _patiently(show)

    def _end(self, text: str) -> None:
        """End the rank, by its own hand with status 76 where it has one free, and otherwise by force."""
        self._say(END, text)
        self._signal(signal.SIGCONT)
        if not self._gone(WORDS_SECONDS):
            self._signal(signal.SIGKILL)
            self._gone(5.0)
        # Threads that a disk or a pipe keeps would hold this process up.
        os._exit(0)

    def _say(self, message: bytes, text: str) -> None:
        said = text.encode()
        try:
            self._line.send(message + LENGTH.pack(len(said)) + said, socket.MSG_DONTWAIT)
        except OSError:
            return

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            if self._ended is not None:
                signal.pidfd_send_signal(self._ended, number)
            elif not self._gone(0):
                os.kill(self._subject.pid, number)

    def _gone(self, seconds: float) -> bool:
        """Wait for the rank's end, at most so long; return whether it has ended."""
        if self._ended is None:
            time.sleep(seconds)
            return os.getppid() != self._subject.pid
        return bool(select.select([self._ended], [], [], seconds)[0])


def _end_of(pid: int) -> int | None:
    """Return a descriptor that can be read when the process has ended; None where there is none such."""
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return None


def _patiently(work: Callable[[], None]) -> None:
    try:
        bounded(work, 2.0)
    except (OSError, TimeoutError):
        return


def main(words: list[str]) -> None:
    """Look after the process that started this one."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    board, stacks, line, pid, rank, size, dump_signal, thread = map(int, words[:8])
    if os.getppid() != pid:
        return
    connection = socket.socket(fileno=line)
    subject = Subject(pid, rank, Board(board), stacks, connection, thread, dump_signal)
    Helper(subject, connection, size, Path(words[8])).work()


if __name__ == "__main__":
    main(sys.argv[1:])
