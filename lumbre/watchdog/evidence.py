"""What can be found out about a rank from outside: its board, /proc, its stacks, and whether it answers."""

import json
import os
import select
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from lumbre.watchdog import process, stacks
from lumbre.watchdog.board import Board, Note
from lumbre.watchdog.messages import LENGTH, PING
from lumbre.watchdog.report import Child, Report

ANSWER_SECONDS = 1.5
DUMP_SECONDS = 1.0
QUIET_SECONDS = 0.1
"""A dump is whole when so long nothing has come."""
MOST_FRAMES = 12
MOST_CHILDREN = 16
STACKS_CHARACTERS = 20_000


@dataclass
class Standstill:
    """What a rank's main thread did since its last note, in looks at /proc."""

    note: Note
    seconds: float = 0.0
    states: dict[str, int] = field(default_factory=dict)

    def shares(self) -> dict[str, float]:
        """Return which part of the looks found each state."""
        looks = sum(self.states.values()) or 1
        return {state: count / looks for state, count in self.states.items()}


class Subject:
    """The rank that a helper looks after."""

    def __init__(
        self, pid: int, rank: int, board: Board, stacks: int, line: socket.socket, thread: int, number: int
    ) -> None:
        self.pid, self.rank, self.board = pid, rank, board
        self._stacks = stacks
        self._line = line
        self._thread = thread
        self._signal = number

    def report(self, stood: Standstill, *, alive: bool) -> Report:
        """Find out everything about the rank; takes a few seconds at most."""
        note = stood.note
        seen = process.look(self.pid) if alive else process.Process(self.pid, "", "")
        report = Report(
            rank=self.rank,
            host=os.uname().nodename,
            pid=self.pid,
            step=note.step,
            phase=note.phase,
            collective=note.collective,
            collectives=note.collectives,
            seconds=stood.seconds,
            limit=note.limit,
            alive=alive,
            shares=stood.shares(),
            call=seen.call,
            tracer=seen.tracer,
            swapped_bytes=seen.swapped_bytes,
            resident_bytes=seen.resident_bytes,
        )
        if alive:
            self._ask(report, stopped=seen.state == "T")
            for child in seen.children[:MOST_CHILDREN]:
                if child != os.getpid():
                    report.children.append(self._child(child))
        written = self._written(0)
        found = stacks.parse(written)
        report.stacks, report.fatal = written[-STACKS_CHARACTERS:], found.fatal
        return report

    def _ask(self, report: Report, *, stopped: bool) -> None:
        """Fill in what the rank tells: what a thread of its answers, and its stacks, written in C."""
        if not stopped:
            with suppress(OSError):
                self._line.send(PING, socket.MSG_DONTWAIT)
            answered = self._answer()
            report.answers = answered is not None
            report.torch = answered or {}
        # Not before: a signal may end the very call that keeps the interpreter.
        at = os.fstat(self._stacks).st_size
        _send(self.pid, self._signal)
        if stopped:
            # It wakes to write its stacks, and for no more.
            _send(self.pid, signal.SIGCONT)
        found = stacks.parse(self._dumped(at))
        if stopped:
            _send(self.pid, signal.SIGSTOP)
        report.frames = [str(frame) for frame in found.main(self._thread)[:MOST_FRAMES]]
        report.loader = [str(frame) for frame in found.with_function("_produce")[:MOST_FRAMES]]

    def _child(self, pid: int) -> Child:
        seen = process.look(pid)
        child = Child(pid, seen.state, seen.command, seen.call)
        if process.dumps_stacks(pid, self.pid, self._signal) and seen.state not in "TZD":
            at = os.fstat(self._stacks).st_size
            _send(pid, self._signal)
            threads = list(stacks.parse(self._dumped(at)).threads.values())
            child.frames = [str(frame) for frame in threads[-1][:3]] if threads else []
        return child

    def _dumped(self, at: int) -> str:
        """Return what is written of stacks after an offset, once it is whole."""
        size, changed = at, 0.0
        latest = time.monotonic() + DUMP_SECONDS
        while time.monotonic() < latest and (size == at or time.monotonic() - changed < QUIET_SECONDS):
            time.sleep(0.02)
            if (now := os.fstat(self._stacks).st_size) != size:
                size, changed = now, time.monotonic()
        return self._written(at)

    def _written(self, at: int) -> str:
        return os.pread(self._stacks, 1 << 22, at).decode("utf-8", "replace")

    def _answer(self) -> dict[str, Any] | None:
        latest, got = time.monotonic() + ANSWER_SECONDS, b""
        while (left := latest - time.monotonic()) > 0:
            if not select.select([self._line], [], [], left)[0]:
                break
            try:
                more = self._line.recv(1 << 16)
            except OSError:
                return None
            if not more:
                return None
            got += more
            if len(got) >= LENGTH.size and len(got) >= LENGTH.size + LENGTH.unpack_from(got)[0]:
                found: dict[str, Any] = json.loads(got[LENGTH.size :])
                return found
        return None


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        return
