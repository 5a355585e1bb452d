"""What the rounds come to: medians and quartiles, ratios within rounds, and tables of them."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.speed.contenders import CONTENDERS

Answer = Mapping[str, Any]
"""What a gate measured in one round."""
PARTS = ("data", "forward", "backward", "optimizer", "communication", "checks")
REST = "loop"


@dataclass(frozen=True)
class Spread:
    """A median, and the quartiles around it."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return that of some values."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high)

    def shown(self, form: str) -> str:
        """Return the three numbers, each in that form."""
        return f"{self.middle:{form}} ({self.low:{form}} to {self.high:{form}})"


def rate(round_: Answer) -> float:
    """Return a round's tokens per second: those of a mean step in the time of the median one."""
    return statistics.mean(round_["tokens"]) / statistics.median(round_["seconds"])


def utilization(round_: Answer, flops: float, ranks: int = 1) -> float:
    """Return a round's MFU: against the median product between its steps, of each rank."""
    return flops / statistics.median(round_["seconds"]) / (ranks * statistics.median(round_["products"]))


def ratio(ours: Sequence[Answer], theirs: Sequence[Answer]) -> Spread:
    """Return how many times as many tokens per second one does as the other, round by round."""
    return Spread.of([rate(one) / rate(other) for one, other in zip(ours, theirs, strict=True)])


def best(found: Mapping[str, Sequence[Answer]], side: str) -> str | None:
    """Return the fastest contender of a side by its median, None where it has none."""
    members = [name for name in found if CONTENDERS[name].side == side]
    return max(members, key=lambda name: statistics.median(map(rate, found[name])), default=None)


def breakdown(answer: Answer) -> dict[str, float]:
    """Return the seconds of a mean step by part; what is left of the step is the last one."""
    whole = statistics.mean(answer["seconds"])
    parts = {name: answer["parts"].get(name, 0.0) for name in PARTS}
    return {**parts, REST: whole - sum(parts.values())}


def table(found: Mapping[str, Sequence[Answer]], flops: float, ranks: int) -> Iterator[str]:
    """Yield a shape's table: a line a contender."""
    yield "| | tokens/s | MFU | step ms | product GFLOP/s | peak memory MiB |"
    yield "|---|---|---|---|---|---|"
    for name, rounds in found.items():
        own = ranks if CONTENDERS[name].side == "lumbre" else 1
        cells = [
            Spread.of(list(map(rate, rounds))).shown(",.0f"),
            Spread.of([utilization(one, flops, own) for one in rounds]).shown(".2f"),
            f"{1e3 * statistics.median(second for one in rounds for second in one['seconds']):.1f}",
            f"{statistics.median(rate for one in rounds for rate in one['products']) / 1e9:,.0f}",
            f"{max(one['peak_memory'] for one in rounds) / 2**20:,.0f}",
        ]
        yield f"| {name} | {' | '.join(cells)} |"


def ratios(found: Mapping[str, Sequence[Answer]]) -> dict[str, Spread]:
    """Return the ratio of our best to each peer's best, and to a padded peer."""
    ours = best(found, "lumbre")
    peers = [
        best(found, "nanogpt"),
        best({name: one for name, one in found.items() if name != "hf-padded"}, "hf"),
    ]
    peers += [name for name in found if name == "hf-padded"]
    return {
        f"{ours} / {peer}": ratio(found[ours], found[peer])
        for peer in peers
        if ours is not None and peer is not None
    }


def parts_table(found: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Yield the breakdown of a step of each contender, in ms and in shares of the step."""
    yield f"| ms of a step | {' | '.join((*PARTS, REST))} |"
    yield "|---|" + "---|" * (len(PARTS) + 1)
    for name, parts in found.items():
        whole = sum(parts.values())
        cells = (f"{1e3 * seconds:.2f} ({seconds / whole:.1%})" for seconds in parts.values())
        yield f"| {name} | {' | '.join(cells)} |"
