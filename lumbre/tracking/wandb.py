"""Weights & Biases through its own client: one run for all ranks, the same one after a resume."""

import json
import math
import netrc
import os
import secrets
import socket
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from lumbre.errors import ConfigError, ExitStatus, Problem
from lumbre.tracking.base import RunInfo, TrackerConfig

PROBE_SECONDS = 3.0
INIT_SECONDS = 30.0
FINISH_SECONDS = 60.0
"""What is not sent by then stays on disk for `wandb sync`."""
FLUSH_SECONDS = 1.0
"""The client writes its file this often; a kill loses what it holds, so a step counts as sent 3x later."""
ALL_KINDS = frozenset({"train", "eval", "event"})


class WandbConfig(TrackerConfig):
    """Send the run to Weights & Biases, or keep it beside the run until `wandb sync` sends it."""

    type: Literal["wandb"] = "wandb"
    project: str = "lumbre"
    """Project that the run belongs to."""
    entity: str | None = None
    """User or team that owns the project; the account's default when absent."""
    group: str | None = None
    """Runs of one group are shown together."""
    job_type: str | None = None
    """Kind of run within the group; the program's name when absent."""
    tags: list[str] = Field(default_factory=list)
    """Words to filter runs by."""
    notes: str | None = None
    """A longer description."""
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto is online where there is a key and a network, else offline. WANDB_MODE goes before it."""

    def build(self, run: RunInfo) -> "WandbTracker":
        """Open the W&B run in the run's folder.

        Raises ConfigError when `mode: online` is asked for and cannot be had.
        """
        return WandbTracker(self, run)


class WandbTracker:
    """One W&B run, whose id and last sent step stand in the run folder.

    W&B's own steps only rise. A crash loses the rows after the last checkpoint from metrics.jsonl, and
    the resumed run makes them again; W&B has had them, and equal ones, so they are not sent twice. After
    a kill, the rows of the last three seconds are, for they may not have arrived: W&B drops those it has.
    """

    name = "wandb"

    def __init__(self, config: WandbConfig, run: RunInfo) -> None:
        (run.folder / "wandb").mkdir(parents=True, exist_ok=True)
        self._state_file = run.folder / "wandb" / "resume.json"
        self._state = _load(self._state_file) or {
            "id": _sweeps_id() or secrets.token_hex(6),
            "last_step": -1,
            "last_kinds": [],
        }
        self._save()
        mode, reason = choose_mode(config.mode)
        try:
            self._run = _init(config, run, self._state["id"], mode)
        except Exception as error:
            if mode != "online":
                raise
            fault = f"W&B cannot be reached: {str(error).splitlines()[0]}"
            if config.mode == "online":
                remedy = "set WANDB_API_KEY, or use mode: auto, which goes offline by itself"
                raise ConfigError([Problem("tracking", fault, remedy)]) from error
            mode, reason = "offline", fault
            _forget_failed_run()
            self._run = _init(config, run, self._state["id"], mode)
        self._before: int = self._state["last_step"]
        self._before_kinds = frozenset(self._state["last_kinds"])
        if self._run.resumed:
            self._before, self._before_kinds = self._run.starting_step - 1, ALL_KINDS
        self._open_step = -1
        self._open_kinds: set[str] = set()
        self._closed: deque[tuple[float, int, list[str]]] = deque()
        self.where = _where(mode, reason, self._run, run.folder)
        print(self.where, flush=True)

    def log(self, row: Mapping[str, Any]) -> None:
        """Send a row unless an earlier part of this run has sent it."""
        step, kind = row["step"], _kind(row)
        if step < self._before or (step == self._before and kind in self._before_kinds):
            return
        # W&B holds a step's rows together until the next step, so only the one before is surely sent.
        if step > self._open_step:
            self._close_step(time.monotonic() - 3 * FLUSH_SECONDS)
            self._open_step = step
            self._open_kinds = set(self._before_kinds) if step == self._before else set()
        self._open_kinds.add(kind)
        # An evaluation that an earlier part stopped short of: its step is closed there, but drawn by `step`.
        at = step if step > self._before else step + 1
        self._run.log({key: value for key, value in row.items() if value is not None}, step=at)

    def finish(self, exit_status: int) -> None:
        """End the W&B run as finished, preempted (to be resumed) or failed."""
        if exit_status in (ExitStatus.STOPPED, ExitStatus.WATCHDOG):
            self._run.mark_preempting()
        self._run.finish(exit_code=exit_status)
        self._close_step(math.inf)

    def _close_step(self, sent_before: float) -> None:
        if self._open_kinds:
            self._closed.append((time.monotonic(), self._open_step, sorted(self._open_kinds)))
        sent = None
        while self._closed and self._closed[0][0] <= sent_before:
            sent = self._closed.popleft()
        if sent is not None:
            self._state |= {"last_step": sent[1], "last_kinds": sent[2]}
            self._save()

    def _save(self) -> None:
        whole = self._state_file.with_suffix(".new")
        whole.write_text(json.dumps(self._state), encoding="utf-8")
        whole.replace(self._state_file)


def _kind(row: Mapping[str, Any]) -> str:
    if "event" in row:
        return "event"
    if "loss" in row:
        return "train"
    # A probe has a row of its own: after a resume, one of a step may have been sent and another not.
    probes = {"/".join(key.split("/")[:2]) for key in row if key.startswith("downstream/")}
    return min(probes, default="eval")


def choose_mode(wanted: str) -> tuple[str, str]:
    """Return W&B's mode and, where it is offline of necessity, why; takes at most 3 s."""
    mode = os.environ.get("WANDB_MODE") or wanted
    if mode != "auto":
        return mode, ""
    url = _client().setup().settings.base_url
    if not _has_key(url):
        return "offline", f"no key (WANDB_API_KEY or `wandb login`) for {url}"
    if not reachable(url, PROBE_SECONDS):
        return "offline", f"no network to {url}"
    return "online", ""


