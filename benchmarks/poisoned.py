"""Ten poisoned documents in 100,000: are they found, who else is, and does the run end as without them?

    .venv/bin/python -m benchmarks.poisoned [--documents 100000] [--poisoned 10] [--seeds 3] [--epochs 2]

The documents are the installed standard library's source, some lines each. Poisoned are garbage, one rare
sign again and again, words of another script and bytes in the wrong encoding, as tests/end_to_end/poison.py
makes them. A small GPT reads the corpus with `train.spikes: quarantine`, and again with the poisoned ones in
quarantine from the beginning: the run that never had them. There is a pair of runs for each seed; the noise
is what the evaluation's loss differs between seeds.

Two epochs, for a model in its warm-up finds a poisoned document no harder than others: what it meets there
does no harm, and is found when it comes again.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pretrain.data.packing import BestFitConfig
from pretrain.data.shards import PreparedData
from tests.end_to_end.poison import TOKENS, lay_out, numbers

LIST = "quarantine.json"
BATCH = 128


def trained(folder: Path, name: str, seed: int, steps: int) -> list[dict[str, Any]]:
    """Train a run to its end; return its rows."""
    keys = [f"name={name}", f"seed={seed}", f"train.steps={steps}"]
    keys += [f"train.{size}_batch_size={BATCH}" for size in ("global", "micro")]
    line = [sys.executable, "-m", "lumbre.cli", "pretrain", "run.yaml", *keys]
    subprocess.run(line, cwd=folder, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()]


def reference(folder: Path, name: str, poisoned: set[int]) -> None:
    """Put documents in quarantine before a run begins."""
    found = {str(number): {"step": 0, "loss": 0.0, "usual": 0.0} for number in poisoned}
    one = {"fingerprint": PreparedData.open(folder / "prepared").fingerprint, "documents": found}
    (folder / "runs" / name).mkdir(parents=True)
    (folder / "runs" / name / LIST).write_text(json.dumps({"sets": {"": one}}))


def steps_of(prepared: Path, epochs: float) -> int:
    """Return how many steps take so many epochs."""
    rows = BestFitConfig().build(PreparedData.open(prepared).split("train"), TOKENS, 0).num_rows
    return math.ceil(epochs * rows / BATCH)


def main() -> None:
    """Train a pair of runs for each seed, and print what was found and where they end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--poisoned", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=2.0)
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
        steps = steps_of(folder / "prepared", asked.epochs)
        print(
            f"{len(bad)} of {asked.poisoned} poisoned documents are in the training split; {steps:,} steps",
            flush=True,
        )
        for seed in range(1, asked.seeds + 1):
            rows = trained(folder, f"poisoned-{seed}", seed, steps)
            found = {row["document"] for row in rows if row.get("event") == "quarantined"}
            reference(folder, f"never-{seed}", bad)
            others = trained(folder, f"never-{seed}", seed, steps)
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
