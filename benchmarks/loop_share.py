"""What the training loop itself costs: the medians of a run's step, data and overhead seconds.

    .venv/bin/python benchmarks/loop_share.py runs/quickstart-bert runs/quickstart-gpt

The share is (data_seconds + overhead_seconds) / step_seconds: everything but forward, backward and optimizer.
"""

import json
import statistics
import sys
from pathlib import Path

KEYS = ("step_seconds", "data_seconds", "overhead_seconds", "tokens_per_second", "mfu")


def main(runs: list[Path]) -> None:
    """Print a line for each run folder; the first rows warm up and are left out."""
    for run in runs:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        rows = [row for row in map(json.loads, lines) if "loss" in row][2:]
        step, data, overhead, tokens, mfu = (
            statistics.median(row[key] or 0.0 for row in rows) for key in KEYS
        )
        shares = [100 * (row["data_seconds"] + row["overhead_seconds"]) / row["step_seconds"] for row in rows]
        low, middle, high = statistics.quantiles(shares, n=4)
        print(
            f"{run}: loop {middle:.2f}% of a step (quartiles {low:.2f}% to {high:.2f}%); "
            f"step {1e3 * step:.1f} ms, data {1e3 * data:.2f} ms, overhead {1e3 * overhead:.2f} ms, "
            f"{tokens:,.0f} tokens/s, MFU {100 * mfu:.0f}%, {len(rows)} rows"
        )


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
