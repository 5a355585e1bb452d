"""Signals on their way from the launcher to the job that it waits for."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


@contextmanager
def forward_signals(child: "subprocess.Popen[bytes]") -> Iterator[list[signal.Signals]]:
    """Pass signals on to a process of this machine while the context lasts; yields those that have come."""

    def insist(number: signal.Signals) -> None:
        family = family_of(child.pid)
        for pid in family if number == signal.SIGKILL else family[1:] or family:
            _send(pid, number)

    with pass_signals(child.send_signal, insist) as received:
        yield received


@contextmanager
def pass_signals(
    ask: Callable[[signal.Signals], None], insist: Callable[[signal.Signals], None]
) -> Iterator[list[signal.Signals]]:
    """Pass signals on to a job while the context lasts; yields those that have come.

    The first one asks the job to save and end. More of them change nothing, but for Ctrl-C: the second
    one asks each process to end at once (SIGINT to `insist`), the third kills all of them (SIGKILL).
    """
    received: list[signal.Signals] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        interrupts = received.count(signal.SIGINT)
        if len(received) == 1:
            # A torchrun agent hands its signal to the workers and waits for them; a second would hurry it.
            ask(signal.SIGTERM if number == signal.SIGHUP else received[0])
            print(
                f"\nlaunch: {received[0].name}: asked the job to save and stop", file=sys.stderr, flush=True
            )
        elif number == signal.SIGINT:
            insist(signal.SIGKILL if interrupts > 2 else signal.SIGINT)

    before = {number: signal.signal(number, receive) for number in PASSED_ON}
    try:
        yield received
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


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
