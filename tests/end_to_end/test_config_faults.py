"""Configs broken as people break them are refused before anything starts, by a message that teaches."""

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest

from finetune.config import FinetuneConfig
from launch import docker as docker
from launch import slurm as slurm
from launch import ssh as ssh
from launch.base import LauncherConfig
from lumbre.config import load
from lumbre.errors import ConfigError
from pretrain.config import PretrainConfig
from tests.end_to_end.config_faults import BASES, FAULTS, LAUNCHERS, STAND_IN, Fault, lay_out

KINDS = {"pretrain": PretrainConfig, "finetune": FinetuneConfig}
NAMES = [fault.name for fault in FAULTS]
LAUNCHED = [fault for index, fault in enumerate(FAULTS) if index % 4 == 0 or fault.program == "ssh"]
"""Those that the real command is given here; `python -m benchmarks.config_faults` gives it all of them."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what the sound configs read."""
    folder = tmp_path_factory.mktemp("faults")
    lay_out(folder)
    return folder


def checked(program: str) -> None:
    """Check the config as `lumbre launch` does: what it says, and what the cluster has."""
    if program not in LAUNCHERS:
        load(KINDS[program], "broken.yaml", room=program)
        return
    launcher = load(LauncherConfig, "broken.yaml").build()
    if program == "ssh":
        return  # its hosts would have to be there
    if problems := [replace(problem, place="broken.yaml") for problem in launcher.faults()]:
        raise ConfigError(problems)


def files(folder: Path) -> set[Path]:
    """Return everything below a folder, but for configs."""
    return {one for one in folder.rglob("*") if one.suffix != ".yaml"}


def assert_told(fault: Fault, said: str) -> None:
    """One of the problems stands at the key, with place, fault and remedy."""
    key, *words = fault.says
    # What a cluster lacks has no line, for the cluster is asked after the file was read.
    line = r"(:\d+)?" if fault.program in LAUNCHERS else r":\d+"
    places = re.compile(rf"broken\.yaml{line}: {re.escape(key)}{': ' if key else 'is '}")
    lines = [line for line in said.splitlines() if places.search(line)]
    assert lines, said
    assert any(all(word in line for word in words) and "; " in line for line in lines), said


@pytest.mark.parametrize("program", sorted(BASES))
def test_the_sound_config_has_no_fault(program: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused below is refused for its one difference."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", STAND_IN["PATH"])
    (folder / "broken.yaml").write_text(BASES[program])
    checked(program)


def test_there_are_forty_and_each_has_been_met() -> None:
    assert len(FAULTS) >= 40
    assert len(set(NAMES)) == len(NAMES)
    for fault in FAULTS:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+#\d+(, [\w.-]+/[\w.-]+#\d+)*", fault.source), fault.name


@pytest.mark.parametrize("fault", FAULTS, ids=NAMES)
def test_a_fault_is_told_with_place_and_remedy(
    fault: Fault, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In process, for speed: the same `load` that the dry run of `lumbre launch` calls."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WORLD_SIZE", str(fault.processes))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", "HF_HUB_OFFLINE" in fault.environment)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "empty-cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(folder / "empty-cache"))
    (folder / "broken.yaml").write_text(fault.config)
    before = files(folder)
    monkeypatch.setenv("PATH", fault.environment.get("PATH", os.environ["PATH"]))
    with pytest.raises(ConfigError) as caught:
        checked(fault.program)
    assert_told(fault, str(caught.value))
    assert files(folder) == before


@pytest.mark.slow
@pytest.mark.parametrize("fault", LAUNCHED, ids=[fault.name for fault in LAUNCHED])
def test_launch_refuses_it_before_submission(fault: Fault, folder: Path) -> None:
    """By the real command: status 2, on one screen, and nothing is left behind: no run, no job."""
    (folder / "broken.yaml").write_text(fault.config)
    before = files(folder)
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "lumbre.cli", "launch", *fault.arguments("broken.yaml")],
        cwd=folder,
        env={**os.environ, **fault.environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    seconds = time.monotonic() - start
    assert done.returncode == 2, done.stderr
    assert_told(fault, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) < 24
    assert files(folder) == before
    print(f"{fault.name}: {seconds:.1f} s")
