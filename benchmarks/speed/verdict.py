"""Whether a ratio to the peer has been lost since it was recorded."""

from dataclasses import dataclass

LIMIT = 0.05
"""The loss that is let pass. A count repeats to 0.2%; a loss of 10% must never pass."""


@dataclass(frozen=True)
class Counts:
    """Instructions a token."""

    ours: float
    peer: float

    @property
    def ratio(self) -> float:
        """How many tokens we do for one of the peer's, by count."""
        return self.peer / self.ours


@dataclass(frozen=True)
class Verdict:
    """What is said of one case."""

    is_lost: bool
    text: str


def loss(recorded: Counts, now: Counts) -> float:
    """Return the part of the recorded ratio that is gone; a gain is negative."""
    return 1 - now.ratio / recorded.ratio


def verdict(name: str, recorded: Counts, now: Counts) -> Verdict:
    """Return the verdict on a case."""
    lost = loss(recorded, now)
    text = (
        f"{name}: {now.ratio:.3f} to the peer, recorded {recorded.ratio:.3f} ({-lost:+.1%}); instructions a"
        f" token: ours {recorded.ours:,.0f} -> {now.ours:,.0f}, the peer's {recorded.peer:,.0f} ->"
        f" {now.peer:,.0f}"
    )
    if lost > LIMIT:
        return Verdict(True, f"LOST {text}")
    return Verdict(False, f"{'gain' if lost < -LIMIT else 'ok  '} {text}")
