"""The W&B tracker: a thread that follows metrics.jsonl, so that the run never waits for the client."""

import json
import math
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from lumbre.errors import ExitStatus
from lumbre.tracking.artifact import Artifact
from lumbre.tracking.base import RunInfo
from lumbre.tracking.jsonl import METRICS_FILE, Follower
from lumbre.tracking.rows import Row, is_said, kind
from lumbre.tracking.system import Nodes
from lumbre.tracking.wandb import artifacts, connection, history
from lumbre.tracking.wandb.alerts import Alerts
from lumbre.tracking.wandb.best import Best

FOLDER, RESUME = "wandb", "resume.json"
START_SECONDS = 10.0
"""The run waits so long for a client that may go offline; rows that come before it is there are not lost."""
CLOSE_SECONDS = 15.0
"""What the client gets at the end beyond its own time for sending."""
BATCH_SECONDS = 0.5
"""Rows are gathered for so long: the fewer times the thread wakes, the less it is in the run's way."""
LOOK_SECONDS = 5.0
"""Seconds between looks for figures of nodes."""
MOST_ARTIFACTS = 256
"""How many artifacts wait for a client that does not answer; older ones are left out."""


class WandbTracker:
    """Sends a W&B run what metrics.jsonl has and W&B does not, whatever earlier parts of the run have sent.

    W&B's own steps only rise: a row that an earlier part sent, and the resumed run makes again, is not sent
    twice, and one that a kill kept from W&B is sent by the next part.
    """

    name = "wandb"

    def __init__(
        self, run: RunInfo, *, mode: str, belonging: Mapping[str, Any], artifacts: bool, upload_model: bool
    ) -> None:
        self._info, self._mode, self._belonging = run, mode, belonging
        self._keeps_artifacts, self._upload_model = artifacts, upload_model
        self._artifacts: deque[Artifact] = deque(maxlen=MOST_ARTIFACTS)
        self.unreachable = ""
        """Why the run is kept here, where there is a key and no network."""
        self._is_open = False
        self._open()

    def log(self, row: Row) -> None:
        """Let the thread know that metrics.jsonl has grown."""
        if not self._is_open:
            self._open()
        self._raise_error()
        self._wake.set()

    def roll_back(self, step: int, event: Row) -> None:
        """End W&B's run, for its steps only rise; the next row opens one that is linked to it.

        That one gets all rows of metrics.jsonl, in which what came after `step` is no more.
        """
        self.finish(ExitStatus.DONE)
        link(self._info.folder / FOLDER, step)
        self._is_open = False

    def artifact(self, artifact: Artifact) -> None:
        """Let the thread log what the run reads or has written."""
        if self._keeps_artifacts:
            self._artifacts.append(artifact)
            self._wake.set()

    def finish(self, exit_status: int) -> None:
        """End the W&B run as finished, preempted (to be resumed) or failed.

        Raises TimeoutError where the client does not answer; what it has written stays for `wandb sync`.
        """
        self._exit_status = exit_status
        self._ending.set()
        self._wake.set()
        self._thread.join(connection.FINISH_SECONDS + CLOSE_SECONDS)
        if self._thread.is_alive():
            connection.abandon()
            raise TimeoutError("the client did not answer; `wandb sync` sends what it has written")
        self._raise_error()

    def _open(self) -> None:
        self._wake, self._opened, self._ending = threading.Event(), threading.Event(), threading.Event()
        self._exit_status = 0
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, args=[self._mode], name="wandb", daemon=True)
        self._thread.start()
        self._opened.wait(None if self._mode == "online" else START_SECONDS)
        self._raise_error()
        self._is_open = True

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self, mode: str) -> None:
        try:
            session = _Session(self._info, mode, self._belonging, upload_model=self._upload_model)
            self.unreachable = session.unreachable
            self._opened.set()
            rows = Follower(self._info.folder / METRICS_FILE)
            while True:
                ending = self._ending.is_set()
                session.take(rows.new())
                while self._artifacts:
                    session.artifact(self._artifacts.popleft())
                if ending:
                    session.finish(self._exit_status)
                    return
                self._wake.wait()
                self._ending.wait(BATCH_SECONDS)
                self._wake.clear()
        except Exception as error:
            self._error = error
        finally:
            self._opened.set()


