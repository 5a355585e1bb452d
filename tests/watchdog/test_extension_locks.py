"""Locks of compilations: only what nobody holds is removed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lumbre.watchdog import extension_locks
from lumbre.watchdog.extension_locks import clear_stale_locks

HOLD = "import os, sys; os.open(sys.argv[1], os.O_CREAT | os.O_EXCL); print(flush=True); sys.stdin.read()"


def test_a_lock_is_removed_once_its_owner_is_dead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While the process that compiles has it open it stays; when that is dead it goes, and is told."""
    lock = tmp_path / "py311_cpu/cpu_adam/lock"
    lock.parent.mkdir(parents=True)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        owner.stdout.readline()  # type: ignore[union-attr]
        assert clear_stale_locks(tmp_path) == []
        assert lock.exists()
        owner.kill()
    if extension_locks._kind(tmp_path) not in extension_locks.LOCAL:
        pytest.skip("the folder's file system is not known to be this machine's alone")
    assert clear_stale_locks(tmp_path) == [lock]
    assert not lock.exists()
    assert str(lock) in capsys.readouterr().err


def test_a_lock_on_a_network_file_system_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the kernel cannot know who else has it open."""
    lock = tmp_path / "cpu_adam/lock"
    lock.parent.mkdir()
    os.close(os.open(lock, os.O_CREAT))
    monkeypatch.setattr(extension_locks, "_kind", lambda folder: "nfs4")
    assert clear_stale_locks(tmp_path) == []
    assert lock.exists()
