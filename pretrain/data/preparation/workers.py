"""Work for all cores: tasks in processes of their own, whose deaths are explained and which leave no orphan.

A task is a picklable callable that is given `report` and returns something picklable. Worker processes start
anew with an import of the task's module alone, never as a copy of this process, whose threads and memory
would come along.
"""

import importlib
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, Self, TypeVar

from lumbre.errors import DataError
from lumbre.world import die_with_parent

T = TypeVar("T")
NEEDED = f"{__package__}.tokenization"
"""What workers import before they have a task."""
Report = Callable[[int], None]
Task = Callable[[Report], T]

PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from {here} import serve; serve({handle}, {parent}, {module!r})"
)


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """Worker processes: started when they are needed, kept for the next tasks, gone at the context's end."""

    def __init__(self) -> None:
        self._started: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._started:
            worker.kill()

    def __len__(self) -> int:
        return len(self._started)

    def start(self, count: int, cores: int) -> int:
        """Start what is missing to run `count` tasks on so many cores, and return how many will.

        They import meanwhile what they will need. One needs no process: this one works itself.
        """
        count = min(cores, count)
        if count > 1:
            self._started += (_Worker(threads=cores // count) for _ in range(len(self), count))
        return count

    def run(
        self, tasks: Iterable[Task[T]], count: int, cores: int, report: Callable[[int, int], None]
    ) -> Iterator[tuple[int, T]]:
        """Yield (number, result) of `count` tasks as they end, in any order.

        `report` is told (number, what one says). One task alone, or all for one core, are run by this
        process. The tasks are asked for once workers have been started. Raises what a task raises, and
        DataError where a worker dies; the workers are of no use after that.
        """
        count = self.start(count, cores)
        if count <= 1:
            for number, task in enumerate(tasks):
                yield number, task(lambda done, number=number: report(number, done))  # type: ignore[misc]
            return
        waiting = iter(enumerate(tasks))
        busy = {worker.connection: worker for worker in self._started[:count]}
        for worker in busy.values():
            worker.give(*next(waiting))
        while busy:
            for ready in wait(list(busy)):
                worker = busy[ready]  # type: ignore[index]
                number = worker.number
                kind, value = worker.hear()
                if kind == "report":
                    report(number, value)
                    continue
                if (following := next(waiting, None)) is not None:
                    worker.give(*following)
                else:
                    del busy[worker.connection]
                yield number, value


class _Worker:
    """A worker process, seen from here."""

    def __init__(self, threads: int) -> None:
        self.connection, theirs = Pipe()
        self.number = -1
        program = PROGRAM.format(
            path=sys.path, here=__name__, handle=theirs.fileno(), parent=os.getpid(), module=NEEDED
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=os.environ | {"RAYON_NUM_THREADS": str(max(threads, 1))},
        )
        theirs.close()

    def give(self, number: int, task: Task[Any]) -> None:
        """Start a task."""
        self.number = number
        try:
            self.connection.send_bytes(pickle.dumps(task))
        except OSError:  # it has died, which `hear` explains
            return

    def hear(self) -> tuple[str, Any]:
        """Return what it says, ("report" or "result", value); raise what its task raised."""
        try:
            kind, value = self.connection.recv()
        except (EOFError, ConnectionError):
            raise self._death() from None
        if kind == "error":
            raise value
        return kind, value

    def kill(self) -> None:
        """End it at once; what it writes is whole or absent."""
        self._process.kill()
        self._process.wait()
        self.connection.close()

    def _death(self) -> DataError:
        status = self._process.wait()
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        cause = "; if memory ran out, set data.workers to fewer" if status == -signal.SIGKILL else ""
        fault = f"a worker of the preparation (process {self._process.pid}) {how}{cause}"
        return DataError(f"{fault}; run the same command again: what is done is kept")


def serve(handle: int, parent: int, module: str) -> None:
    """Run tasks until there are no more; the program of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the parent ends its workers
    die_with_parent()
    if os.getppid() != parent:
        return
    connection = Connection(handle)
    importlib.import_module(module)
    while True:
        try:
            task = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        try:
            answer = ("result", task(lambda done: connection.send(("report", done))))
        except Exception as error:
            error.add_note("".join(traceback.format_exception(error)))
            answer = ("error", error)
        connection.send(answer)
