"""What ends runs in earnest, SIGKILL at any moment, full and read-only disks; and the wheel users get."""

import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from launch.signals import family_of
from lumbre.checkpoint import verify
from lumbre.tracking import jsonl

if TYPE_CHECKING:
    from .conftest import Project

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("LUMBRE_KILLS", "6"))
"""How often one run is killed; a nightly job can afford more."""
TWO_RANKS = ["launch", "local", "processes=2", "threads_per_process=1", "--"]
ZERO = ["engine.type=deepspeed", "engine.zero_stage=2"]


def kill_family(pid: int) -> None:
    """Kill a process and all below it at one moment: nobody gets to react to another's end."""
    stopped: set[int] = set()
    while new := set(family_of(pid)) - stopped:
        for member in new:
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGSTOP)
        stopped |= new
    for member in stopped:
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)


def processes_in(folder: Path) -> list[str]:
    """Return the command line of every process that works in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        # What has ended, zombies too, has no working folder.
        with suppress(OSError):
            if (process / "cwd").resolve(strict=True) == folder.resolve():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def assert_nobody_works_in(folder: Path) -> None:
    """Wait for those that are ending; assert that they do."""
    patience = time.monotonic() + 20
    while (found := processes_in(folder)) and time.monotonic() < patience:
        time.sleep(0.05)
    assert found == []


def rows(run: Path) -> list[dict[str, Any]]:
    """Return the rows of a run that may be writing one."""
    return jsonl.read(run / "metrics.jsonl")


def curve(run: Path) -> list[tuple[int, str, float]]:
    """Return everything that a run measured of its model, in order."""
    keys = ("loss", "grad_norm", "eval/loss")
    return [(row["step"], key, row[key]) for row in rows(run) for key in keys if key in row]


def is_saving(run: Path) -> bool:
    """Return whether a checkpoint is on its way in or out."""
    return any((run / "checkpoints").glob(".step-*"))


@pytest.mark.timeout(180 + 60 * KILLS)
def test_random_kills_lose_nothing(project: "Project") -> None:
    """Laws 3 and 4 on two ranks of ZeRO 2: killed anywhere, start-up and saving included, nothing shows.

    After each kill no process is left and every checkpoint that has a name is whole; in the end losses,
    evaluations and exported weights are the unbroken run's to the bit.
    """
    steps = 16 * KILLS
    command = [*TWO_RANKS, "pretrain", "run.yaml", *ZERO, "checkpoint.every_steps=2", f"train.steps={steps}"]
    unbroken = project.lumbre(*command, "name=steady")
    assert unbroken.returncode == 0, unbroken.stderr
    steady, run = (project.folder / "runs" / name for name in ("steady", "killed-often"))
    chance = random.Random(20)
    for kill in range(KILLS):
        wanted = max((row["step"] for row in rows(run)), default=0) + chance.randint(1, 3)
        process = project.start(*command, "name=killed-often")
        # Turn by turn while it trains, perhaps before that, and while it saves or rotates.
        starting, saving = kill % 3 == 1, kill % 3 == 2
        latest = time.monotonic() + (chance.uniform(0, 10) if starting else math.inf)

        def now(wanted: int = wanted, saving: bool = saving, latest: float = latest) -> bool:
            reached = any(row["step"] >= wanted for row in rows(run))
            return time.monotonic() > latest or (reached and (not saving or is_saving(run)))

        project.wait_for(now, process)
        time.sleep(chance.uniform(0, 0.01 if saving else 0.1))
        assert process.poll() is None, (project.folder / "out.txt").read_text()[-3000:]
        kill_family(process.pid)
        process.wait()
        assert_nobody_works_in(project.folder)
        for folder in (run / "checkpoints").glob("step-*"):
            assert verify(folder) == [], f"kill {kill}: {folder.name}"
    # What a kill halfway through a rotation leaves, which is over too soon to be hit each time.
    (run / "checkpoints/.step-00000001.old").mkdir()
    done = project.lumbre(*command, "name=killed-often")
    assert done.returncode == 0, done.stderr
    assert_nobody_works_in(project.folder)
    assert curve(run) == curve(steady)
    weights = Path("model/model.safetensors")
    assert (run / weights).read_bytes() == (steady / weights).read_bytes()
    names = [path.name for path in sorted((run / "checkpoints").iterdir())]
    assert names == [f"step-{steps - 2:08d}", f"step-{steps:08d}"]


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Mount a disk of its own at a folder; skip the test where that is not permitted."""
    folder.mkdir()
    done = mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    if done.returncode:
        pytest.skip(f"a disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def mount(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run mount."""
    if shutil.which("mount") is None:
        pytest.skip("there is no mount here")
    return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)


def remount(folder: Path, options: str) -> None:
    """Change a mounted disk."""
    done = mount("-o", f"remount,{options}", str(folder))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("layout", [[], [*TWO_RANKS]], ids=["alone", "launched"])
def test_a_full_disk_stops_with_a_reason_and_loses_nothing(project: "Project", layout: list[str]) -> None:
    """Checkpoints fill the disk: exit 2, place and remedy, earlier ones whole; with space it goes on."""
    folder = project.folder / f"small-{len(layout)}"
    command = [*layout, "pretrain", "run.yaml", f"runs_folder={folder.name}"]
    command += ["checkpoint.every_steps=2", "checkpoint.keep=100"]
    run = folder / "run"
    with small_disk(folder, "1m"):
        stopped = project.lumbre(*command)
        assert stopped.returncode == 2, stopped.stderr
        assert f"{folder.name}/run/checkpoints/.step-" in stopped.stderr
        assert "free some space" in stopped.stderr
        whole = sorted((run / "checkpoints").iterdir())
        assert len(whole) >= 2
        assert all(path.name.startswith("step-") and verify(path) == [] for path in whole)
        remount(folder, "size=64m")
        done = project.lumbre(*command)
        assert done.returncode == 0, done.stderr
        assert f"from step {int(whole[-1].name.removeprefix('step-'))}" in str(rows(run))
        assert [row["step"] for row in rows(run) if "loss" in row] == list(range(1, 25))
        expected = project.losses("unbroken")
        for row in rows(run):
            if "loss" in row:
                assert row["loss"] == (pytest.approx(expected[row["step"]], rel=1e-6 if layout else 0, abs=0))


