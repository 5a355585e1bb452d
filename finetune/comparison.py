"""Runs over several seeds side by side: means, standard errors, and the gain of one start over the other."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Comparison:
    """What the runs came to on the test split; `metric` is the one that they are compared by."""

    metric: str
    results: Sequence[dict[str, Any]]
    """A row a run: model ("pretrained" or "scratch"), seed, and the metrics."""

    def of(self, model: str) -> dict[int, float]:
        """Return the metric of each seed's run of a model."""
        return {row["seed"]: row[self.metric] for row in self.results if row["model"] == model}

    def gain(self) -> tuple[float, float] | None:
        """Return the mean paired gain of pretrained over scratch and its standard error; None without both.

        The standard error is that of the mean of the seeds' differences, nan for a single seed.
        """
        pretrained, scratch = self.of("pretrained"), self.of("scratch")
        gains = [pretrained[seed] - scratch[seed] for seed in pretrained if seed in scratch]
        if not gains:
            return None
        error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
        return statistics.mean(gains), error

    def summary(self) -> str:
        """Return the result in one sentence."""
        gain = self.gain()
        if gain is None:
            values = [row[self.metric] for row in self.results]
            mean = statistics.mean(values)
            if len(values) == 1:
                return f"{self.metric} {mean:.3f} with one seed"
            spread = statistics.stdev(values)
            return f"{self.metric} {mean:.3f}, standard deviation {spread:.3f} over {len(values)} seeds"
        mean, error = gain
        seeds = len(self.of("pretrained"))
        means = {name: statistics.mean(self.of(name).values()) for name in ("pretrained", "scratch")}
        both = f"{means['scratch']:.3f} from scratch, {means['pretrained']:.3f} pretrained"
        if math.isnan(error):
            return f"Pretraining brings {100 * mean:+.1f} points of {self.metric} ({both}; one seed)"
        times = f", {mean / error:.1f} standard errors" if error > 0 else ""
        return (
            f"Pretraining brings {100 * mean:+.1f} ± {100 * error:.1f} points of {self.metric} "
            f"({both}; mean and standard error over {seeds} seeds{times})"
        )

    def table(self) -> dict[str, Any]:
        """Return the rows and the summary, as results.json holds them; what is not known is null."""
        gain = self.gain()
        numbers = None
        if gain is not None:
            mean, error = gain
            error_or_null = None if math.isnan(error) else error
            numbers = {"metric": self.metric, "mean": mean, "standard_error": error_or_null}
        return {"rows": list(self.results), "summary": self.summary(), "gain": numbers}


def show(comparison: Comparison) -> None:
    """Print the table and the summary."""
    metrics = [name for name in comparison.results[0] if name not in ("model", "seed")]
    table = Table(title="Fine-tuning, test split", title_justify="left")
    table.add_column("model")
    table.add_column("seed", justify="right")
    for name in metrics:
        table.add_column(name, justify="right")
    for row in sorted(comparison.results, key=lambda row: (row["model"], row["seed"])):
        table.add_row(row["model"], str(row["seed"]), *(f"{row[name]:.3f}" for name in metrics))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"[bold]{comparison.summary()}[/]")
