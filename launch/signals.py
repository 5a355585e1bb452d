"""Signals on their way from the launcher to the job that it waits for."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType

Send = Callable[[signal.Signals], None]
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class Relay:
    """Hands the signals that the launcher gets to the job that is at work, if one is.

    The first one asks the job to save and end. More of them change nothing, but for Ctrl-C: the second
    one asks each process to end at once (SIGINT to `insist`), the third kills all of them (SIGKILL).
    """

    def __init__(self) -> None:
        self.received: list[signal.Signals] = []
        self._ask: Send | None = None
        self._insist: Send | None = None

    @contextmanager
    def to(self, ask: Send, insist: Send) -> Iterator[list[signal.Signals]]:
        """Hand signals to a job while the context lasts, one that came before it too; yields all so far."""
        self._insist, self._ask = insist, ask
        if self.received:
            self._pass_first()
        try:
            yield self.received
        finally:
            self._insist, self._ask = None, None

    def to_process(self, child: "subprocess.Popen[bytes]") -> AbstractContextManager[list[signal.Signals]]:
        """Hand signals to a process of this machine while the context lasts, and to those below it."""

        def insist(number: signal.Signals) -> None:
            family = family_of(child.pid)
            for pid in family if number == signal.SIGKILL else family[1:] or family:
                send(pid, number)

        return self.to(child.send_signal, insist)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Take a signal, as its handler."""
        self.received.append(signal.Signals(number))
        interrupts = self.received.count(signal.SIGINT)
        if len(self.received) == 1:
            asked = "asked the job to save and stop" if self._ask else "nothing more is started"
            print(f"\nlaunch: {self.received[0].name}: {asked}", file=sys.stderr, flush=True)
            self._pass_first()
        elif number == signal.SIGINT and self._insist is not None:
            self._insist(signal.SIGKILL if interrupts > 2 else signal.SIGINT)

    def _pass_first(self) -> None:
        # A torchrun agent hands its signal to the workers and waits for them; a second would hurry it.
        first = self.received[0]
        if self._ask is not None:
            self._ask(signal.SIGTERM if first == signal.SIGHUP else first)


@contextmanager
def relayed_signals() -> Iterator[Relay]:
    """Catch signals while the context lasts, for the jobs that the launcher waits for."""
    relay = Relay()
    before = {number: signal.signal(number, relay.receive) for number in PASSED_ON}
    try:
        yield relay
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def family_of(pid: int) -> list[int]:
    """Return a process and all processes below it, as Linux's /proc tells them."""
    family = [pid]
    for parent in family:
        for file in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                family += map(int, file.read_text().split())
            except OSError:
                continue
    return family


def send(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
