"""Ten poisoned documents in 100,000: are they found, who else is, and does the run end as without them?

    .venv/bin/python -m benchmarks.poisoned [--documents 100000] [--poisoned 10] [--seeds 3] [--steps 2400]

The documents are the installed standard library's source, some lines each. Poisoned are garbage, one rare
sign again and again, and words of another script, as tests/end_to_end/poison.py makes them. A small GPT reads
the corpus with `train.spikes: quarantine`, and again with the poisoned documents in quarantine from the
beginning: the run that never had them. There is a pair of runs for each seed; the noise is what the
evaluation's loss differs between seeds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pretrain.data.shards import PreparedData
from tests.end_to_end.poison import lay_out, numbers

LIST = "quarantine.json"


def trained(folder: Path, name: str, seed: int, steps: int) -> list[dict[str, Any]]:
    """Train a run to its end; return its rows."""
    keys = [f"name={name}", f"seed={seed}", f"train.steps={steps}"]
    line = [sys.executable, "-m", "lumbre.cli", "pretrain", "run.yaml", *keys]
    subprocess.run(line, cwd=folder, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()]


def reference(folder: Path, name: str, poisoned: set[int]) -> None:
    """Put documents in quarantine before a run begins."""
    found = {str(number): {"step": 0, "loss": 0.0, "usual": 0.0} for number in poisoned}
    one = {"fingerprint": PreparedData.open(folder / "prepared").fingerprint, "documents": found}
    (folder / "runs" / name).mkdir(parents=True)
    (folder / "runs" / name / LIST).write_text(json.dumps({"sets": {"": one}}))


def main() -> None:
    """Train a pair of runs for each seed, and print what was found and where they end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--poisoned", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2400)
    asked = parser.parse_args()
    ends: dict[str, list[float]] = {"poisoned": [], "never": []}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        texts = lay_out(folder, asked.documents, asked.poisoned)
        subprocess.run(
            [sys.executable, "-m", "lumbre.cli", "prepare", "run.yaml"],
            cwd=folder,
            check=True,
            capture_output=True,
        )
        bad = numbers(folder / "prepared", texts)
        print(f"{len(bad)} of {asked.poisoned} poisoned documents are in the training split", flush=True)
        for seed in range(1, asked.seeds + 1):
            rows = trained(folder, f"poisoned-{seed}", seed, asked.steps)
            found = {row["document"] for row in rows if row.get("event") == "quarantined"}
            reference(folder, f"never-{seed}", bad)
            others = trained(folder, f"never-{seed}", seed, asked.steps)
            for name, ended in ("poisoned", rows), ("never", others):
                ends[name].append([row["eval/loss"] for row in ended if "eval/loss" in row][-1])
            print(
                f"seed {seed}: {len(found & bad)} of {len(bad)} found, {len(found - bad)} innocent; "
                f"evaluation {ends['poisoned'][-1]:.4f}, without them {ends['never'][-1]:.4f}",
                flush=True,
            )
    differences = [one - other for one, other in zip(*ends.values(), strict=True)]
    largest = max(map(abs, differences))
    print(f"largest difference {largest:.1e}", end="")
    if asked.seeds > 1:
        print(
            f"; between seeds the loss has a standard deviation of {statistics.stdev(ends['never']):.1e}",
            end="",
        )
    print()


if __name__ == "__main__":
    main()
