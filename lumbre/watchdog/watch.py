"""The rank's side of the watchdog: starts the helper, answers it, and ends this process when it says so."""

import ctypes
import faulthandler
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lumbre.errors import ExitStatus, LumbreError
from lumbre.exit_record import record_early_failure
from lumbre.watchdog import notes
from lumbre.watchdog.answer import answer
from lumbre.watchdog.board import Board, shared_memory
from lumbre.watchdog.config import WatchdogConfig
from lumbre.watchdog.messages import END, LENGTH, MOVES, PING, STALLED
from lumbre.world import World, world

STACKS_BYTES = 1 << 22
DUMP_SIGNAL = signal.SIGUSR2
"""On it faulthandler writes every thread's Python stack, in C, whoever holds the interpreter's lock."""
LAST_WORDS_SECONDS = 1.5
PR_SET_PTRACER = 0x59616D61

Tell = Callable[[str, str], None]
"""tell(event, message)"""


class Watch:
    """The watchdog of this process; there is one, and it lasts as long as the process does."""

    def __init__(self, config: WatchdogConfig, folder: Path, here: World) -> None:
        board = shared_memory("lumbre-board")
        stacks = shared_memory("lumbre-stacks", 0)
        os.set_blocking(stacks, True)
        self.board = Board(board)
        self._notes = notes.Notes(
            self.board, config.limit_seconds, start=config.start_seconds, allowance=config.allowance_seconds
        )
        notes.publish(self._notes)
        faulthandler.enable(stacks, all_threads=True)
        faulthandler.register(DUMP_SIGNAL, stacks, all_threads=True)
        ours, theirs = socket.socketpair()
        self._line = ours
        self._tell: Tell | None = None
        self._helper = _start_helper(board, stacks, theirs, folder, here)
        theirs.close()
        _let_read(self._helper.pid)
        threading.Thread(target=self._listen, name="watchdog", daemon=True).start()

    @contextmanager
    def telling(self, tell: Tell) -> Iterator[None]:
        """Tell of stalls while the context lasts."""
        self._tell = tell
        try:
            yield
        finally:
            self._tell = None

    def _listen(self) -> None:
        while True:
            try:
                message = self._line.recv(1)
                if not message:
                    return
                if message == PING:
                    reply = answer()
                    self._line.sendall(LENGTH.pack(len(reply)) + reply)
                    continue
                (length,) = LENGTH.unpack(self._line.recv(LENGTH.size, socket.MSG_WAITALL))
                text = self._line.recv(length, socket.MSG_WAITALL).decode("utf-8", "replace")
            except OSError:
                return
            # What takes the rows may be what hangs: it gets a thread of its own, and a moment.
            event = {STALLED: "stalled", MOVES: "resumed_pace", END: "watchdog"}[message]
            telling = threading.Thread(target=self._say, args=(event, text), daemon=True)
            telling.start()
            if message == END:
                telling.join(LAST_WORDS_SECONDS)
                os._exit(ExitStatus.WATCHDOG)

    def _say(self, event: str, text: str) -> None:
        tell = self._tell
        if tell is not None:
            tell(event, text)


_watch: list[Watch] = []


@contextmanager
def watching(config: WatchdogConfig, folder: Path) -> Iterator[None]:
    """Watch this process, which works for the run folder, for hangs until it has ended."""
    if config.enabled and not _watch:
        _watch.append(Watch(config, folder, world()))
    board = notes.current().board
    board.ending = False
    try:
        yield
    except LumbreError as error:
        if error.exit_status == ExitStatus.WATCHDOG:
            rank = getattr(error, "rank", world().rank)
            record_early_failure(folder, error.exit_status, str(error) or "a rank did not come", rank=rank)
        raise
    finally:
        board.ending = True


@contextmanager
def claimed() -> Iterator[None]:
    """Note that the run folder is this job's while the context lasts."""
    board = notes.current().board
    board.claimed = True
    try:
        yield
    finally:
        board.claimed = False


@contextmanager
def telling(tell: Tell) -> Iterator[None]:
    """Let the watchdog, where there is one, tell of the stalls of a training, which begins and ends here."""
    notes.current().begin()
    if _watch:
        with _watch[0].telling(tell):
            yield
    else:
        yield


def _start_helper(
    board: int, stacks: int, line: socket.socket, folder: Path, here: World
) -> "subprocess.Popen[bytes]":
    descriptors = (board, stacks, line.fileno())
    thread = threading.main_thread().ident
    arguments = [*descriptors, os.getpid(), here.rank, here.size, int(DUMP_SIGNAL), thread]
    root = Path(__file__).parents[2]
    # -S: no site-packages, which the helper does not need and which would take longer than it does.
    return subprocess.Popen(
        [sys.executable, "-S", "-m", "lumbre.watchdog.helper", *map(str, arguments), str(folder.absolute())],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=subprocess.DEVNULL,
        pass_fds=descriptors,
    )


def _let_read(helper: int) -> None:
    """Let the helper see which system call this process is in, where Linux would only let a debugger."""
    try:
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, helper, 0, 0, 0)
    except (OSError, AttributeError):
        return
