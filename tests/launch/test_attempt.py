"""What a pod runs: it ends as the run recorded, in numbers that restart policies can tell apart."""

import sys
from pathlib import Path

import pytest

from launch.__main__ import main

# A command with torchrun's manner: whatever the run recorded, it ends with 1.
COMMAND = """
import json, pathlib, sys
folder, status = pathlib.Path(sys.argv[1]), sys.argv[2]
if status != "none":
    record = {"status": int(status), "reason": "told", "rank": 0, "step": 1}
    (folder / "exit.json").write_text(json.dumps(record))
sys.exit(status != "0")
"""


def ended(folder: Path, status: str, *options: str) -> int:
    return main(["attempt", *options, str(folder), sys.executable, "-c", COMMAND, str(folder), status])


@pytest.mark.parametrize(
    ("status", "plain", "retryable"),
    [("0", 0, 0), ("2", 2, 2), ("75", 75, 203), ("76", 76, 204), ("1", 1, 1), ("none", 1, 1)],
)
def test_a_pod_ends_as_its_run_recorded(status, plain, retryable, tmp_path):
    assert ended(tmp_path, status) == plain
    assert ended(tmp_path, status, "--as-retryable") == retryable


def test_a_record_of_an_earlier_pod_is_no_answer(tmp_path):
    assert ended(tmp_path, "75") == 75
    assert ended(tmp_path, "none") == 1
