"""Faults of every kind at seeded moments, and the run is the one that had none."""

import os
from pathlib import Path

import pytest

from tests.end_to_end.conftest import lay_out_project
from tests.faults.kinds import KILLS, OTHERS
from tests.faults.laboratory import disk_for, endure

COUNT = int(os.environ.get("LUMBRE_FAULTS", "9"))
"""How much is done to one run; a nightly job can afford more."""
SEED = int(os.environ.get("LUMBRE_SEED", "3"))
ZERO = ("engine.type=deepspeed", "engine.zero_stage=2")
KINDS = (*dict.fromkeys(KILLS), *OTHERS)


@pytest.mark.slow
@pytest.mark.timeout(300 + 120 * COUNT)
def test_a_run_that_suffers_anything_is_the_unbroken_run(tmp_path: Path) -> None:
    """Laws 3 and 4 on two ranks of ZeRO 2, supervised: losses, evaluations and weights to the bit.

    After each fault every checkpoint that has a name is whole, but for those damaged on purpose, which are
    found and never loaded; a restart loses no more than a save interval and the save in flight.
    """
    lay_out_project(tmp_path)
    with disk_for(tmp_path, KINDS) as kinds:
        for verdict in endure(tmp_path, "run.yaml", kinds, COUNT, SEED, *ZERO):
            assert verdict.problems == [], verdict
    assert len(verdict.struck) == COUNT
