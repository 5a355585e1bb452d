"""The stream of samples is the same for any layout, and the loader leaves nothing running."""

import threading

import numpy as np
import pytest
import torch

from pretrain.data.loader import IGNORED, Loader, evaluation_batches
from pretrain.data.order import GlobalOrder

G = 12
LAYOUTS = [(1, 12, 2, 1), (1, 4, 1, 3), (2, 3, 5, 1), (3, 2, 0, 2), (6, 1, 2, 1), (12, 1, 1, 1)]


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
        global_batch_size=G,
        micro_batch_size=micro,
        rank=rank,
        world_size=world,
        start_step=start,
        stop_step=stop,
        **keys,
    )


def stream(sample, world, micro, prefetch, threads, start=0, stop=5):
    """Return each step's global batch, the ranks' micro batches joined in rank order."""
    ranks = []
    for rank in range(world):
        with loader(
            sample, rank, world, micro, start, stop, prefetch_steps=prefetch, threads=threads
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
    whole = stream(sample, 1, 4, 2, 1)
    rest = stream(sample, 2, 2, 2, 1, start=start)
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


def test_a_failure_in_the_background_is_raised_where_the_batch_was_due(sample):
    def failing(k):
        if k == 2 * G:
            raise OSError("the disk is gone")
        return sample(k)

    batches = loader(failing)
    next(batches)
    next(batches)
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_closing_leaves_nothing_running(sample, taken):
    before = threading.active_count()
    batches = loader(sample, threads=2, prefetch_steps=1)
    for _ in range(taken):
        next(batches)
    batches.close()
    batches.close()
    assert threading.active_count() == before
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
