"""Who is late, from what every rank's helper found out."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumbre.watchdog.block import Verdict
from lumbre.watchdog.lateness import late
from lumbre.watchdog.report import Child, Report

COUNTS, BUCKET, SUMS = ("gloo:all_reduce", [[3]]), ("gloo:all_reduce", [[500]]), ("gloo:all_reduce", [[1]])
STEP = [COUNTS, BUCKET, SUMS]


def report(
    rank: int, calls: list[tuple[str, list[list[int]]]] | None = None, *, waits: bool = True, **more: Any
) -> Report:
    """Return a rank that has begun these collectives after three usual steps, and waits in the last."""
    entries = [
        {"group": 0, "number": number, "name": name, "sizes": sizes}
        for number, (name, sizes) in enumerate([*STEP, *STEP, *STEP, *(calls or [])], start=1)
    ]
    status = {"begun": len(entries), "done": len(entries) - waits}
    fields = {
        "rank": rank,
        "host": f"host-{rank // 4}",
        "pid": 1000 + rank,
        "step": 4,
        "phase": "running backward",
        "collective": "",
        "collectives": 7,
        "seconds": 12.0,
        "limit": 10.0,
        "answers": True,
        "shares": {"S": 1.0},
        "torch": {"entries": entries, "status": {"0": status}},
        "frames": ["model.py:3 in forward: loop()"],
    }
    return Report(**{**fields, **more})


def members(reports: list[Report]) -> dict[int, str]:
    """Return where the ranks of these reports are."""
    return {one.rank: one.host for one in reports}


@given(st.integers(2, 9), st.data())
def test_the_rank_that_has_begun_the_fewest_collectives_is_late(ranks: int, data: st.DataObject) -> None:
    """Whoever has not come to the collective in which the others wait is named, whatever its number."""
    culprit = data.draw(st.integers(0, ranks - 1))
    reports = [
        report(rank, STEP[:1], waits=False) if rank == culprit else report(rank, STEP[:2])
        for rank in range(ranks)
    ]
    random.Random(0).shuffle(reports)
    assert late(reports, members(reports)).ranks == (culprit,)


@pytest.mark.parametrize("culprit", [0, 1])
@pytest.mark.parametrize(
    "others",
    [
        pytest.param(STEP[1:2], id="one is skipped"),
        pytest.param([("gloo:all_reduce", [[7]])], id="one too many"),
        pytest.param([("gloo:all_reduce", [[4]])], id="other shapes"),
    ],
)
def test_of_two_ranks_the_one_whose_collective_is_new_is_out_of_step(
    culprit: int, others: list[tuple[str, list[list[int]]]]
) -> None:
    """Two ranks that differ are told apart by what has always followed on what."""
    reports = [report(rank, others if rank == culprit else STEP[:1]) for rank in (0, 1)]
    found = late(reports, members(reports))
    assert found.ranks == (culprit,)
    assert found.are_out_of_step
    assert "gloo:all_reduce [[3]]" in Verdict(reports, members(reports), "file").text()


@pytest.mark.parametrize(
    ("signs", "words"),
    [
        ({"shares": {"T": 0.95, "S": 0.05}}, "stopped by a signal"),
        ({"answers": False, "torch": {}}, "Python's lock (GIL)"),
        ({"shares": {"D": 1.0}, "call": "fsync /runs/x"}, "state D, in fsync /runs/x"),
        ({"alive": False, "torch": {}}, "ended without a word"),
        ({"alive": False, "fatal": "Segmentation fault"}, "crashed: Segmentation fault"),
        ({"call": "write pipe:[5]"}, "blocked in a write pipe:[5]"),
        ({"shares": {"R": 0.9, "S": 0.1}}, "endless loop"),
        ({"phase": "waiting for data", "loader": ["loader.py:9 in get: wait()"]}, "gets no data"),
        (
            {"phase": "waiting for data", "children": [Child(7, "T", "python", "")]},
            "loader process 7 is stopped",
        ),
        ({"frames": ["threading.py:3 in wait: lock", "mine.py:4 in f: with lock:"]}, "at mine.py:4"),
        ({"call": "wait4", "children": [Child(8, "S", "sleep 9", "")]}, "process 8, state S: sleep 9"),
        ({"swapped_bytes": 9 << 30, "resident_bytes": 1 << 20}, "swapped out"),
        ({"frames": ["torch/utils/file_baton.py:49 in wait: time.sleep()"]}, "op's compilation"),
    ],
)
def test_the_cause_is_told_of_the_rank_that_is_late(signs: dict[str, Any], words: str) -> None:
    """Each sign gives its sentence, with the rank, its host and its process."""
    reports = [report(rank, STEP[:2]) for rank in (0, 1, 2)]
    reports.append(report(5, STEP[:1], waits=False, **signs))
    verdict = Verdict(reports, members(reports), "runs/x/watchdog/1.txt")
    assert verdict.rank == 5
    assert words in verdict.reason
    assert "rank 5 on host-1 (process 1005)" in verdict.reason
    assert "ranks 0-2 (host-0): running backward, in collective #11" in verdict.text()


def test_a_host_that_does_not_answer_is_named() -> None:
    """A rank that takes part and of which nothing comes has lost its host."""
    reports = [report(0, STEP[:2])]
    verdict = Verdict(reports, {0: "host-0", 4: "host-1"}, "file")
    assert verdict.rank == 4
    assert "rank 4 on host-1 is gone with its host" in verdict.reason


def test_reports_survive_the_way_between_hosts() -> None:
    """A report that was written and read is the same."""
    one = report(3, STEP, children=[Child(7, "T", "python", "read", ["a.py:1 in f"])])
    assert Report.of(one.text()) == one


def test_what_followed_once_at_the_start_is_rarer_than_what_follows_in_each_step() -> None:
    """A collective is not usual because it has come after the same one before, once."""
    odd = ("gloo:broadcast", [[1]])
    reports = [report(rank, [BUCKET, odd, *STEP, *STEP, *STEP[:2]]) for rank in (0, 1)]
    for one, last in zip(reports, (SUMS, odd), strict=True):
        number = len(one.torch["entries"]) + 1
        one.torch["entries"].append({"group": 0, "number": number, "name": last[0], "sizes": last[1]})
        one.torch["status"]["0"] = {"begun": number, "done": number - 1}
    assert late(reports, members(reports)).ranks == (1,)


def test_half_of_the_hosts_may_be_gone() -> None:
    """As many ranks may be missing as are there: the missing ones are late."""
    reports = [report(0, STEP[:2]), report(1, STEP[:2])]
    assert late(reports, {0: "host-0", 1: "host-0", 4: "host-1", 5: "host-1"}).ranks == (4, 5)
