"""The container engine: asked, started, followed."""

import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress

from lumbre.errors import LaunchError, Problem

from ..outcome import say

ANSWER_SECONDS = 20
"""How long an engine may take to answer before it counts as one that does not."""
START_SECONDS = 600
LAST_LINES_SECONDS = 10


class Engine:
    """`docker`, or what understands its words."""

    def __init__(self, command: str) -> None:
        self._command = command

    def faults(self, image: str) -> Iterator[Problem]:
        """Yield what is missing: the command, an engine that answers, the image."""
        if shutil.which(self._command) is None:
            yield Problem("command", f"{self._command} is not on this machine", "install Docker or Podman")
        elif self._ask("image", "inspect", image).returncode == 0:
            return
        elif (asked := self._ask("version")).returncode != 0:
            remedy = f"start it, and see that `{self._command} version` works"
            yield Problem("command", f"{self._command} does not answer: {_words(asked)}", remedy)
        else:
            target = "cuda" if "cuda" in image else "cpu"
            build = f"{self._command} build --target {target} --tag {image} --file docker/Dockerfile ."
            remedy = f"build it: {build}; or fetch it: {self._command} pull {image}"
            yield Problem("image", f"{image} is not on this machine", remedy)

    def start(self, line: Sequence[str], name: str) -> None:
        """Start a container, in place of one with its name that has ended.

        Raises LaunchError in the engine's words, or where the one with its name still runs.
        """
        if self.state(name) in ("running", "paused", "restarting"):
            raise LaunchError(f"{name}: this run's container still runs; see `{self._command} logs {name}`")
        self._ask("rm", name)
        started = subprocess.run(line, capture_output=True, text=True, timeout=START_SECONDS, check=False)
        if started.returncode != 0:
            self._ask("rm", name)
            raise LaunchError(f"{self._command} could not start {name}: {_words(started)}")

    def wait(self, name: str) -> int:
        """Show a container's output until it ends, and return its status; raises LaunchError."""
        # Groups of their own: Ctrl-C is for the job, and these go on showing how it ends.
        follow = subprocess.Popen([self._command, "logs", "--follow", name], process_group=0)
        try:
            line = [self._command, "wait", name]
            ended = subprocess.run(line, capture_output=True, text=True, process_group=0, check=False)
            with suppress(subprocess.TimeoutExpired):
                follow.wait(LAST_LINES_SECONDS)
        finally:
            follow.kill()
            follow.wait()
        if ended.returncode != 0:
            raise LaunchError(f"{name}: {self._command} no longer follows it: {_words(ended)}")
        return int(ended.stdout.split()[-1])

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a container's first process, which hands it on."""
        sent = self._ask("kill", f"--signal={number.name}", name)
        if sent.returncode != 0:
            say(f"{number.name} did not reach {name}: {_words(sent)}")

    def state(self, name: str) -> str | None:
        """Return the engine's word for a container's state; None where there is no such container."""
        asked = self._ask("container", "inspect", "--format={{.State.Status}}", name)
        return asked.stdout.strip() if asked.returncode == 0 else None

    def logs(self, name: str) -> Iterator[str]:
        """Yield a container's output so far."""
        line = [self._command, "logs", name]
        with subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as asked:
            assert asked.stdout is not None
            for text in asked.stdout:
                yield text.rstrip("\n")

    def _ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        line = [self._command, *words]
        try:
            return subprocess.run(line, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(line, 1, "", f"no answer in {ANSWER_SECONDS} s")


def _words(asked: subprocess.CompletedProcess[str]) -> str:
    lines = (asked.stderr.strip() or asked.stdout.strip()).splitlines()
    return lines[-1] if lines else f"status {asked.returncode}"
