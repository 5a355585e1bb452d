"""Hangs in real runs of two ranks; `python -m benchmarks.hangs` goes through all kinds."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.conftest import lay_out_project
from tests.faults.hangs import HANGS, Hang, provoke

pytestmark = pytest.mark.slow

LIMIT_SECONDS = 6.0
KINDS = ("collective skipped", "interpreter held in C", "killed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project folder whose data is prepared."""
    place = tmp_path_factory.mktemp("hangs")
    lay_out_project(place)
    command = [sys.executable, "-m", "lumbre.cli", "prepare", "run.yaml"]
    subprocess.run(command, cwd=place, check=True, capture_output=True)
    return place


@pytest.mark.parametrize("hang", [one for one in HANGS if one.kind in KINDS], ids=lambda one: one.kind)
def test_the_rank_that_hangs_is_named_and_the_job_ends(folder: Path, hang: Hang) -> None:
    """The right rank, its cause and status, one block, in time, and no process left."""
    outcome = provoke(hang, folder, HANGS.index(hang), LIMIT_SECONDS)
    assert outcome.faults(hang, LIMIT_SECONDS) == [], outcome.output[-4000:]
