"""ZeRO 1 and 2 on two ranks with fewer passes over memory learn what DeepSpeed's own learn."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .reduction_worker import MICRO_BATCHES, STEPS, WIDTH, WORDS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    file = tmp_path_factory.mktemp("reduction") / "found.json"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "tests.distributed.reduction_worker", str(file)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr[-4000:]
    # DeepSpeed warns of optimizers that it does not know, and ours are tested here.
    assert "untested optimizer" not in done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(file.read_text())
    return found


def test_weights_are_deepspeeds_own_to_the_bit_and_where_norms_clip_to_their_rounding(
    cases: list[dict[str, Any]],
) -> None:
    for case in cases:
        bound = 0.0 if not case["clipping"] and case["precision"] == "float32" else 1e-6
        assert case["difference"] <= bound, case
        assert case["short"]["norms"] == pytest.approx(case["plain"]["norms"], rel=1e-6)
        assert min(case["short"]["norms"]) > 1.0


def test_a_gradient_that_is_much_of_the_model_is_summed_by_itself(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        times = STEPS * (MICRO_BATCHES if case["stage"] == 2 else 1)
        assert case["short"]["summed"].count(WORDS * WIDTH) == times
        assert WORDS * WIDTH not in case["plain"]["summed"]


def test_there_is_room_for_copies_of_small_gradients_alone(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        in_float32 = case["precision"] == "float32"
        assert (0 < case["short"]["room"] < WORDS * WIDTH) == in_float32
        assert (case["plain"]["room"] > WORDS * WIDTH) == in_float32


def test_float32_weights_that_a_rank_updates_are_the_models(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        assert case["short"]["shared"] == (case["precision"] == "float32")
        assert not case["plain"]["shared"]
