"""A model larger than a process's memory: what a rank has of it while it starts, saves, restores
and exports."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FLOAT = 4
KINDS = 3
"""Tensors a parameter in a checkpoint: itself and two states."""

pytestmark = pytest.mark.slow
Taken = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Taken:
    """Return what each rank of each group took."""
    folder = tmp_path_factory.mktemp("memory")
    done = subprocess.run(
        [sys.executable, "-m", "tests.distributed.memory_worker", str(folder)],
        check=False,
        cwd=ROOT,
        env={
            **os.environ,
            **{"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"},
            # What is freed goes back at once, as it does where matrices are large (over 32 MB, mallopt(3)).
            "MALLOC_MMAP_THRESHOLD_": str(2**20),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: Taken = {}
    for file in sorted(folder.glob("*.json")):
        found.setdefault(file.stem.split("-")[0], []).append(json.loads(file.read_text()))
    return found


def weights(taken: Taken) -> int:
    """Return the bytes of the whole model."""
    return int(taken["saved"][0]["parameters"]) * FLOAT


def test_no_rank_has_the_whole_model_while_it_starts(taken: Taken) -> None:
    """Its part, and one parameter after the other; what an engine adds to it is of the part's size."""
    assert len(taken["stage3"]) == 4
    for rank in (*taken["saved"], *taken["stage3"]):
        assert rank["shared"] < 0.6 * weights(taken)


def test_no_rank_has_the_whole_model_while_it_starts_from_a_folder(taken: Taken) -> None:
    """Where ranks share out parameters, or their rows and columns; of these all have the embedding."""
    assert len(taken["started"]) == 4
    for rank in taken["started"]:
        assert rank["shared"] < 0.6 * weights(taken)
    for rank in taken["tensor"]:
        assert rank["shared"] < 0.8 * weights(taken)


def test_no_process_has_the_whole_model_while_it_is_exported(taken: Taken) -> None:
    """A file's part of it is gathered and written at a time, and the proof reads a block at a time."""
    (alone,) = taken["exported"]
    assert alone["moved"] < 0.6 * weights(taken)


@pytest.mark.parametrize("group", ["saved", "stage3"])
def test_no_rank_has_the_whole_model_while_it_saves_or_restores(taken: Taken, group: str) -> None:
    """Half as much is its part of two states, which are made then; the allocator may keep some besides."""
    for rank in taken[group]:
        assert rank["moved"] < weights(taken)


def test_ranks_that_share_parameters_out_read_each_byte_once(taken: Taken) -> None:
    read = [rank["read"] for rank in taken["stage3"]]
    assert sum(read) == KINDS * weights(taken)
    assert max(read) < 1.01 * sum(read) / len(read)


@pytest.mark.parametrize("group", ["stage1", "stage2"])
def test_ranks_that_have_all_parameters_read_their_part_of_the_rest(taken: Taken, group: str) -> None:
    read = [rank["read"] for rank in taken[group]]
    assert sum(read) == (len(read) + KINDS - 1) * weights(taken)
    assert max(read) < 1.01 * sum(read) / len(read)
