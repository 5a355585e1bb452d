"""The local launcher: what it runs, how signals reach the job, and the status that it returns."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.__main__ import main, split
from launch.base import Job
from launch.local import LocalConfig, LocalLauncher
from launch.signals import family_of
from lumbre.config import load
from lumbre.errors import ConfigError, LaunchError

ROOT = Path(__file__).resolve().parents[2]
JOB = Job("pretrain", ("configs/pretrain/a b.yaml", "train.steps=3"))

# A program with the contract of `lumbre PROGRAM`, so that the launcher's own part is what is tested.
PROGRAM = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[2])
rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
if "--dry-run" in sys.argv:
    if "refused" in sys.argv:
        print("error: the batch does not fit", file=sys.stderr)
        sys.exit(2)
    (folder / "checked").write_text(world)
    print(f"name: {folder.name}\\nruns_folder: {folder.parent}")
    sys.exit(0)
def end(status):
    (folder / f"ended-{rank}").write_text(str(status))
    record = {"status": status, "reason": "a reason", "rank": int(rank), "step": 7}
    if rank == "0" and "silent" not in sys.argv:
        (folder / "exit.json").write_text(json.dumps(record))
    sys.exit(status)
def save(number, frame):
    if "stubborn" in sys.argv:
        (folder / f"asked-{time.monotonic_ns()}").write_text("!")
        return
    time.sleep(0.5 + int(rank))
    end(75)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, save)
if "status" in sys.argv:
    end(int(sys.argv[sys.argv.index("status") + 1]))
(folder / f"ready-{rank}").write_text(os.environ["OMP_NUM_THREADS"])
for _ in range(600):
    time.sleep(0.1)
"""

