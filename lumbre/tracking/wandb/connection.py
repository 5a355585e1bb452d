"""How W&B is reached: online where there is a key and a network, else offline, and never by hanging."""

import netrc
import os
import re
import socket
import threading
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from lumbre.errors import ConfigError, Problem
from lumbre.tracking.base import RunInfo

PROBE_SECONDS = 3.0
INIT_SECONDS = 30.0
FINISH_SECONDS = 60.0
"""What is not sent by then stays on disk for `wandb sync`."""
FLUSH_SECONDS = 1.0
"""The client writes its file this often; a kill loses what it holds, which the resumed run sends."""
NO_NETWORK = "no network"
SERVICE = "wandb-core"
"""The helper process that writes and sends what the client is given."""


@dataclass(frozen=True)
class Connection:
    """An open W&B run."""

    run: Any
    mode: str
    reason: str
    """Why it is offline of necessity."""
    unreachable: str = ""
    """The same where there is a key, and so sending was meant."""

    def where(self, folder: Path) -> str:
        """Tell the user where the run is to be seen."""
        if self.mode == "online":
            return f"W&B: {self.run.url}"
        if self.mode == "disabled":
            return "W&B: disabled"
        because = f" ({self.reason})" if self.reason else ""
        return f"W&B: offline{because}; send it later with `wandb sync {folder / 'wandb'}/offline-run-*`"


def connect(run: RunInfo, run_id: str, wanted: str, belonging: Mapping[str, Any]) -> Connection:
    """Open the W&B run, offline where that is all that can be had.

    Raises ConfigError where `wanted` is online and W&B refuses or cannot be reached.
    """
    mode, reason = choose_mode(wanted)
    try:
        opened = _init(run, run_id, mode, belonging)
        return Connection(opened, mode, reason, reason if reason.startswith(NO_NETWORK) else "")
    except Exception as error:
        if mode != "online":
            raise
        fault = _fault(error)
        # Its helper process holds on to the id of the run that it could not open.
        _teardown()
        if wanted == "online":
            remedy = "set WANDB_API_KEY to a valid key, or use mode: auto, which goes offline by itself"
            raise ConfigError([Problem("tracking", fault, remedy)]) from error
    return Connection(_init(run, run_id, "offline", belonging), "offline", fault, fault)


def choose_mode(wanted: str) -> tuple[str, str]:
    """Return W&B's mode and, where it is offline of necessity, why; takes at most 3 s."""
    mode = os.environ.get("WANDB_MODE") or wanted
    if mode != "auto":
        return mode, ""
    url = client().setup().settings.base_url
    if not _has_key(url):
        return "offline", f"no key (WANDB_API_KEY or `wandb login`) for {url}"
    if not reachable(url, PROBE_SECONDS):
        return "offline", f"{NO_NETWORK} to {url}"
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


def service() -> psutil.Process | None:
    """Return the client's helper process; None where there is none."""
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if child.name() == SERVICE:
                return child
    return None


def abandon() -> None:
    """End a helper process that does not answer: Python's end would wait for it."""
    if (process := service()) is not None:
        process.kill()
    with suppress(Exception):
        _teardown()


def _teardown() -> None:
    """End the helper process; the client exits the program where that ends with another status than 0."""
    with suppress(SystemExit):
        client().teardown(exit_code=1)


def client() -> Any:
    """Import the client, its reports about itself off: they hold up the end while the server is silent."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    return wandb


def _has_key(url: str) -> bool:
    settings = client().setup().settings
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


def _init(run: RunInfo, run_id: str, mode: str, belonging: Mapping[str, Any]) -> Any:
    wandb = client()
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
        name=run.name,
        id=run_id,
        dir=run.folder,
        config=run.config,
        mode=mode,
        resume="allow" if mode == "online" else None,
        settings=settings,
        **belonging,
    )
    # Three axes to choose from: each row has all of them.
    opened.define_metric("step", hidden=True)
    opened.define_metric("tokens", hidden=True)
    opened.define_metric("samples", hidden=True)
    opened.define_metric("*", step_metric="step")
    return opened


def _fault(error: Exception) -> str:
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    # As words: an address with the port 40105 is no refusal.
    refused = re.search(r"\b40[13]\b|unauthorized|invalid api key", str(error), re.IGNORECASE)
    return f"W&B refuses the key: {said}" if refused else f"W&B cannot be reached: {said}"
