"""The ssh launcher on two real hosts: network namespaces of this machine, each with its own sshd."""

import json
import os
import shlex
import signal
import time
from pathlib import Path

import pytest

from tests.launch.places.hosts import Hosts
from tests.launch.places.project import PATIENCE_SECONDS
from tests.launch.places.project import project as project

pytestmark = [pytest.mark.ssh, pytest.mark.timeout(900)]

NASTY = 'it\'s a "run" $(touch pwned) `touch pwned`; touch pwned & #'


def test_hosts_can_be_had_again_as_soon_as_they_are_gone(tmp_path_factory):
    if why := Hosts.why_not():
        pytest.skip(why)
    for _ in range(5):
        hosts = Hosts(tmp_path_factory.mktemp("again"), 2)
        try:
            hosts.up()
            assert hosts.ssh("node2", "hostname").stdout == "node2\n"
        finally:
            hosts.down()


def test_two_hosts_compute_what_one_process_does_and_nothing_is_run_by_a_shell(project):
    done = project.lumbre(*project.launch(f"name={json.dumps(NASTY)}"))
    assert done.returncode == 0, done.stderr
    alone, together = project.losses("alone"), project.losses(NASTY)
    assert list(together) == list(range(1, 61))
    assert together == pytest.approx(alone, rel=1e-6)
    assert not list(project.folder.parent.rglob("pwned"))
    assert "step 60/60" in done.stdout
    status = project.lumbre("launch", "status", NASTY)
    assert "COMPLETED" in status.stdout
    assert project.hosts.processes("node1") == project.hosts.processes("node2") == []


def test_a_host_cut_off_ends_the_job_everywhere_and_the_same_command_goes_on_when_it_is_back(project):
    command = project.launch("name=cut")
    child = project.start(*command)
    project.wait_for_step(25, "cut", child)
    project.hosts.cut("node2")
    try:
        _, told = child.communicate(timeout=PATIENCE_SECONDS)
        assert child.returncode == 76
        assert "host node2 was lost at step " in told
        assert "(no answer for 6 s)" in told
        project.wait_until_nothing_is_left()
    finally:
        project.hosts.mend("node2")
    assert "LOST" in project.lumbre("launch", "status", "cut").stdout
    done = project.lumbre(*command)
    assert done.returncode == 0, done.stderr
    assert project.losses("cut") == pytest.approx(project.losses("alone"), rel=1e-6)


def test_a_run_goes_on_with_the_hosts_that_are_left(project):
    """The first host is cut off, on which the ranks met and the run folder's lock was held."""
    line = project.launch("name=fewer")
    child = project.start(*line[:2], "restarts=2", "min_ranks=1", *line[2:])
    project.wait_for_step(25, "fewer", child)
    project.hosts.cut("node1")
    try:
        _, told = child.communicate(timeout=PATIENCE_SECONDS)
    finally:
        project.hosts.mend("node1")
    assert child.returncode == 0, told
    assert "launch: host node1 was lost at step " in told
    assert "node1 does not answer" in told
    assert "; restart 1 of 2 on node2 from step " in told
    assert project.losses("fewer") == pytest.approx(project.losses("alone"), rel=1e-6)
    assert "COMPLETED" in project.lumbre("launch", "status", "fewer").stdout


def test_a_rank_killed_on_any_host_is_named_and_started_again(project):
    line = project.launch("name=again")
    child = project.start(*line[:2], "restarts=1", *line[2:])
    project.wait_for_step(15, "again", child)
    ranks = [pid for pid in project.hosts.processes("node2") if b"RANK=1" in environment(pid)]
    # Its helpers have its variables, and came after it.
    os.kill(min(ranks), signal.SIGKILL)
    _, told = child.communicate(timeout=PATIENCE_SECONDS)
    assert child.returncode == 0, told
    assert "launch: rank 1 on node2 was killed by SIGKILL at step " in told
    assert "; restart 1 of 1 on node1, node2 from step " in told
    assert project.losses("again") == pytest.approx(project.losses("alone"), rel=1e-6)


def environment(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def test_ctrl_c_and_cancel_save_and_a_killed_launcher_leaves_nothing_running(project):
    command = project.launch("name=stopped", "train.steps=5000", "checkpoint.every_steps=5000")
    record = project.folder / "runs" / "stopped" / "exit.json"
    steps = []
    for ask in ("interrupt", "cancel", "kill"):
        before = steps[-1] if steps else 0
        child = project.start(*command)
        project.wait_for_step(before + 5, "stopped", child)
        if ask == "interrupt":
            os.killpg(child.pid, signal.SIGINT)
        elif ask == "cancel":
            assert "RUNNING" in project.lumbre("launch", "status", "stopped").stdout
            assert project.lumbre("launch", "cancel", "stopped").returncode == 0
        else:
            child.kill()
        _, told = child.communicate(timeout=PATIENCE_SECONDS)
        project.wait_until_nothing_is_left()
        assert child.returncode == (-signal.SIGKILL if ask == "kill" else 75), told
        found = json.loads(record.read_text())
        assert found["status"] == 75
        steps.append(found["step"])
        assert (project.folder / f"runs/stopped/checkpoints/step-{found['step']:08d}").is_dir()
    assert steps == sorted(set(steps))
    assert "STOPPED" in project.lumbre("launch", "status", "stopped").stdout
    assert "step " in project.lumbre("launch", "logs", "stopped").stdout


def test_hosts_that_do_not_answer_are_all_named_within_seconds(project):
    began = time.monotonic()
    hosts = "hosts=[node1, nowhere, refuses, node2]"
    done = project.lumbre(
        "launch", "launch.yaml", hosts, "connect_timeout_seconds=3", "--", "pretrain", "run.yaml"
    )
    assert time.monotonic() - began < 30, "3 s to connect, and Python's own start on a busy machine"
    assert done.returncode == 2
    assert "nowhere does not answer" in done.stderr
    assert "refuses does not answer" in done.stderr
    assert "node1" not in done.stderr
    assert "Traceback" not in done.stderr


def test_another_python_and_a_folder_that_hosts_do_not_see_are_told_before_anything_starts(project):
    line = project.launch("name=never")
    done = project.lumbre(line[0], line[1], "python=/usr/bin/python3", *line[2:])
    assert done.returncode == 2
    assert "node1: /usr/bin/python3 has no Lumbre" in done.stderr
    done = project.lumbre(line[0], line[1], "python=/nowhere/python", *line[2:])
    assert done.returncode == 2
    assert "node2 has no /nowhere/python" in done.stderr
    assert not (project.folder / "runs" / "never").exists()


def test_a_run_folder_that_a_host_does_not_see_is_told_before_anything_starts(project):
    folder = project.folder / "elsewhere"
    folder.mkdir()
    line = project.launch("name=hidden", "runs_folder=elsewhere")
    # Hosts have mounts of their own: an empty one over a folder looks like a disk that is not shared.
    assert project.hosts.ssh("node2", f"mount -t tmpfs none {shlex.quote(str(folder))}").returncode == 0
    try:
        done = project.lumbre(*line)
    finally:
        project.hosts.ssh("node2", f"umount {shlex.quote(str(folder))}")
    assert done.returncode == 2
    assert f"node2 does not see {folder} as it is here; set runs_folder to one that all hosts" in done.stderr
    assert "node1" not in done.stderr
    assert list(folder.iterdir()) == []
