"""The real W&B client without its user's settings, and its files read back with its own reader."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Records = Callable[[Path], list[dict[str, Any]]]


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leave no key, no mode and no proxy of the user's."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def records() -> Records:
    """Return the reader of every record of a run's offline files, oldest file first."""

    def read(run: Path) -> list[dict[str, Any]]:
        found = []
        for folder in sorted((run / "wandb").glob("offline-run-*")):
            line = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", folder]
            said = subprocess.run(line, capture_output=True, text=True, check=True).stdout
            found += [json.loads(text) for text in said.splitlines()]
        return found

    return read
