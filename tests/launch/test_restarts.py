"""Runs that are started again: which ends ask for it, how often, from what, and with how many processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import fewer
from launch.attempt import End, end_of
from launch.base import CheckError, Job, Run
from launch.local import LocalConfig, LocalLauncher
from launch.outcome import ExitRecord
from launch.rank_ends import RankEnd, first_end, read_rank_ends
from launch.restarts import Restarts
from launch.signals import family_of
from lumbre.config import load
from lumbre.errors import ConfigError, LaunchError, RunFolderError
from lumbre.run_folder import claim
from lumbre.world import restart
from tests.launch.test_launch_local import DRIVER, wait_for

ROOT = Path(__file__).resolve().parents[2]
KILLED = End(137, "rank 1 was killed by SIGKILL", culprit=1)

# A program with the contract of `lumbre PROGRAM` that ends as the file `plan` says, a line for each attempt.
PROGRAM = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[2])
if "--dry-run" in sys.argv:
    fits = 4 % int(os.environ["WORLD_SIZE"]) == 0
    print("error: 4 samples do not fit" if not fits else "", file=sys.stderr)
    print(f"name: {folder.name}\\nruns_folder: {folder.parent}\\ntrain: {{global_batch_size: 4}}")
    sys.exit(0 if fits else 2)
attempts = folder / "attempts"
rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
again = os.environ.get("LUMBRE_RESTART", "")
before = int(json.loads(again)[0].split()[1]) if again else 0
plan = (folder / "plan").read_text().splitlines()
word, step, at = (plan[before].split() if before < len(plan) else ["exit:0", "0", "0"])
if rank == "0":
    with attempts.open("a") as out:
        devices = os.environ.get("CUDA_VISIBLE_DEVICES")
        out.write(json.dumps({"told": again, "world": world, "devices": devices}) + "\\n")
    with (folder / "metrics.jsonl").open("a") as out:
        out.write(json.dumps({"step": int(step)}) + "\\n")
(folder / f"ready-{before}-{rank}").write_text("!")
if word == "hang":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    time.sleep(60)
if rank != at:
    time.sleep(1 if world != "1" else 0)
    sys.exit(0 if word == "exit:0" else 1)
kind, number = word.split(":")
if kind == "kill":
    os.kill(os.getpid(), int(number))
if kind == "record":
    record = {"status": int(number), "reason": "a reason", "rank": int(rank), "step": int(step)}
    (folder / "exit.json").write_text(json.dumps(record))
sys.exit(int(number))
"""


