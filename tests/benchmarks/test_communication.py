"""What a ZeRO rank sends and holds: the formulas, the counting, and the recorded counts."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.testing._internal.distributed.fake_pg import FakeStore

from benchmarks.communication_tables import (
    cut_gradient,
    formula,
    held_error,
    name_of,
    sent_error,
    tables,
    total_held,
)
from benchmarks.zero_counts import Traffic, held
from launch.zero import PAPER_MIXED, deepspeed_widths, ring_bytes
from launch.zero import held as held_by_formula
from launch.zero import sent as sent_by_formula

ROOT = Path(__file__).parents[2]
RECORDED = json.loads((ROOT / "benchmarks" / "results" / "communication.json").read_text())
RANKS = 4
ALMOST = 0.01
"""Padding and norms, on a model of a million parameters."""


def case_id(case: Mapping[str, Any]) -> str:
    """Return what a case is called."""
    return f"{name_of(case)}, {case['ranks']} ranks"


def agrees(case: Mapping[str, Any]) -> None:
    """Assert that a case's counts are what the formulas say."""
    sending, holding = sent_error(case), held_error(case)
    if sending is not None:
        assert abs(sending) < ALMOST
    if holding is not None:
        assert holding > -ALMOST
        assert total_held(case) - cut_gradient(case) < (1 + ALMOST) * formula(case)[1].total
    assert case["held"]["unnamed"] < 1000


def ring_all_reduce(parts_by_rank: list[list[int]]) -> tuple[list[list[int]], int]:
    """Add the ranks' lists as a ring does, and count the numbers that each rank sends."""
    ranks = len(parts_by_rank)
    values = [list(parts) for parts in parts_by_rank]
    sent = 0
    for gathering in (False, True):
        for turn in range(ranks - 1):
            moved = [(rank, (rank - turn + gathering) % ranks) for rank in range(ranks)]
            numbers = [values[rank][part] for rank, part in moved]
            for (rank, part), number in zip(moved, numbers, strict=True):
                neighbour = values[(rank + 1) % ranks]
                neighbour[part] = number if gathering else neighbour[part] + number
            sent += 1
    return values, sent


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_ring_bytes_are_what_a_ring_sends(ranks: int) -> None:
    start = [[10**rank + part for part in range(ranks)] for rank in range(ranks)]
    values, sent = ring_all_reduce(start)
    assert values == [[sum(parts) for parts in zip(*start, strict=True)]] * ranks
    assert ring_bytes("all_reduce", 8 * ranks, ranks) == 8 * sent
    assert ring_bytes("reduce_scatter", 8 * ranks, ranks) == 4 * sent
    assert ring_bytes("all_gather", 8 * ranks, ranks) == 4 * sent


def test_formulas_are_the_papers_figures() -> None:
    """Figure 1: 7.5 billion parameters on 64 ranks, in GB; section 7: volumes of 2, 2, 2 and 3 P."""
    found = [held_by_formula(stage, 7.5, 64, PAPER_MIXED).total for stage in (0, 1, 2, 3)]
    assert found == pytest.approx([120, 31.4, 16.6, 1.9], abs=0.05)
    volumes = [sent_by_formula(stage, 1.0, 10**9, PAPER_MIXED).total / 2 for stage in (0, 1, 2, 3)]
    assert volumes == pytest.approx([2, 2, 2, 3])


@pytest.fixture
def ranks() -> Iterator[int]:
    """Make this process rank 0 of a group whose others are made up."""
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)
    yield RANKS
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_each_collective_counts_as_the_whole_tensor(ranks: int) -> None:
    part, whole = torch.zeros(6), torch.zeros(6 * ranks)
    with Traffic() as traffic:
        distributed.all_reduce(whole)
        distributed.all_gather_into_tensor(whole, part)
        distributed.all_gather([torch.zeros(6) for _ in range(ranks)], part)
        distributed.reduce_scatter_tensor(part, whole)
        distributed.reduce(whole, 1)
        distributed.broadcast(whole, 0)
        distributed.all_reduce(torch.zeros(2))
        distributed.barrier()
    nbytes = 4 * 6 * ranks
    assert traffic.whole == {
        "all_reduce": nbytes + 8,
        "all_gather": 2 * nbytes,
        "reduce_scatter": nbytes,
        "reduce": nbytes,
        "broadcast": nbytes,
    }
    assert traffic.small == 8
    assert traffic.calls["all_gather"] == 2
    assert traffic.sent(ranks)["all_reduce"] == 2 * (nbytes + 8) * 3 / 4


def test_a_collective_that_is_not_known_is_refused(ranks: int) -> None:
    with pytest.raises(NotImplementedError, match="c10d::send"), Traffic():
        distributed.send(torch.zeros(2), 1)


def test_every_storage_counts_once() -> None:
    before = [torch.zeros(100)]
    model = torch.nn.Sequential(torch.nn.Embedding(50, 8), torch.nn.Linear(8, 50, bias=False))
    model[1].weight = model[0].weight
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.arange(5)).sum().backward()
    optimizer.step()
    found = held(model, optimizer, before)
    nbytes = 4 * 50 * 8
    assert (found.parameters, found.gradients) == (nbytes, nbytes)
    # Two moments, and a counter.
    assert found.optimizer == 2 * nbytes + 4
    assert found.total == 4 * nbytes + 4


def test_deepspeed_holds_more_than_the_paper() -> None:
    assert [deepspeed_widths(stage, "float32").total for stage in (0, 1, 2, 3)] == [16, 16, 16, 20]
    assert [deepspeed_widths(stage, "bfloat16").total for stage in (0, 1, 2, 3)] == [16, 20, 18, 18]


@pytest.mark.parametrize("case", RECORDED, ids=case_id)
def test_recorded_counts_are_the_formulas(case: Mapping[str, Any]) -> None:
    agrees(case)


def test_every_stage_is_recorded_on_every_number_of_ranks() -> None:
    cells = {(case["ranks"], case["stage"], case["precision"]) for case in RECORDED}
    assert cells >= set(product((1, 2, 4, 8), (0, 1, 2, 3), ("float32",)))
    assert cells >= set(product((1, 2, 4, 8), (1, 2, 3), ("bfloat16",)))


def test_recorded_table_is_that_of_the_counts() -> None:
    written = (ROOT / "benchmarks" / "results" / "communication.md").read_text()
    lines = "\n".join(tables(RECORDED)).splitlines()
    assert [line for line in lines if line.startswith("|")] == [
        line for line in written.splitlines() if line.startswith("|")
    ]


@pytest.mark.slow
def test_counts_of_a_run_are_the_formulas(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.communication",
            "--ranks",
            "2",
            "--stages",
            "2",
            "3",
            "--to",
            tmp_path,
        ],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads((tmp_path / "communication.json").read_text())
    assert {case["stage"] for case in found} == {2, 3}
    for case in found:
        agrees(case)