def test_a_disk_that_others_fill_stops_a_run_with_a_reason(project: "Project") -> None:
    """Not a byte is free for a row, an exit record or a lock: exit 2 all the same, and nothing is lost."""
    folder = project.folder / "filled"
    command = ["pretrain", "run.yaml", "runs_folder=filled", "checkpoint.every_steps=4"]
    with small_disk(folder, "8m"):
        process = project.start(*command)
        project.wait_for(lambda: any(row["step"] >= 5 for row in rows(folder / "run")), process)
        process.send_signal(signal.SIGSTOP)
        fill(folder / "others")
        process.send_signal(signal.SIGCONT)
        status = process.wait()
        said = (project.folder / "out.txt").read_text()
        assert status == 2, said
        assert "Traceback" not in said
        assert "filled/run" in said
        again = project.lumbre(*command)
        assert again.returncode == 2, again.stderr
        assert "Traceback" not in again.stderr
        assert "the disk is full; free some space, then run the same command again" in again.stderr
        (folder / "others").unlink()
        done = project.lumbre(*command)
        assert done.returncode == 0, done.stderr
        assert {row["step"]: row["loss"] for row in rows(folder / "run") if "loss" in row} == project.losses(
            "unbroken"
        )


def fill(file: Path) -> None:
    """Take all the space that a disk has left."""
    with file.open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(4096))


def test_a_read_only_run_folder_is_an_error(project: "Project") -> None:
    """Exit 2 with place and remedy; once it can be written again, the run goes on from where it was."""
    folder = project.folder / "locked"
    command = ["pretrain", "run.yaml", "runs_folder=locked", "checkpoint.every_steps=1000"]
    with small_disk(folder, "8m"):
        process = project.start(*command)
        project.wait_for(lambda: any(row["step"] >= 3 for row in rows(folder / "run")), process)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 75
        remount(folder, "ro")
        refused = project.lumbre(*command)
        assert refused.returncode == 2, refused.stderr
        assert "Traceback" not in refused.stderr
        assert "the disk is read-only; set runs_folder to a folder that can" in refused.stderr
        remount(folder, "rw")
        done = project.lumbre(*command)
        assert done.returncode == 0, done.stderr
        assert {row["step"]: row["loss"] for row in rows(folder / "run") if "loss" in row} == project.losses(
            "unbroken"
        )


@pytest.mark.parametrize(("program", "config"), [("pretrain", "quickstart-bert"), ("finetune", "quickstart")])
def test_python_m_in_a_checkout_is_the_same_program(program: str, config: str) -> None:
    line = [f"configs/{program}/{config}.yaml", "seed=7", "--dry-run"]
    module, command = (
        subprocess.run(
            [sys.executable, "-m", *name, *line], cwd=ROOT, capture_output=True, text=True, check=False
        )
        for name in ([program], ["lumbre.cli", program])
    )
    assert (module.returncode, module.stdout, module.stderr) == (
        command.returncode,
        command.stdout,
        command.stderr,
    )
    assert module.returncode in (0, 2)
    assert "seed: 7" in module.stdout or "runs/quickstart" in module.stderr


def test_git_ignores_no_source() -> None:
    """What a fresh clone holds is what is tested here."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a git checkout")
    rooms = ["lumbre", "pretrain", "finetune", "launch", "configs", "tests", "docs", "docker", "benchmarks"]
    listed = run(["git", "ls-files", "--others", "--ignored", "--exclude-standard", "--", *rooms], ROOT)
    assert [name for name in listed.splitlines() if "__pycache__" not in name] == []


def test_the_wheel_has_everything_and_nothing_generic(tmp_path: Path) -> None:
    """From an empty folder the installed command knows the shipped configs; only `lumbre` is importable."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    for name in ("lumbre", "pretrain", "finetune", "launch", "configs", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    run(build, tmp_path)
    (wheel,) = tmp_path.glob("lumbre-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"lumbre"}
    shipped = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")}
    assert {f"lumbre/{path}" for path in shipped} <= set(names)
    assert not [name for name in names if "test" in name or name.endswith(".ipynb")]
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    run([*pip, "install", "--no-deps", "--no-index", "--target", str(installed), str(wheel)], tmp_path)
    top = {path.name for path in installed.iterdir()}
    assert {name for name in top if not name.startswith("lumbre-")} == {"lumbre", "bin"}
    command = str(installed / "bin/lumbre")
    code = "import lumbre.pretrain.run as module; print(module.__file__)"
    assert str(installed) in run([sys.executable, "-c", code], empty, PYTHONPATH=str(installed))
    shown = run([command, "pretrain", "quickstart-bert", "--dry-run"], empty, PYTHONPATH=str(installed))
    assert "name: quickstart-bert" in shown
    job = ["launch", "local", "--dry-run", "--", "pretrain", "quickstart-gpt"]
    assert "quickstart-gpt" in run([command, *job], empty, PYTHONPATH=str(installed))
    assert list(empty.iterdir()) == []


def run(arguments: list[str], folder: Path, **environment: str) -> str:
    """Run a command that ends well; return what it printed."""
    done = subprocess.run(
        arguments, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout
