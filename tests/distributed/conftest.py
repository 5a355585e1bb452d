"""Groups of real processes that run training cases, and what the cases came to."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

WORKER = Path(__file__).with_name("worker.py")

Case = dict[str, Any]
"""What one training is given, as worker.py reads it."""


@dataclass(frozen=True)
class Results:
    """What every case came to, and the folder with their final weights and checkpoints."""

    folder: Path
    cases: Mapping[str, Any]

    def __getitem__(self, case: str) -> Any:
        return self.cases[case]

    def difference(self, case: str, other: str, key: str = "losses", *, first: int | None = None) -> float:
        """Return the largest relative difference between two cases over the steps that both did.

        `first` takes so many of those steps alone.
        """
        left, right = self[case], self[other]
        start = max(left["start"], right["start"])
        one = left[key][start - left["start"] :][:first]
        two = right[key][start - right["start"] :][:first]
        assert one
        return max(abs(a - b) / abs(b) for a, b in zip(one, two, strict=True))

    def assert_continues(self, resumed: str, unbroken: str, start: int) -> None:
        """Assert that a resumed case repeats the rest of the unbroken one to the bit, weights included."""
        assert self[resumed]["start"] == start
        for key in ("losses", "norms"):
            assert self[resumed][key] == self[unbroken][key][start:], key
        one, two = (torch.load(self.folder / f"{case}.pt", weights_only=True) for case in (resumed, unbroken))
        assert one.keys() == two.keys()
        for name in one:
            assert torch.equal(one[name], two[name]), name


RunGroups = Callable[[Mapping[int, Sequence[Case]], str], Results]


@pytest.fixture(scope="session")
def run_groups(tmp_path_factory: pytest.TempPathFactory) -> RunGroups:
    """Return a function that runs, for each number of ranks, its cases in one group, one after the other.

    It takes the CUDA devices that the groups may see ("" keeps them on the CPU). A case may start from a
    checkpoint of a case before it.
    """

    def run(groups: Mapping[int, Sequence[Case]], cuda_devices: str) -> Results:
        folder = tmp_path_factory.mktemp("layouts")
        environment = {
            **{name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"},
            "PYTHONPATH": str(WORKER.parents[2]),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": cuda_devices,
        }
        found: dict[str, Any] = {}
        for world, cases in groups.items():
            agent = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
            file = folder / f"cases-{world}.json"
            file.write_text(json.dumps(cases))
            done = subprocess.run(
                [sys.executable, *(agent if world > 1 else []), str(WORKER), str(folder), str(file)],
                check=False,
                env=environment,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr[-4000:]
            found |= json.loads((folder / f"results-{world}.json").read_text())
        return Results(folder, found)

    return run