DRIVER = """
import sys
import launch.base
from launch.__main__ import main
launch.base.Job.command = property(lambda job: (sys.argv[1], job.program, *job.arguments))
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def start(tmp_path):
    """Start the launcher in a process of its own, on a run folder `run`."""
    program, driver = tmp_path / "program.py", tmp_path / "driver.py"
    program.write_text(PROGRAM)
    driver.write_text(DRIVER)
    config = tmp_path / "launch.yaml"
    config.write_text("type: local\nprocesses: 1\nthreads_per_process: 1\n")
    folder = tmp_path / "run"
    folder.mkdir()
    started = []

    def begin(*words: str, processes: int = 1, launch: tuple[str, ...] = ()) -> subprocess.Popen:
        line = [config, f"processes={processes}", *launch, "--", "pretrain", folder, *words]
        child = subprocess.Popen(
            [sys.executable, driver, program, *line],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(child)
        return child

    begin.folder = folder
    yield begin
    for child in started:
        for pid in reversed(family_of(child.pid)) if child.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        child.stderr.close()


def wait_for(*files: Path) -> None:
    while not all(file.exists() and file.read_text() for file in files):
        time.sleep(0.05)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_one_process_is_plain_python():
    command = LocalLauncher(LocalConfig(), cores=6).command(JOB)
    assert command.arguments == (sys.executable, "-m", "lumbre.cli", "pretrain", *JOB.arguments)
    assert command.environment == {"OMP_NUM_THREADS": "6"}


def test_several_processes_are_torchruns():
    launcher = LocalLauncher(LocalConfig(processes=4, env={"NCCL_DEBUG": "INFO"}), cores=6)
    assert str(launcher.command(JOB)) == (
        f"OMP_NUM_THREADS=1 NCCL_DEBUG=INFO {sys.executable} -m lumbre.elastic --standalone "
        "--nproc-per-node=4 --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 "
        "--shutdown-timeout=3600 -m lumbre.cli pretrain 'configs/pretrain/a b.yaml' train.steps=3"
    )


def test_preparation_is_one_process_with_all_cores():
    command = LocalLauncher(LocalConfig(processes=4), cores=6).command(Job("prepare", ("c.yaml",)))
    assert command.arguments[1:4] == ("-m", "lumbre.cli", "prepare")
    assert command.environment == {"OMP_NUM_THREADS": "6"}


def test_dry_run_prints_the_command_and_starts_nothing(start):
    child = start(processes=2, launch=("--dry-run",))
    printed, _ = child.communicate()
    assert child.returncode == 0
    assert "lumbre.elastic --standalone --nproc-per-node=2" in printed
    assert [file.name for file in start.folder.iterdir()] == ["checked"]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ([], "launch config is missing"),
        (["--", "pretrain", "c.yaml"], "launch config is missing"),
        (["local"], "no job"),
        (["local", "--"], "no job"),
        (["local", "--", "train", "c.yaml"], "'train' is not one of pretrain"),
        (["local", "--", "pretrain"], "pretrain needs a config"),
    ],
)
def test_a_line_that_is_no_job_is_explained_with_an_example(line, fault):
    with pytest.raises(LaunchError, match=f"{fault}.*for example: lumbre launch local"):
        main(line)


def test_a_job_is_found_without_the_dashes():
    assert split(["local", "--dry-run", "processes=2", "prepare", "c.yaml", "--dry-run"]) == (
        True,
        ["local", "processes=2"],
        [Job("prepare", ("c.yaml", "--dry-run"))],
    )


def test_secrets_are_refused_in_the_launch_config(tmp_path):
    file = tmp_path / "launch.yaml"
    file.write_text("type: local\nenv: {WANDB_API_KEY: abc, TOKENIZERS_PARALLELISM: 'false'}\n")
    with pytest.raises(ConfigError, match=r"env.WANDB_API_KEY: looks like a secret.*export") as caught:
        load(LocalConfig, file)
    assert len(caught.value.problems) == 1


def test_a_refused_job_is_not_started_and_ends_with_2(start):
    child = start("refused")
    _, told = child.communicate()
    assert child.returncode == 2
    assert told == "error: the batch does not fit\n"
    assert not list(start.folder.iterdir())


def test_status_is_the_one_the_ranks_recorded(start):
    assert start("status", "2").wait() == 2


def test_a_record_of_an_earlier_run_is_no_answer(start):
    (start.folder / "exit.json").write_text(json.dumps({"status": 0}))
    assert start("status", "3", "silent").wait() == 3


def test_ctrl_c_saves_and_ends_with_75(start):
    child = start()
    wait_for(start.folder / "ready-0")
    child.send_signal(signal.SIGINT)
    assert child.wait() == 75
    assert (start.folder / "ended-0").exists()


def test_the_third_ctrl_c_kills_a_job_that_does_not_end(start):
    child = start("stubborn")
    wait_for(start.folder / "ready-0")
    for asked in (1, 2):
        child.send_signal(signal.SIGINT)
        while len(list(start.folder.glob("asked-*"))) < asked:
            time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    assert child.wait() == 128 + signal.SIGKILL


def test_a_signal_reaches_every_rank_and_all_may_finish_saving(start):
    child = start(processes=2)
    wait_for(start.folder / "ready-0", start.folder / "ready-1")
    assert (start.folder / "checked").read_text() == "2"
    child.send_signal(signal.SIGUSR1)
    _, told = child.communicate()
    assert child.returncode == 75
    assert [(start.folder / f"ended-{rank}").read_text() for rank in (0, 1)] == ["75", "75"]
    assert told.endswith("launch: stopped at step 7; run the same command again to go on\n")


def test_a_killed_launcher_leaves_no_orphans_and_the_job_saves(start):
    child = start(processes=2)
    wait_for(start.folder / "ready-0", start.folder / "ready-1")
    family = family_of(child.pid)
    assert len(family) == 4
    child.kill()
    wait_for(start.folder / "ended-0", start.folder / "ended-1")
    while not all(gone(pid) for pid in family[1:]):
        time.sleep(0.05)
