"""The stream of samples is the same for any layout, and the loader leaves nothing running."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lumbre.errors import DataError
from pretrain.data.loader import IGNORED, Loader, evaluation_batches
from pretrain.data.order import GlobalOrder
from pretrain.data.plan import Plan, Stage, StageConfig

G = 12
LAYOUTS = [(1, 12, 2, 0), (1, 4, 1, 2), (2, 3, 5, 0), (3, 2, 0, 2), (6, 1, 2, 0), (12, 1, 1, 0)]


def plan(micro, *later):
    """Return a plan of G samples a step, and what comes later."""
    return Plan.of(Stage(0, 0, 64, G, micro, (1.0,)), [StageConfig(**stage) for stage in later])


@pytest.fixture(scope="module")
def sample(prepared, config):
    rows = config.packing.build(prepared.split("train"), config.seq_length, pad_id=0)
    order = GlobalOrder(rows.num_rows, seed=1)

    def one(k):
        row = rows.row(order(k)[1])
        return row | {"labels": row["input_ids"]}

    return one


def loader(sample, rank=0, world=1, micro=4, start=0, stop=5, **keys):
    return Loader(
        sample,
        plan(micro),
        rank=rank,
        world_size=world,
        start_step=start,
        stop_step=stop,
        **keys,
    )


def stream(sample, world, micro, prefetch, workers, start=0, stop=5):
    """Return each step's global batch, the ranks' micro batches joined in rank order."""
    ranks = []
    for rank in range(world):
        with loader(
            sample, rank, world, micro, start, stop, prefetch_steps=prefetch, workers=workers
        ) as batches:
            ranks.append(list(batches))
    return [
        {key: torch.cat([batch[key] for rank in step for batch in rank]) for key in step[0][0]}
        for step in zip(*ranks, strict=True)
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_stream_is_the_same_for_any_world_size_micro_batch_and_prefetch(sample, layout):
    steps = stream(sample, *layout)
    assert len(steps) == 5
    for number, step in enumerate(steps):
        assert step["sample"].tolist() == list(range(number * G, (number + 1) * G))
        for place, k in enumerate(step["sample"].tolist()):
            for key, value in sample(k).items():
                assert step[key].dtype == torch.from_numpy(value).dtype
                assert step[key][place].tolist() == value.tolist()


@pytest.mark.parametrize("start", [0, 1, 4, 5])
def test_the_stream_from_any_step_is_the_rest_of_the_stream(sample, start):
    whole = stream(sample, 1, 4, 2, 0)
    rest = stream(sample, 2, 2, 2, 0, start=start)
    assert len(rest) == 5 - start
    for one, other in zip(whole[start:], rest, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_state_is_the_number_of_the_next_step(sample):
    with loader(sample, start=2) as batches:
        next(batches)
        assert batches.next_step == 3


def test_a_global_batch_that_cannot_be_cut_is_refused(sample):
    with pytest.raises(
        ValueError, match="global_batch_size 12 is no multiple of micro_batch_size 4 x world size 2"
    ):
        loader(sample, world=2, micro=4)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failure_in_the_background_is_raised_where_the_batch_was_due(sample, workers):
    def failing(k):
        if k == 2 * G:
            raise OSError("the disk is gone")
        return sample(k)

    batches = loader(failing, workers=workers)
    next(batches)
    next(batches)
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)


@pytest.mark.parametrize("taken", [0, 1, 5])
@pytest.mark.parametrize("workers", [0, 2])
def test_closing_leaves_nothing_running(sample, taken, workers):
    before = threading.active_count()
    batches = loader(sample, workers=workers, prefetch_steps=1)
    for _ in range(taken):
        next(batches)
    batches.close()
    batches.close()
    assert multiprocessing.active_children() == []
    deadline = time.monotonic() + 5  # the threads of pipes end by themselves
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert next(batches, None) is None


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("micro", [1, 4])
def test_evaluation_takes_each_row_once_and_every_rank_goes_as_often(sample, world, micro):
    rows = 10
    ranks = [
        list(evaluation_batches(sample, num_rows=rows, micro_batch_size=micro, rank=rank, world_size=world))
        for rank in range(world)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    counted = [
        (int(k), label.tolist())
        for batches in ranks
        for batch in batches
        for k, label in zip(batch["sample"], batch["labels"], strict=True)
        if (label != IGNORED).any()
    ]
    assert counted == [(k, sample(k)["labels"].tolist()) for k in range(rows)]


def test_batches_are_tensors_of_the_rows(sample):
    with loader(sample, micro=3, stop=1) as batches:
        micro_batches = next(batches)
    assert len(micro_batches) == 4
    first = micro_batches[0]
    assert first["input_ids"].shape == (3, 64)
    assert (first["input_ids"].dtype, first["document_ids"].dtype) == (torch.int64, torch.int32)
    assert np.array_equal(first["input_ids"][1].numpy(), sample(1)["input_ids"])


def test_each_stage_has_its_own_batch(sample):
    later = {"after_step": 2, "global_batch_size": 8}, {"after_step": 3, "micro_batch_size": 8}
    with Loader(sample, plan(4, *later), rank=0, world_size=1, start_step=0, stop_step=5) as batches:
        steps = [[batch["sample"].tolist() for batch in step] for step in batches]
    assert [[len(batch) for batch in step] for step in steps] == [[4, 4, 4]] * 2 + [[4, 4]] + [[8]] * 2
    assert [k for step in steps for batch in step for k in batch] == list(range(2 * 12 + 3 * 8))


def test_a_stage_whose_batch_cannot_be_cut_is_refused_at_the_start(sample):
    stages = plan(4, {"after_step": 3, "global_batch_size": 6})
    with pytest.raises(ValueError, match="step 4: global_batch_size 6 is no multiple of micro_batch_size 4"):
        Loader(sample, stages, rank=0, world_size=1, start_step=0, stop_step=5)
    Loader(sample, stages, rank=0, world_size=1, start_step=0, stop_step=3).close()


def test_a_worker_that_dies_is_replaced_and_the_stream_is_the_same(sample):
    def slow(k):
        time.sleep(0.01)
        return sample(k)

    told = []
    with loader(slow, workers=2, stop=5, tell=told.append) as batches:
        steps = [next(batches)]
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        steps += batches
    assert [k for step in steps for batch in step for k in batch["sample"].tolist()] == list(range(5 * G))
    assert len(told) == 1
    assert told[0].endswith("fresh ones go on where it left off")


@pytest.mark.slow
def test_workers_that_always_die_are_an_error_that_says_what_to_lower(sample):
    def deadly(k):
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(DataError, match=r"its processes end by themselves: .*lower data.loader_workers"):
        next(loader(deadly, workers=1))


KILLED = """
import sys, time
import numpy as np
from pretrain.data.loader import Loader
from pretrain.data.plan import Plan, Stage

def sample(k):
    return {"input_ids": np.full(100_000, k)}

plan = Plan.of(Stage(0, 0, 64, 8, 4, (1.0,)))
with Loader(sample, plan, rank=0, world_size=1, start_step=0, stop_step=10**6, workers=2) as batches:
    for number, step in enumerate(batches):
        if number == 5:
            print("ready", flush=True)
"""


def test_a_kill_leaves_no_process_and_no_shared_memory():
    root = Path(__file__).parents[3]
    before = set(Path("/dev/shm").iterdir())
    with subprocess.Popen([sys.executable, "-c", KILLED], cwd=root, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        threads = [task.name for task in Path(f"/proc/{process.pid}/task").iterdir()]
        children += [
            child
            for thread in threads
            for child in Path(f"/proc/{process.pid}/task/{thread}/children").read_text().split()
        ]
        assert len(set(children)) == 2
        process.kill()
    deadline = time.monotonic() + 5
    while any(alive(child) for child in children):
        assert time.monotonic() < deadline, "workers outlive the training process"
        time.sleep(0.02)
    assert set(Path("/dev/shm").iterdir()) <= before


def alive(process):
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"