def reachable(url: str, seconds: float) -> bool:
    """Whether the URL's host, or the proxy that leads to it, takes a TCP connection in time."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = parts.port or (80 if parts.scheme == "http" else 443)
    reached = threading.Event()

    def probe() -> None:
        try:
            socket.create_connection((parts.hostname or "", port), timeout=seconds).close()
        except OSError:
            return
        reached.set()

    # The name look-up takes no timeout, so the thread is left behind when time is up.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(seconds)
    return reached.is_set()


def _has_key(url: str) -> bool:
    settings = _client().setup().settings
    if settings.api_key or settings.identity_token_file:
        return True
    chosen = os.environ.get("NETRC")
    # W&B's own service has two addresses, and a key is kept under either.
    hosts = {urlsplit(url).netloc} | ({"api.wandb.ai"} if "WANDB_BASE_URL" not in os.environ else set())
    for file in [Path(chosen)] if chosen else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            known = netrc.netrc(file).hosts
        except (OSError, netrc.NetrcParseError):
            continue
        if hosts & known.keys():
            return True
    return False


def _init(config: WandbConfig, run: RunInfo, run_id: str, mode: str) -> Any:
    wandb = _client()
    # Git is left out because a remote's address may hold a token, and the console because it is ours.
    settings = wandb.Settings(
        init_timeout=INIT_SECONDS,
        login_timeout=INIT_SECONDS,
        finish_timeout=FINISH_SECONDS,
        x_transaction_log_flush_interval=FLUSH_SECONDS,
        console="off",
        silent=True,
        disable_git=True,
        disable_code=True,
    )
    opened = wandb.init(
        project=config.project,
        entity=config.entity,
        group=config.group,
        job_type=config.job_type or run.job,
        tags=config.tags,
        notes=config.notes,
        name=run.name,
        id=run_id,
        dir=run.folder,
        config=run.config,
        mode=mode,
        resume="allow" if mode == "online" else None,
        settings=settings,
    )
    opened.define_metric("step", hidden=True)
    opened.define_metric("*", step_metric="step")
    return opened


def _sweeps_id() -> str | None:
    """Return the id that a sweep's agent chose for the run; None outside a sweep."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None


def _forget_failed_run() -> None:
    """End W&B's helper process, which holds on to the id of the run that it could not open."""
    _client().teardown(exit_code=1)


def _client() -> Any:
    # The client's reports about itself hold up the program's end while the server is silent.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    return wandb


def _where(mode: str, reason: str, opened: Any, folder: Path) -> str:
    if mode == "online":
        return f"W&B: {opened.url}"
    if mode == "disabled":
        return "W&B: disabled"
    because = f" ({reason})" if reason else ""
    return f"W&B: offline{because}; send it later with `wandb sync {folder / 'wandb'}/offline-run-*`"


def _load(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return state
