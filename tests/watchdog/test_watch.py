"""A process under its helper's eyes: hangs are ended and explained, and nothing else is."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import ctypes, os, signal, sys, threading, time
from pathlib import Path
from lumbre.watchdog import enter
from lumbre.watchdog.config import WatchdogConfig
from lumbre.watchdog.watch import _watch, telling, watching
config = WatchdogConfig(limit_seconds=0.7, start_seconds=0.7)
with watching(config, Path(sys.argv[1])), telling(lambda event, text: print(event, flush=True)):
    print(_watch[0]._helper.pid, flush=True)
    {body}
"""
KEEP_INTERPRETER = (
    "m = ctypes.create_string_buffer(64); l = ctypes.PyDLL(None).pthread_mutex_lock; l(m); l(m)"
)


def start(folder: Path, body: str) -> "subprocess.Popen[str]":
    """Start a process that does something under the watchdog, with a limit of 0.7 s."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("body", "status", "cause"),
    [
        ("time.sleep(60)", 76, "is at <string>:10 in <module>"),
        ("while True: pass", 76, "endless loop"),
        ("os.kill(os.getpid(), signal.SIGSTOP); time.sleep(60)", 76, "stopped by a signal"),
        (KEEP_INTERPRETER, -signal.SIGKILL, "keeps Python's lock (GIL)"),
        pytest.param(
            "while True: os.write(os.pipe()[1], b'x' * 99999)",
            76,
            "is blocked in a write pipe:",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_hang_is_explained_and_ended(tmp_path: Path, body: str, status: int, cause: str) -> None:
    """One block on stderr, the same in the run folder, the cause in exit.json, and nobody left."""
    with start(tmp_path / "run", body) as process:
        out, error = process.communicate(timeout=60)
    helper, *events = out.split()
    assert process.returncode == status
    record = json.loads((tmp_path / "run/exit.json").read_text())
    assert (record["status"], record["rank"]) == (76, 0)
    assert cause in record["reason"]
    assert error.count("watchdog: the run stands still") == 1
    (account,) = (tmp_path / "run/watchdog").glob("*.txt")
    assert account.read_text().startswith(error[error.index("=") :])
    assert not is_running(int(helper))
    if status == 76 and "SIGSTOP" not in body:
        assert events == ["stalled", "watchdog"]


def test_what_is_slow_but_moves_is_let_be(tmp_path: Path) -> None:
    """Each note is a sign of life: a second and a half of work with a limit of 0.7 s ends by itself."""
    with start(tmp_path / "run", "[(enter('working'), time.sleep(0.3)) for _ in range(5)]") as process:
        out, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")
    assert not (tmp_path / "run").exists()
    assert not is_running(int(out.split()[0]))


@pytest.mark.slow
def test_a_job_that_is_put_to_sleep_as_a_whole_goes_on(tmp_path: Path) -> None:
    """Ctrl-Z stops the helper too: the time until `fg` is nobody's hang."""
    with start(tmp_path / "run", "sys.stdin.readline() or time.sleep(0.3)") as process:
        helper = int(process.stdout.readline())  # type: ignore[union-attr]
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in (helper, process.pid):
                os.kill(pid, number)
            time.sleep(2.0 if number == signal.SIGSTOP else 0.0)
        _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")


def test_the_helper_ends_with_its_process(tmp_path: Path) -> None:
    """A process alone that is killed is no riddle to anyone: nothing is said, and nothing is left."""
    with start(tmp_path / "run", "time.sleep(60)") as process:
        helper = int(process.stdout.readline())  # type: ignore[union-attr]
        process.kill()
        _, error = process.communicate(timeout=60)
    assert error == ""
    assert not is_running(helper)


def is_running(pid: int) -> bool:
    """Whether a process is there, now and in a moment."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "Z":
            return False
        time.sleep(0.05)
    return True
