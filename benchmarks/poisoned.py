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
import math
import statistics
import tempfile
from pathlib import Path

from pretrain.data.packing import BestFitConfig
from pretrain.data.shards import PreparedData
from tests.end_to_end.poison import TOKENS, end, found, lay_out, lumbre, never_had, numbers, trained

BATCH = 128


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
        lumbre(folder, "prepare")
        bad = numbers(folder / "prepared", texts)
        steps = steps_of(folder / "prepared", asked.epochs)
        print(
            f"{len(bad)} of {asked.poisoned} poisoned documents are in the training split; {steps:,} steps",
            flush=True,
        )
        for seed in range(1, asked.seeds + 1):
            keys = [f"seed={seed}", f"train.steps={steps}"]
            keys += [f"train.{size}_batch_size={BATCH}" for size in ("global", "micro")]
            rows = trained(folder, f"poisoned-{seed}", *keys)
            out = found(rows)
            never_had(folder, f"never-{seed}", bad)
            ends["poisoned"].append(end(rows))
            ends["never"].append(end(trained(folder, f"never-{seed}", *keys)))
            print(
                f"seed {seed}: {len(out & bad)} of {len(bad)} found, {len(out - bad)} innocent; "
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
