"""Which rank of a run that hangs is late, from the reports of all of them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lumbre.watchdog.report import Report

MOSTLY = 0.5
"""A rank that was in a state for more than this part of the time was kept there."""
Call = tuple[str, str]
"""A collective's name and sizes."""


@dataclass(frozen=True)
class Late:
    """The ranks that the others wait for, and how that shows."""

    ranks: tuple[int, ...]
    sign: str
    are_out_of_step: bool = False
    """Whether they do other collectives than the others do: then that is the cause."""


def late(reports: Sequence[Report], members: Mapping[int, str]) -> Late:
    """Return who is late; every rank where none stands out."""
    if len(reports) == 1 and reports[0].alive and set(members) <= {reports[0].rank}:
        return Late((reports[0].rank,), "it is the only process that can be seen")
    deviant, difference = _deviant(reports)
    for ranks, sign in _signs(reports, members, (deviant, difference)):
        gone = set(ranks) - {one.rank for one in reports}
        if ranks and (gone or len(ranks) < len(reports) or len(reports) == 1):
            return Late(tuple(sorted(ranks)), sign, bool(sign) and sign == difference)
    return Late(tuple(sorted(report.rank for report in reports)), "no rank stands out from the others")


def _signs(
    reports: Sequence[Report], members: Mapping[int, str], deviant: tuple[list[int], str]
) -> Iterable[tuple[list[int], str]]:
    """Yield suspects, the surest sign first."""
    yield [report.rank for report in reports if not report.alive], "its process has ended"
    yield sorted(set(members) - {one.rank for one in reports}), "nothing on its host answers"
    yield [one.rank for one in reports if one.share("T") > MOSTLY or one.share("t") > MOSTLY], "it is stopped"
    yield deviant
    yield [one.rank for one in reports if not one.answers], "it is in C code that keeps Python's lock"
    counts = _begun(reports)
    if counts and len(set(counts.values())) > 1:
        least = min(counts.values())
        sign = f"it has not come to collective #{least + 1}, in which the others wait"
        yield [rank for rank, count in counts.items() if count == least], sign
    outside = [one.rank for one in reports if not one.waits_in]
    yield outside, "it is in no collective, the others are"
    yield [one.rank for one in reports if one.share("D") > MOSTLY], "it waits for a disk"
    furthest = max((one.seconds for one in reports), default=0.0)
    yield [one.rank for one in reports if one.seconds > furthest - 0.5 and not one.waits_in], "it stood first"


def _begun(reports: Sequence[Report]) -> dict[int, int]:
    """Return how many collectives of the whole job each rank has begun, where all of them tell."""
    counts = {}
    for report in reports:
        status = report.torch.get("status", {})
        if "0" not in status:
            return {}
        counts[report.rank] = status["0"]["begun"]
    return counts


def _deviant(reports: Sequence[Report]) -> tuple[list[int], str]:
    """Return who does another collective than the others do under the same number.

    Where two ranks differ, the one whose collective has followed on the one before it less often deviates.
    """
    histories = {report.rank: _history(report) for report in reports}
    histories = {rank: history for rank, history in histories.items() if history}
    if len(histories) < 2:
        return [], ""
    common = set.intersection(*(set(history) for history in histories.values()))
    for number in sorted(common):
        calls = {rank: history[number] for rank, history in histories.items()}
        if len(set(calls.values())) == 1:
            continue
        told = "; ".join(f"rank {rank} does {name} {sizes}" for rank, (name, sizes) in sorted(calls.items()))
        sign = f"the ranks do not do the same collective #{number}: {told}"
        (usual, count), *others = Counter(calls.values()).most_common()
        if count == others[0][1]:
            often = {rank: _times(history, number) for rank, history in histories.items()}
            return [rank for rank, times in often.items() if times == min(often.values())], sign
        return [rank for rank, call in calls.items() if call != usual], sign
    return [], ""


def _times(history: Mapping[int, Call], number: int) -> int:
    """Return how often the collective of that number has followed on the one before it earlier on."""
    pair = (history.get(number - 1), history[number])
    return sum((history.get(at - 1), history[at]) == pair for at in history if at < number)


def _history(report: Report) -> dict[int, Call]:
    entries: list[dict[str, Any]] = report.torch.get("entries", [])
    return {one["number"]: (one["name"], str(one["sizes"])) for one in entries if str(one["group"]) == "0"}
