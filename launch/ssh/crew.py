"""The hosts at work on one run: their output, what they are told, and who is lost or fails first."""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

from lumbre.world import die_with_parent

from ..outcome import say
from ..signals import PASSED_ON
from .connection import SSH_FAILED
from .hosts import Host

BEAT_SECONDS = 1.0
FAILED_GRACE_SECONDS = 30.0
"""When a host's processes fail, the others notice and record why; then they are asked to end."""
KILL_GRACE_SECONDS = 30.0
"""Without the host that is missing nothing can be saved, so that waiting for long would be of no use."""


@dataclass
class Ending:
    """How it ended."""

    lost: list[tuple[Host, str]] = field(default_factory=list)
    """Hosts that were cut off, and what ssh says of it."""
    failed: list[tuple[Host, int]] = field(default_factory=list)
    """Hosts whose agent did not end with 0, in order, and its status."""
    received: list[signal.Signals] = field(default_factory=list)
    """Signals that the launcher got meanwhile."""


class Station:
    """One host at work, at this end of its ssh connection."""

    def __init__(self, host: Host, line: Sequence[str], order: dict[str, Any], log: Path, echo: bool) -> None:
        self.host = host
        self.last_words = ""
        self._echo = echo
        self._log = log.open("ab", buffering=0)
        # A group of its own: Ctrl-C reaches the launcher alone, which passes it on once.
        self.process = subprocess.Popen(
            line,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
            preexec_fn=die_with_parent,  # noqa: PLW1509 (the launcher has one thread)
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._input = self.process.stdin
        self.streams: dict[IO[bytes], IO[bytes]] = {
            self.process.stdout: sys.stdout.buffer,
            self.process.stderr: sys.stderr.buffer,
        }
        self.tell(json.dumps(order))
        os.set_blocking(self._input.fileno(), False)

    def tell(self, words: str) -> None:
        """Send a line to the host's end; one that hears nothing is found out by ssh."""
        try:
            self._input.write(f"{words}\n".encode())
        except (BrokenPipeError, BlockingIOError):
            return

    def take(self, stream: IO[bytes]) -> bool:
        """Take what a stream has to give; return whether it goes on."""
        data = os.read(stream.fileno(), 65536)
        self._log.write(data)
        if stream is self.process.stderr and data.strip():
            self.last_words = data.decode(errors="replace").strip().splitlines()[-1].strip()
        if self._echo:
            try:
                self.streams[stream].write(data)
                self.streams[stream].flush()
            except OSError:
                # The terminal is gone; the job goes on, and the log has it all.
                self._echo = False
        if not data:
            del self.streams[stream]
        return bool(data)

    def close(self) -> int:
        """Return how ssh ended once its streams have."""
        self._input.close()
        self._log.close()
        return self.process.wait()


class Crew:
    """The hosts of one run, from its first line to its last process."""

    def __init__(
        self, stations: Sequence[Station], answer_timeout_seconds: int, signals: list[signal.Signals]
    ) -> None:
        self._working = list(stations)
        self._answer_timeout_seconds = answer_timeout_seconds
        self._signals = signals
        self._ending = Ending()
        self._stop_at: float | None = None
        self._kill_at: float | None = None

    def work(self) -> Ending:
        """Wait until no host works any more, and return how it came to that.

        The first signal noted asks the job to save and end. Of more, the second Ctrl-C asks each process to
        end at once, the third kills all of them.
        """
        beat = 0.0
        with selectors.DefaultSelector() as selector:
            for station in self._working:
                for stream in station.streams:
                    selector.register(stream, selectors.EVENT_READ, station)
            while self._working:
                for key, _ in selector.select(BEAT_SECONDS / 2):
                    source: Any = key.fileobj
                    if not key.data.take(source):
                        selector.unregister(source)
                        source.close()
                while self._signals:
                    self._receive(self._signals.pop(0))
                for station in [one for one in self._working if not one.streams]:
                    self._working.remove(station)
                    self._note(station, station.close())
                now = time.monotonic()
                if now >= beat:
                    beat = now + BEAT_SECONDS
                    self._tell("beat")
                self._end_in_time(now)
        return self._ending

    def _tell(self, words: str) -> None:
        for station in self._working:
            station.tell(words)

    def _receive(self, received: signal.Signals) -> None:
        self._ending.received.append(received)
        interrupts = self._ending.received.count(signal.SIGINT)
        if len(self._ending.received) == 1:
            passed = signal.SIGTERM if received == signal.SIGHUP else received
            self._tell(f"signal {int(passed)}")
            say(f"{received.name}: asked the job to save and stop on {len(self._working)} hosts")
        elif received == signal.SIGINT:
            self._tell("kill" if interrupts > 2 else "hurry")

    def _note(self, station: Station, status: int) -> None:
        """Note a host that has ended; the others end too unless it has done its part."""
        now = time.monotonic()
        # A negative status: somebody killed the ssh of this end.
        if status == SSH_FAILED or status < 0:
            silent = "not responding" in station.last_words
            why = f"no answer for {self._answer_timeout_seconds} s" if silent else station.last_words
            self._ending.lost.append((station.host, why or "ssh was ended"))
            if self._stop_at is None or self._stop_at > now:
                self._stop_at = now
            if self._working and self._kill_at is None:
                say(f"host {station.host.name} is lost ({why}): ending the job on the other hosts")
        elif status:
            self._ending.failed.append((station.host, status))
            if self._stop_at is None and not self._ending.received:
                self._stop_at = now + FAILED_GRACE_SECONDS

    def _end_in_time(self, now: float) -> None:
        if self._stop_at is not None and self._kill_at is None and now >= self._stop_at:
            self._kill_at = now + KILL_GRACE_SECONDS
            self._tell(f"signal {int(signal.SIGTERM)}")
        if self._kill_at is not None and now >= self._kill_at:
            self._tell("kill")


@contextmanager
def noted_signals() -> Iterator[list[signal.Signals]]:
    """Note signals while the context lasts instead of dying of them; the caller takes them from the list."""
    noted: list[signal.Signals] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(signal.Signals(number))

    before = {number: signal.signal(number, note) for number in PASSED_ON}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
