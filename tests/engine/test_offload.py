"""Offload: what a ZeRO stage can keep elsewhere, and the folder that is swapped to."""

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lumbre.engine import DeepSpeedConfig, swap
from lumbre.engine.offload import OffloadConfig
from lumbre.engine.swap import SwapFolder, claim
from lumbre.errors import ConfigError


def problems(stage: int, **offload: Any) -> list[str]:
    """Return what is wrong with an offload at a stage."""
    config = DeepSpeedConfig.model_validate({"zero_stage": stage, "offload": offload})
    return [str(problem) for problem in config.all_problems()]


@pytest.mark.parametrize(
    ("key", "place", "least"),
    [("optimizer", "cpu", 1), ("optimizer", "disk", 3), ("parameters", "cpu", 3), ("parameters", "disk", 3)],
)
def test_a_stage_keeps_elsewhere_what_deepspeed_can(key: str, place: str, least: int) -> None:
    for stage in range(4):
        folder = {"folder": "/disk"} if place == "disk" else {}
        found = problems(stage, **{key: place}, **folder)
        if stage >= least:
            assert found == []
        else:
            (problem,) = found
            assert problem.startswith(f"offload.{key}: {place} can be used from stage {least} on")
            assert f"use engine.zero_stage={least}" in problem


def test_a_disk_is_named_where_one_is_used_and_nowhere_else() -> None:
    for key in ("optimizer", "parameters"):
        (missing,) = problems(3, **{key: "disk"})
        assert missing.startswith(f"offload.folder: {key} is disk, and none is named")
    (idle,) = problems(3, optimizer="cpu", folder="/disk")
    assert idle.startswith("offload.folder: nothing is kept on a disk")


def test_what_may_be_written_to_a_disk_is_counted_before_the_start() -> None:
    """A rank of two has half of each parameter, rounded up."""
    model = nn.Linear(4, 7)
    model.frozen = nn.Parameter(torch.zeros(4), requires_grad=False)
    owned = -(-28 // 2) + -(-7 // 2)
    states = {"optimizer": owned * 4 * 4, "parameters": (owned + 2) * 2}
    for keys in (["optimizer"], ["parameters"], ["optimizer", "parameters"]):
        offload = OffloadConfig.model_validate({**dict.fromkeys(keys, "disk"), "folder": "/disk"})
        wanted = sum(states[key] for key in keys)
        assert offload.bytes_on_disk(model, ranks=2, states=2, element_size=2) == wanted
    assert OffloadConfig(optimizer="cpu").bytes_on_disk(model, 2, 2, 2) == 0


def held(parent: Path) -> int:
    """Return the number of a new process that has a folder in `parent`."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        swap_folder = SwapFolder(parent)
        (swap_folder.path / "state").write_bytes(b"much")
        os.write(writer, b"x")
        time.sleep(60)
        os._exit(1)
    os.close(writer)
    assert os.read(reader, 1) == b"x"
    os.close(reader)
    return child


def killed(child: int) -> None:
    """Kill a process of ours."""
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_folder_goes_with_its_process_even_by_sigkill(tmp_path: Path) -> None:
    child = held(tmp_path)
    assert len(list(tmp_path.glob("*/state"))) == 1
    killed(child)
    deadline = time.monotonic() + 30
    while list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []


def test_what_gone_processes_left_is_removed_and_what_others_use_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a power cut, when nothing could clear up."""
    monkeypatch.setattr(swap, "AFTER_US", "true")
    child = held(tmp_path)
    (used,) = tmp_path.iterdir()
    mine = claim(tmp_path, 0)
    assert used.is_dir()
    assert mine.path.is_dir()
    killed(child)
    other = claim(tmp_path, 0)
    assert sorted(tmp_path.iterdir()) == sorted([mine.path, other.path])
    mine.close()
    other.close()


def test_a_folder_goes_when_it_is_closed(tmp_path: Path) -> None:
    folder = claim(tmp_path, 0)
    folder.close()
    assert list(tmp_path.iterdir()) == []


def refusal(folder: Path, needed: int = 0) -> str:
    """Return what a claim is refused with."""
    with pytest.raises(ConfigError) as refused:
        claim(folder, needed)
    return str(refused.value)


def test_a_folder_that_cannot_be_swapped_to_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "there is no such folder" in refusal(tmp_path / "missing")
    (tmp_path / "file").touch()
    assert "is not a folder" in refusal(tmp_path / "file")
    needed = refusal(tmp_path, 10**15)
    assert "1000.0 TB are needed for 1 processes" in needed
    assert "are free" in needed
    assert all(text.startswith("engine.offload.folder: ") for text in (needed, refusal(tmp_path / "file")))

    def read_only(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", read_only)
        assert "read-only file system" in refusal(tmp_path)
    opened = os.open

    def buffered(path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", buffered)
    assert "takes no direct reads and writes" in refusal(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
