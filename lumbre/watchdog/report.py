"""What one helper has found out about its rank, as it goes from host to host."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Child:
    """A process that the rank has started: a loader's worker, a probe."""

    pid: int
    state: str
    command: str
    call: str
    frames: list[str] = field(default_factory=list)


@dataclass
class Report:
    """One rank when a hang was looked into."""

    rank: int
    host: str
    pid: int
    step: int
    phase: str
    collective: str
    collectives: int
    seconds: float
    """Since the rank's last note."""
    limit: float
    alive: bool = True
    shares: dict[str, float] = field(default_factory=dict)
    """Which part of that time the main thread was in each state of /proc."""
    call: str = ""
    tracer: int = 0
    swapped_bytes: int = 0
    resident_bytes: int = 0
    answers: bool = False
    """Whether another thread of the rank could run Python."""
    torch: dict[str, Any] = field(default_factory=dict)
    """Collectives by torch's own record: entries, and the numbers begun and done of each group."""
    frames: list[str] = field(default_factory=list)
    """The main thread's stack, the innermost call first."""
    loader: list[str] = field(default_factory=list)
    """The stack of the thread that makes batches."""
    children: list[Child] = field(default_factory=list)
    fatal: str = ""
    stacks: str = ""
    """Every thread's stack, as faulthandler wrote it."""

    def text(self) -> str:
        """Return the report as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> "Report":
        """Return the report that `text` was made of."""
        fields = json.loads(text)
        return cls(**{**fields, "children": [Child(**child) for child in fields["children"]]})

    def share(self, state: str) -> float:
        """Return which part of the time the main thread was in a state of /proc."""
        return self.shares.get(state, 0.0)

    @property
    def waits_in(self) -> str:
        """The collective that the rank waits in, "" where it waits in none."""
        begun = self.unfinished
        if begun:
            name = f"#{begun['number']} {begun['name']} {begun['sizes']}"
            return f"{name} ({self.collective})" if self.collective else name
        return self.collective

    @property
    def unfinished(self) -> dict[str, Any] | None:
        """The earliest collective that has begun and is not done, by torch's own record."""
        status = self.torch.get("status", {})
        for entry in self.torch.get("entries", []):
            if entry["number"] > status.get(str(entry["group"]), {}).get("done", entry["number"]):
                found: dict[str, Any] = entry
                return found
        return None
