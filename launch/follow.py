"""`lumbre launch status|logs|cancel NAME`: what became of a launch."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lumbre.errors import ExitStatus, LaunchError

from . import records
from .base import JobState

VERBS = ("status", "logs", "cancel")


def follow(verb: str, names: Sequence[str]) -> int:
    """Do what the verb says for the launches named; without a name, for the latest one.

    Raises LaunchError for a name that has no record.
    """
    asked = list(names) or records.known()[:1]
    if not asked:
        raise LaunchError(f"nothing was launched from this folder: there is no {records.LAUNCHES}/")
    for name in asked:
        launcher, record = records.read(name)
        if verb == "status":
            _show(name, launcher.status(record))
        elif verb == "logs":
            for line in launcher.logs(record):
                print(line, flush=True)
        else:
            launcher.cancel(record)
            print(f"{name}: asked to save and stop; see `lumbre launch status {name}`")
    return ExitStatus.DONE


def _show(name: str, jobs: Sequence[JobState]) -> None:
    table = Table("job", "state", "step", "", box=None, title=Text(name, "bold"), title_justify="left")
    for job in jobs:
        step = "" if job.step is None else f"{job.step:,}"
        cells = (job.name, job.state, step, job.detail)
        table.add_row(*map(Text, cells))
    Console(highlight=False, soft_wrap=True).print(table)
