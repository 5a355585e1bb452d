"""Hosts that are cut off from each other at random, seeded moments, for a moment or for long."""

import os
import random
import time

import pytest

from tests.launch.places.project import PATIENCE_SECONDS, Project
from tests.launch.places.project import project as project

SEED = int(os.environ.get("LUMBRE_SEED", "3"))
SHORT_SECONDS, LONG_SECONDS = (0.2, 2.5), (9.0, 12.0)
"""The launcher gives a host up that is silent for 6 s."""
CUTS = int(os.environ.get("LUMBRE_CUTS", "4"))
STEPS_A_CUT = 30
LOST = 76
"""The exit status of a job that has lost a host: run the same command again."""


@pytest.mark.ssh
@pytest.mark.timeout(300 + 120 * CUTS)
def test_a_run_whose_hosts_are_cut_off_at_random_is_the_unbroken_run(project: Project) -> None:
    """Laws 3 and 4: a short cut changes nothing, a long one ends the job, and the same command goes on."""
    chance = random.Random(SEED)
    steps = STEPS_A_CUT * (CUTS + 1)
    more = (f"train.steps={steps}", "checkpoint.every_steps=10")
    done = project.lumbre(*project.launch("name=joined", *more))
    assert done.returncode == 0, done.stderr
    command = project.launch("name=parted", *more)
    child = project.start(*command)
    kinds = [SHORT_SECONDS, LONG_SECONDS] * CUTS
    for number, span in enumerate(kinds[:CUTS], start=1):
        project.wait_for_step(number * STEPS_A_CUT - chance.randrange(20), "parted", child)
        time.sleep(chance.uniform(0, 0.2))
        host = chance.choice(project.hosts.names)
        project.hosts.cut(host)
        time.sleep(chance.uniform(*span))
        project.hosts.mend(host)
        if span == LONG_SECONDS:
            _, told = child.communicate(timeout=PATIENCE_SECONDS)
            assert child.returncode == LOST, told
            assert f"host {host} was lost at step " in told
            project.wait_until_nothing_is_left()
            child = project.start(*command)
    _, told = child.communicate(timeout=PATIENCE_SECONDS)
    assert child.returncode == 0, told
    assert "Traceback" not in told
    assert project.losses("parted") == project.losses("joined")
    weights = [
        project.folder / "runs" / name / "model" / "model.safetensors" for name in ("parted", "joined")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()