@pytest.fixture
def start(tmp_path):
    """Start the launcher on a run folder `run`, whose attempts end as a plan says."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "driver.py").write_text(DRIVER)
    (tmp_path / "launch.yaml").write_text("type: local\nthreads_per_process: 1\n")
    folder = tmp_path / "run"
    folder.mkdir()
    started = []

    def begin(*plan: str, launch: tuple[str, ...] = ()) -> subprocess.Popen:
        (folder / "plan").write_text("\n".join(plan))
        line = [tmp_path / "launch.yaml", *launch, "--", "pretrain", folder]
        child = subprocess.Popen(
            [sys.executable, tmp_path / "driver.py", tmp_path / "program.py", *line],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(child)
        return child

    begin.folder = folder
    begin.attempts = lambda: [json.loads(line) for line in (folder / "attempts").read_text().splitlines()]
    yield begin
    for child in started:
        for pid in reversed(family_of(child.pid)) if child.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        child.communicate()


def a_run(folder: Path, program: str = "pretrain", batch: int | None = 8) -> Run:
    return Run(Job(program, ("c.yaml",)), "run", folder, batch)


def logged(folder: Path, step: int) -> None:
    (folder / "metrics.jsonl").write_text(json.dumps({"step": step}) + "\n")


@pytest.mark.parametrize(
    ("status", "again"),
    [(0, False), (2, False), (75, False), (1, True), (76, True), (137, True), (139, True)],
)
def test_what_would_repeat_or_is_meant_is_not_started_again(status, again, tmp_path, capsys):
    restarts = Restarts(LocalConfig(restarts=2), a_run(tmp_path), 0)
    assert restarts.are_left(End(status, "told")) is again
    assert (capsys.readouterr().err == "") is again
    assert restarts.are_left(End(status, "told", is_asked=True)) is False


def test_restarts_are_as_many_as_the_config_says_and_then_it_is_told(tmp_path, capsys):
    restarts = Restarts(LocalConfig(restarts=3), a_run(tmp_path), 0)
    for step in (10, 20, 30):
        logged(tmp_path, step)
        assert restarts.are_left(KILLED)
    logged(tmp_path, 40)
    assert not restarts.are_left(KILLED)
    assert "all restarts are used up (3): run the same command again" in capsys.readouterr().err


def test_attempts_without_progress_do_not_burn_all_restarts(tmp_path, capsys):
    """Three in a row that end where one did before are enough; any progress begins the count anew."""
    restarts = Restarts(LocalConfig(restarts=100), a_run(tmp_path), 0)
    for step in (10, 5, 10, 11, 4, 11):
        logged(tmp_path, step)
        assert restarts.are_left(KILLED)
    assert not restarts.are_left(KILLED)
    told = capsys.readouterr().err
    assert "3 attempts in a row have not come past step 11" in told
    assert "restarts_without_progress" in told


def test_the_same_culprit_twice_without_progress_is_named(tmp_path):
    restarts = Restarts(LocalConfig(restarts=9), a_run(tmp_path), 0)
    restarts.are_left(KILLED)
    assert restarts.culprit is None
    restarts.are_left(KILLED)
    assert restarts.culprit == 1
    restarts.forgive()
    restarts.are_left(End(137, "told", culprit=0))
    restarts.are_left(KILLED)
    assert restarts.culprit is None


def test_the_ranks_are_told_the_attempt_and_the_cause(tmp_path, capsys, monkeypatch):
    restarts = Restarts(LocalConfig(restarts=2), a_run(tmp_path), 30)
    assert restarts.environment == {}
    restarts.are_left(KILLED)
    for name, value in restarts.environment.items():
        monkeypatch.setenv(name, value)
    told = restart()
    assert told is not None
    assert (told.cause, told.patience_seconds) == ("restart 1 of 2: rank 1 was killed by SIGKILL", 30)
    restarts.tell()
    (tmp_path / "checkpoints/step-00000030").mkdir(parents=True)
    (tmp_path / "checkpoints/step-00000030/manifest.json").touch()
    (tmp_path / "checkpoints/step-00000040").mkdir()
    restarts.tell(" on 1 of 2 ranks")
    assert capsys.readouterr().err.splitlines() == [
        f"launch: rank 1 was killed by SIGKILL; restart 1 of 2{rest}"
        for rest in (
            " from the beginning, for there is no checkpoint yet",
            " on 1 of 2 ranks from step 30",
        )
    ]


def test_the_first_end_is_the_kill_and_not_what_followed_from_it(tmp_path):
    crashed, killed = RankEnd(0, 0, 1, time=50), RankEnd(1, 1, -9, time=50)
    late = RankEnd(2, 2, -9, time=80)
    stopped = RankEnd(3, 3, -15, time=50)
    assert first_end([crashed, killed, late, stopped]) == killed
    assert first_end([crashed, late, stopped]) == crashed
    assert first_end([]) is None
    assert RankEnd(1, 1, -34, 0, host="b").told == "rank 1 on b was killed by SIGRTMIN"
    (tmp_path / "torn").write_text('[{"rank": 0, "loc')
    assert read_rank_ends(tmp_path / "torn") == read_rank_ends(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("recorded", "ends", "status", "told"),
    [
        (1, [RankEnd(0, 0, 1, 9), RankEnd(1, 1, -9, 9)], 137, "rank 1 was killed by SIGKILL at step 17"),
        (0, [RankEnd(1, 1, -9, 9)], 0, ""),
        (76, [RankEnd(1, 1, -9, 9)], 76, "ended with status 76 at step 3, first on rank 0: a reason"),
        (75, [RankEnd(1, 1, -9, 9)], 137, "rank 1 was killed by SIGKILL at step 17"),
        (None, [RankEnd(1, 1, 2, 9), RankEnd(0, 0, -15, 9)], 2, ""),
        (None, [], 1, ""),
    ],
)
def test_an_attempt_ended_as_its_first_rank_did(tmp_path, recorded, ends, status, told):
    logged(tmp_path, 17)
    record = ExitRecord.of(tmp_path)
    if recorded is not None:
        text = json.dumps({"status": recorded, "reason": "a reason", "rank": 0, "step": 3})
        (tmp_path / "exit.json").write_text(text)
    end = end_of(record, int(recorded != 0), [], ends)
    assert (end.status, end.told) == (status, told)


def test_a_run_goes_on_with_the_most_processes_that_its_batch_divides(tmp_path, monkeypatch):
    def check(job: Job, count: int, *, quiet: bool) -> None:
        if 12 % count:
            raise CheckError(f"12 is not a multiple of {count}")

    monkeypatch.setattr(fewer, "check", check)
    run = a_run(tmp_path)
    assert fewer.most_that_fit(run, 7, 2) == 6
    with pytest.raises(LaunchError, match="cannot go on with 5 to 5 processes:\n12 is not a multiple of 5"):
        fewer.most_that_fit(run, 5, 5)
    with pytest.raises(LaunchError, match="processes left: 3; min_ranks: 4"):
        fewer.most_that_fit(run, 3, 4)
    with pytest.raises(LaunchError, match="processes left: 3; all are needed: set min_ranks"):
        fewer.most_that_fit(run, 3, None)


def test_a_batch_that_would_shrink_with_the_processes_is_refused(tmp_path):
    fewer.refuse_open_batch(a_run(tmp_path))
    fewer.refuse_open_batch(a_run(tmp_path, "prepare", None))
    with pytest.raises(LaunchError, match=r"min_ranks lets change; state train\.global_batch_size"):
        fewer.refuse_open_batch(a_run(tmp_path, batch=None))


def test_more_ranks_at_least_than_at_first_are_refused(tmp_path):
    file = tmp_path / "launch.yaml"
    file.write_text("type: local\nprocesses: 2\nmin_ranks: 3\n")
    with pytest.raises(ConfigError, match="min_ranks: 3 is more than the 2 processes"):
        load(LocalConfig, file)


def test_the_device_of_a_rank_that_is_left_out_is_not_seen_by_the_others(monkeypatch):
    launcher = LocalLauncher(LocalConfig(processes=3), cores=3)
    job = Job("pretrain", ("c.yaml",))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "CUDA_VISIBLE_DEVICES" not in launcher.command(job).environment
    assert launcher.command(job, [0, 2]).environment["CUDA_VISIBLE_DEVICES"] == "0,2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert launcher.command(job, [0, 2]).environment["CUDA_VISIBLE_DEVICES"] == "4,7"


def test_a_killed_process_is_started_again_and_a_crash_until_it_is_done(start):
    child = start("kill:9 10 0", "record:1 20 0", "exit:3 30 0", launch=("restarts=3",))
    _, told = child.communicate()
    assert child.returncode == 0, told
    causes = [json.loads(one["told"])[0] if one["told"] else "" for one in start.attempts()]
    assert causes == [
        "",
        "restart 1 of 3: the job was killed by SIGKILL",
        "restart 2 of 3: ended with status 1 at step 20, first on rank 0: a reason",
        "restart 3 of 3: ended with status 3",
    ]
    assert told.count("launch: ") == 3


def test_a_record_of_the_attempt_before_is_not_taken_for_that_of_the_present_one(start):
    child = start("record:76 10 0", "kill:9 20 0", launch=("restarts=1",))
    assert child.wait() == 137
    assert len(start.attempts()) == 2


@pytest.mark.parametrize("plan", ["record:2 10 0", "exit:2 10 0", "record:75 10 0"])
def test_a_users_error_and_a_stop_are_not_started_again(start, plan):
    child = start(plan, launch=("restarts=5",))
    assert child.wait() == int(plan[plan.index(":") + 1 :].split()[0])
    assert len(start.attempts()) == 1


def test_a_signal_during_a_later_attempt_reaches_the_job_and_nothing_is_started_after_it(start):
    child = start("kill:9 10 0", "hang 20 0", launch=("restarts=5",))
    wait_for(start.folder / "ready-1-0")
    child.send_signal(signal.SIGTERM)
    assert child.wait() == 75
    assert len(start.attempts()) == 2


@pytest.mark.slow
def test_a_rank_that_keeps_dying_is_left_out_with_its_device(start):
    child = start("kill:9 0 0", "kill:9 0 0", launch=("restarts=5", "processes=2", "min_ranks=1"))
    _, told = child.communicate()
    assert child.returncode == 0, told
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = [(one["world"], one["devices"]) for one in start.attempts()]
    assert seen == [("2", devices), ("2", devices), ("1", "1")]
    assert "launch: rank 0 has ended two attempts in a row and is left out" in told
    assert "rank 0 was killed by SIGKILL at step 0; restart 2 of 5 on 1 of 2 ranks from the beginning" in told


def test_a_run_folder_is_waited_for_by_a_run_that_is_started_again(tmp_path, monkeypatch):
    """The attempt before may still hold it on a host that was cut off; a person's command is refused."""
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys, time\nfile = open(sys.argv[1], 'a+')\nfcntl.lockf(file, fcntl.LOCK_EX)\n"
            "print('held', flush=True)\ntime.sleep(1)",
            str(tmp_path / ".lock"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(RunFolderError, match="another job holds this run folder"), claim(tmp_path):
        pass
    monkeypatch.setenv("LUMBRE_RESTART", json.dumps(["restart 1 of 1: told", 60]))
    began = time.monotonic()
    with claim(tmp_path):
        assert time.monotonic() - began < 60
    holder.communicate()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def lockf(file: object, flags: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("lumbre.run_folder.fcntl.lockf", lockf)
    with pytest.raises(RunFolderError, match="its file system takes no locks"), claim(tmp_path):
        pass
