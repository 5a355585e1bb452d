"""One ssh connection: how it is opened, and what a host has to say before a job is sent to it."""

import json
import shlex
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from .config import SshConfig
from .hosts import Host

ANSWER_SECONDS = 20
"""How long Python may take to start on a host that has been reached."""
SSH_FAILED = 255


@dataclass(frozen=True)
class Reply:
    """What a host has answered, or why it has not."""

    host: Host
    found: dict[str, Any]
    fault: str = ""
    remedy: str = ""


def ssh_line(config: SshConfig, host: Host, python: str, verb: str) -> list[str]:
    """Return the ssh command that runs our end on the host; its order goes over standard input."""
    beat = max(1, config.answer_timeout_seconds // 3)
    return [
        "ssh",
        *("-T", "-x", "-o", "BatchMode=yes"),
        *("-o", f"ConnectTimeout={config.connect_timeout_seconds}"),
        *("-o", f"ServerAliveInterval={beat}", "-o", "ServerAliveCountMax=3"),
        # A connection shared with others would neither end with this process nor be watched by it.
        *("-o", "ControlMaster=no", "-o", "ControlPath=none"),
        # So that ssh says how a connection ended.
        *("-o", "LogLevel=INFO"),
        *config.ssh_options,
        "--",
        host.name,
        f"exec {shlex.join([python, '-m', 'lumbre.launch.ssh.remote', verb])}",
    ]


def ask_all(config: SshConfig, hosts: Sequence[Host], python: str, order: dict[str, Any]) -> list[Reply]:
    """Ask all hosts at once what they have and see."""
    with ThreadPoolExecutor(min(64, len(hosts))) as pool:
        return list(pool.map(lambda host: _ask(config, host, python, order), hosts))


def address_of(config: SshConfig, host: Host) -> str:
    """Return the name or address that ssh's own settings give the host."""
    words = ["ssh", *config.ssh_options, "-G", "--", host.name]
    told = subprocess.run(words, capture_output=True, text=True, check=False)
    found = [line.split(" ", 1)[1] for line in told.stdout.splitlines() if line.startswith("hostname ")]
    return found[0] if found else host.machine


def _ask(config: SshConfig, host: Host, python: str, order: dict[str, Any]) -> Reply:
    limit = config.connect_timeout_seconds + ANSWER_SECONDS
    login = f"`ssh {host.name} true` must work without a question"
    try:
        told = subprocess.run(
            ssh_line(config, host, python, "probe"),
            input=json.dumps(order) + "\n",
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
            process_group=0,
        )
    except subprocess.TimeoutExpired:
        return Reply(host, {}, f"{host.name} took the connection and says nothing for {limit} s", login)
    words = told.stderr.strip().splitlines() or ["without a word"]
    if told.returncode == SSH_FAILED:
        return Reply(host, {}, f"{host.name} does not answer: {words[-1]}", login)
    if told.returncode in (126, 127):
        remedy = "install it there, or set python to the path on the hosts"
        return Reply(host, {}, f"{host.name} has no {python}", remedy)
    if "No module named" in words[-1]:
        remedy = "install Lumbre there, or set python to the one that has it"
        return Reply(host, {}, f"{host.name}: {python} has no Lumbre: {words[-1]}", remedy)
    try:
        # A login script may have printed before.
        found: dict[str, Any] = json.loads(told.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return Reply(host, {}, f"{host.name} cannot be asked: {words[-1]}", login)
    return Reply(host, found)
