"""How ranks ended, as the agent of their node saw it: a rank that is killed leaves no record of its own."""

import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOGETHER_SECONDS = 2
"""Ranks that ended so soon after the first ended with it; the agent ends the others, at last by SIGKILL."""


@dataclass(frozen=True)
class RankEnd:
    """A rank that did not end with 0."""

    rank: int
    local_rank: int
    status: int
    """Its exit status; -N after signal N."""
    time: int
    """Unix time in seconds."""
    host: str = ""

    @property
    def signal_name(self) -> str:
        """The signal that killed it; "" where none did, or the one with which agents end the others."""
        if self.status >= 0 or self.status == -signal.SIGTERM:
            return ""
        try:
            return signal.Signals(-self.status).name
        except ValueError:
            return f"signal {-self.status}"

    @property
    def told(self) -> str:
        """The end in words."""
        where = f" on {self.host}" if self.host else ""
        how = f"was killed by {name}" if (name := self.signal_name) else f"ended with status {self.status}"
        return f"rank {self.rank}{where} {how}"


def read_rank_ends(file: Path, host: str = "") -> list[RankEnd]:
    """Return what an agent has written in the order it saw it; nothing where it wrote nothing."""
    try:
        rows: list[dict[str, Any]] = json.loads(file.read_bytes())
        return [RankEnd(**row, host=host) for row in rows]
    except (OSError, ValueError, TypeError):
        return []


def first_end(ends: Sequence[RankEnd]) -> RankEnd | None:
    """Return the end from which the others followed: of those that came first, one by a signal."""
    if not ends:
        return None
    began = min(end.time for end in ends)
    early = [end for end in ends if end.time <= began + TOGETHER_SECONDS]
    return next((end for end in early if end.signal_name), early[0])