class _Session:
    """This part of the run, as the client has it open; it lives in the tracker's thread."""

    def __init__(self, info: RunInfo, mode: str, belonging: Mapping[str, Any], *, upload_model: bool) -> None:
        folder = info.folder / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        state = _State(folder / RESUME)
        state.end_earlier_service()
        self._sent = history.of_files(folder, state.run_id) if state.is_old else history.History()
        if state.origin:
            info = replace(
                info,
                name=f"{info.name} (from step {state.origin['step']})",
                config={**info.config, "rolled_back_from": state.origin},
            )
        opened = connection.connect(info, state.run_id, mode, belonging)
        self.unreachable = opened.unreachable
        state.keep_service()
        self._run, self._upload_model = opened.run, upload_model
        if self._run.resumed:
            last = self._run.starting_step - 1
            self._sent = history.History(last, last, None)
        self._step = 0
        self._best, self._better = Best(), dict[str, float]()
        self._alerts = Alerts(self._run, info.name)
        self._nodes, self._next_look = Nodes(info.folder), 0.0
        print(opened.where(info.folder), flush=True)

    def take(self, rows: list[dict[str, Any]]) -> None:
        """Send the rows that no earlier part has sent."""
        for row in rows:
            self._step = max(self._step, row["step"])
            self._better |= self._best.update(row)
            if not self._sent.has(row):
                self._send(row)
        if any(kind(row) != "train" for row in rows):
            self._tell_best()

    def artifact(self, artifact: Artifact) -> None:
        """Log what the run reads or has written."""
        artifacts.log(self._run, artifact, upload_model=self._upload_model)

    def finish(self, exit_status: int) -> None:
        """End the W&B run."""
        self._tell_best()
        self._alerts.end(exit_status, self._step)
        if exit_status in (ExitStatus.STOPPED, ExitStatus.WATCHDOG):
            self._run.mark_preempting()
        self._run.finish(exit_code=exit_status)

    def _send(self, row: dict[str, Any]) -> None:
        values = {key: value for key, value in row.items() if value is not None}
        if is_said(row):
            said = [[row["step"], one["prompt"], one["text"]] for one in values.pop("samples")]
            columns = ["step", "prompt", "text"]
            values[history.SAMPLES] = connection.client().Table(columns=columns, data=said)
        elif "loss" in row and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            values |= self._nodes.news()
        self._run.log(values, step=self._sent.place(row))
        self._alerts.take(row)

    def _tell_best(self) -> None:
        if self._better:
            self._run.summary.update(self._better)
            self._better = {}


class _State:
    """What resume.json keeps: the run's id, and which process writes its file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.is_old = file.is_file()
        self._state: dict[str, Any] = (
            json.loads(file.read_text(encoding="utf-8"))
            if self.is_old
            else {"id": sweeps_id() or secrets.token_hex(6)}
        )
        self._save()

    @property
    def origin(self) -> dict[str, Any]:
        """The run whose rows up to a step are this one's too, and that step; empty where there is none."""
        return dict(self._state.get("origin", {}))

    def link(self, step: int) -> None:
        """Take a new id for a run that goes on from a step of the present one."""
        self._state = {"id": secrets.token_hex(6), "origin": {"run": self.run_id, "step": step}}
        self._save()

    @property
    def run_id(self) -> str:
        """The run's id, the same in all its parts."""
        return str(self._state["id"])

    def keep_service(self) -> None:
        """Remember the client's helper process."""
        service = connection.service()
        if service is not None:
            self._state["service"] = {
                "pid": service.pid,
                "created": service.create_time(),
                "host": os.uname().nodename,
            }
            self._save()

    def end_earlier_service(self) -> None:
        """End the helper process of a part that was killed: it lives on for seconds and may still write."""
        known = self._state.get("service", {})
        if known.get("host") != os.uname().nodename:
            return
        with suppress(psutil.Error):
            earlier = psutil.Process(known["pid"])
            if (
                math.isclose(earlier.create_time(), known["created"], abs_tol=1e-3)
                and earlier.ppid() != os.getpid()
            ):
                earlier.kill()
                earlier.wait(CLOSE_SECONDS)

    def _save(self) -> None:
        whole = self._file.with_suffix(".new")
        whole.write_text(json.dumps(self._state), encoding="utf-8")
        whole.replace(self._file)


def link(folder: Path, step: int) -> None:
    """Let the next run of a folder be another one, linked to the present one's rows up to a step."""
    _State(folder / RESUME).link(step)


def sweeps_id() -> str | None:
    """Return the id that a sweep's agent chose for the run; None outside a sweep."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
