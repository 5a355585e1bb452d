"""A look at the hosts before an attempt: who answers, sees the folders, and has nothing left to end."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lumbre.errors import LaunchError

from ..base import Launch, Run
from .config import SshConfig
from .connection import ask_all
from .hosts import Host


@dataclass
class Look:
    """What was seen."""

    able: list[Host] = field(default_factory=list)
    """Hosts that can take their part, in order."""
    faults: list[str] = field(default_factory=list)
    """What is wrong with the others, and the remedy."""
    is_busy: bool = False
    """Whether a job of this launch still runs on one of those."""
    port: int = 0
    """A free port of the first of the hosts that can take their part."""


def look(config: SshConfig, python: str, launch: Launch, run: Run, hosts: Sequence[Host]) -> Look:
    """Ask all hosts at once; raises LaunchError where a folder of the run cannot be written here."""
    folders = [launch.folder, run.folder.parent]
    with markers(folders) as files:
        replies = ask_all(config, hosts, python, {"files": files, "launch": str(launch.folder)})
    seen = Look()
    for reply in replies:
        faults = []
        if reply.fault:
            seen.faults.append(f"{reply.fault}; {reply.remedy}")
            continue
        for folder, file in zip(folders, files, strict=True):
            if file in reply.found["unseen"]:
                remedy = "set runs_folder to one that all hosts share under the same path"
                faults.append(f"{reply.host.name} does not see {folder} as it is here; {remedy}")
        if pids := reply.found["running"]:
            seen.is_busy = True
            limit = f"it has {config.stop_timeout_seconds} s to save; try again when it has ended"
            faults.append(
                f"{reply.host.name}: a job of this launch still runs there (process {pids[0]}); {limit}"
            )
        seen.faults += faults
        if not faults:
            seen.able.append(reply.host)
            seen.port = seen.port or reply.found["port"]
    return seen


@contextmanager
def markers(folders: Sequence[Path]) -> Iterator[list[str]]:
    """Put a new file in each folder while the context lasts, for the hosts to look for.

    Raises LaunchError where a folder takes none.
    """
    with ExitStack() as stack:
        files = []
        for folder in folders:
            file = folder / f".seen-{secrets.token_hex(8)}"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                file.touch()
            except OSError as error:
                raise LaunchError(f"{folder}: cannot be written: {error.strerror}") from error
            stack.callback(file.unlink, missing_ok=True)
            files.append(str(file))
        yield files
