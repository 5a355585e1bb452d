"""What runs on a host, at the other end of ssh: `python -m lumbre.launch.ssh.remote probe|run`.

The order comes as a line of JSON on standard input, so that no value in it is an argument that others can
list. A run ends with its connection: when the launcher is gone or silent, the job is asked to save, and
what has not ended in time is killed.
"""

import ctypes
import importlib.metadata
import json
import os
import platform
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from lumbre.world import die_with_parent

from ..agent import cores
from ..leftovers import marked
from ..signals import family_of, send

PR_SET_CHILD_SUBREAPER = 36
LAUNCH_VARIABLE = "LUMBRE_LAUNCH"
"""The folder of the launch that a process belongs to."""
PAUSE_SECONDS = 0.2


def probe(order: dict[str, Any]) -> dict[str, Any]:
    """Return what this host has, and which of the files asked for it does not see."""
    return {
        "python": platform.python_version(),
        "lumbre": version("lumbre"),
        "torch": version("torch"),
        "unseen": [file for file in order["files"] if not Path(file).exists()],
        "running": marked(LAUNCH_VARIABLE, order["launch"]),
        "port": free_port(),
    }


def version(package: str) -> str | None:
    """Return an installed package's version."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        return int(taken.getsockname()[1])


class Supervisor:
    """Holds one job, does what the launcher says, and ends the job when the launcher is gone."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        self._heard = time.monotonic()
        self._rest = b""
        self._is_connected = True
        self._kill_at: float | None = None
        self._lock = threading.Lock()

    def run(self) -> int:
        """Run the job to its end and return its status, 128 + N where signal N ended it."""
        adopt_orphans()
        share = max(1, cores() // int(self._order["processes"]))
        self._job = subprocess.Popen(
            ["/bin/sh", self._order["script"]],
            env={"OMP_NUM_THREADS": str(share), **os.environ, **self._order["environment"]},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
            preexec_fn=die_with_parent,  # noqa: PLW1509 (there is one thread)
        )
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop(signal.SIGTERM))
        assert self._job.stdout is not None
        assert self._job.stderr is not None
        streams = ((self._job.stdout, 1), (self._job.stderr, 2))
        pumps = [threading.Thread(target=self._pump, args=pair, daemon=True) for pair in streams]
        for pump in pumps:
            pump.start()
        while self._job.poll() is None:
            self._listen()
            if self._is_connected and time.monotonic() - self._heard > self._order["answer_timeout"]:
                self._leave(f"no word from the launcher for {self._order['answer_timeout']} s")
            if self._kill_at is not None and time.monotonic() > self._kill_at:
                self._kill()
        self._kill()
        for pump in pumps:
            pump.join(timeout=10)
        code = self._job.returncode
        # 255 is ssh's own word for a connection that failed.
        return 128 - code if code < 0 else min(code, 254)

    def _listen(self) -> None:
        """Wait a moment for the launcher's words and do what they say."""
        if not self._is_connected:
            time.sleep(PAUSE_SECONDS)
            return
        if not select.select([0], [], [], PAUSE_SECONDS)[0]:
            return
        data = os.read(0, 4096)
        if not data:
            self._leave("the connection has ended")
            return
        self._heard = time.monotonic()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            word, _, number = line.partition(b" ")
            if word == b"signal":
                self._stop(int(number))
            elif word == b"hurry":
                below = family_of(self._job.pid)
                for pid in below[1:] or below:
                    send(pid, signal.SIGINT)
            elif word == b"kill":
                self._kill()

    def _leave(self, why: str) -> None:
        self._is_connected = False
        self._log(f"launch: {platform.node()}: {why}: asked the job to save and stop\n".encode())
        self._stop(signal.SIGTERM)

    def _stop(self, number: int) -> None:
        """Pass on the first signal alone: a second one would hurry a job that is saving."""
        if self._kill_at is None:
            self._kill_at = time.monotonic() + self._order["stop_timeout"]
            send(self._job.pid, number)

    def _kill(self) -> None:
        """Kill all that is below this process; orphans have come to it."""
        while family := family_of(os.getpid())[1:]:
            for pid in family:
                send(pid, signal.SIGKILL)
            # Those adopted have no other parent to take leave of them.
            for pid in family:
                if pid != self._job.pid:
                    reap(pid)
            self._job.poll()
            time.sleep(0.02)

    def _pump(self, source: IO[bytes], target: int) -> None:
        while data := os.read(source.fileno(), 65536):
            try:
                if not self._is_connected:
                    raise BrokenPipeError
                os.write(target, data)
            except OSError:
                self._log(data)

    def _log(self, data: bytes) -> None:
        """Keep what no launcher reads any more; a job does not end for want of a log."""
        try:
            with self._lock, Path(self._order["log"]).open("ab") as file:
                file.write(data)
        except OSError:
            return


def adopt_orphans() -> None:
    """Become the parent of all processes below whose own parent ends, so that none is lost sight of."""
    try:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    except (OSError, AttributeError):
        return


def reap(pid: int) -> None:
    """Take leave of a child if it has ended."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def main() -> None:
    """Do what the argument names and exit with its status."""
    order = json.loads(read_line())
    if sys.argv[1] == "probe":
        print(json.dumps(probe(order)))
        return
    status = Supervisor(order).run()
    # Without waiting for pumps that a cut connection holds.
    os._exit(status)


def read_line() -> bytes:
    """Return the first line of standard input, and take no byte after it."""
    line = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return bytes(line)


if __name__ == "__main__":
    main()
