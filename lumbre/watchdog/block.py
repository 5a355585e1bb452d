"""The one block that explains a hang, and the account of it in the run folder."""

from collections.abc import Mapping, Sequence

from lumbre.watchdog.cause import cause
from lumbre.watchdog.lateness import Late, late
from lumbre.watchdog.report import Report

MOST_NAMED = 4
"""Late ranks told one by one; of more, the first ones."""
RULE = "=" * 100


class Verdict:
    """What the reports come to."""

    def __init__(self, reports: Sequence[Report], members: Mapping[int, str], file: str) -> None:
        self._reports = {report.rank: report for report in reports}
        self._members = members
        self._file = file
        self.late: Late = late(reports, members)

    @property
    def rank(self) -> int:
        """The first rank that is late."""
        return self.late.ranks[0]

    @property
    def step(self) -> int:
        """The step that the run is at."""
        return max((report.step for report in self._reports.values()), default=0)

    @property
    def reason(self) -> str:
        """The verdict in one line."""
        ranks = ", ".join(self._named(rank) for rank in self.late.ranks[:MOST_NAMED])
        more = len(self.late.ranks) - MOST_NAMED
        return f"{ranks}{f' and {more} more' if more > 0 else ''}"

    def text(self) -> str:
        """Return the block."""
        stood = max((one.seconds for one in self._reports.values()), default=0.0)
        limit = min((one.limit for one in self._reports.values()), default=0.0)
        happens, sign = "stands still", self.late.sign
        if all(one.alive for one in self._reports.values()):
            sign = f"for {stood:.0f} s, longer than the limit of {limit:.0f} s; {sign}"
        else:
            happens = "has lost a rank"
        lines = [
            RULE,
            f"watchdog: the run {happens} at step {self.step}: {self.reason}",
            f"  {sign}",
            *(f"  {line}" for line in self._doings()),
        ]
        for rank in self.late.ranks[:MOST_NAMED]:
            one = self._reports.get(rank)
            if one is not None and one.frames:
                lines.append(f"  rank {rank}'s main thread, the innermost call first:")
                lines += [f"    {frame}" for frame in one.frames]
        lines.append("  the job ends with status 76; the same command goes on from the last checkpoint")
        lines += [f"  every stack: {self._file}", RULE]
        return "\n".join(lines) + "\n"

    def account(self) -> str:
        """Return the block, and every thread's stack of every rank."""
        parts = [self.text()]
        for one in self._reports.values():
            parts.append(f"\nrank {one.rank}, process {one.pid} on {one.host}\n{one.stacks}")
        return "".join(parts)

    def _named(self, rank: int) -> str:
        one = self._reports.get(rank)
        if one is None:
            return f"rank {rank} on {self._members.get(rank, 'a host unknown')} is gone with its host"
        if self.late.are_out_of_step:
            return f"rank {rank} on {one.host} (process {one.pid}) is out of step: {self.late.sign}"
        return f"rank {rank} on {one.host} (process {one.pid}) {cause(one)}"

    def _doings(self) -> list[str]:
        """Tell what the ranks do, those that do the same on one line."""
        groups: dict[str, list[Report]] = {}
        for one in self._reports.values():
            doing = one.phase
            if not one.alive:
                doing = "ended"
            elif one.waits_in:
                doing += f", in collective {one.waits_in}"
            groups.setdefault(doing, []).append(one)
        lines = []
        for doing, ones in groups.items():
            hosts = sorted({one.host for one in ones})
            where = ", ".join(hosts[:MOST_NAMED]) + (" ..." if len(hosts) > MOST_NAMED else "")
            lines.append(f"{_ranges([one.rank for one in ones])} ({where}): {doing}")
        return lines


def _ranges(ranks: Sequence[int]) -> str:
    """Return ranks as text, runs of them shortened."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    told = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
    return f"rank {told}" if len(ranks) == 1 else f"ranks {told}"
