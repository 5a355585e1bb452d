"""Runs side by side: means and spreads over seeds, the grid's best, the gain of one start over another."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

Row = Mapping[str, Any]
MOST_COLUMNS = 4
"""Metrics of the printed table; results.json has all."""


@dataclass(frozen=True)
class Comparison:
    """What the runs came to."""

    metrics: Sequence[str]
    """Names of the task's metrics, the first the one that runs are compared by."""
    results: Sequence[dict[str, Any]]
    """A row a run: model ("pretrained" or "scratch"), seed, the grid's point, split, and its metrics."""

    @property
    def metric(self) -> str:
        """The metric that runs are compared by."""
        return self.metrics[0]

    @property
    def models(self) -> list[str]:
        """The starts of the runs, in order."""
        return list(dict.fromkeys(row["model"] for row in self.results))

    def points(self, model: str) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Yield each point of the grid with a model's runs there."""
        its = [row for row in self.results if row["model"] == model]
        points = [row.get("point", {}) for row in its]
        for number, point in enumerate(points):
            if points.index(point) == number:
                yield point, [row for row in its if row.get("point", {}) == point]

    def chosen(self, model: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the point whose mean on validation is the best, and its runs; the first of equal ones."""
        return max(self.points(model), key=lambda pair: _mean(self.validation(pair[1])))

    def of(self, model: str) -> dict[int, float]:
        """Return the metric of each seed's run of a model at its chosen point; empty for no run."""
        if model not in self.models:
            return {}
        return {row["seed"]: row[self.metric] for row in self.chosen(model)[1]}

    def validation(self, rows: Sequence[Row]) -> list[float]:
        """Return the runs' metric on the validation split."""
        return [row.get("validation", row)[self.metric] for row in rows]

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
        """Return the result in a sentence, of a grid in two."""
        return " ".join([*self._choices(), self._result()])

    def _choices(self) -> Iterator[str]:
        for model in self.models:
            points = list(self.points(model))
            if len(points) > 1:
                point, rows = self.chosen(model)
                values = ", ".join(f"{key} {value}" for key, value in point.items())
                validation = _mean(self.validation(rows))
                whose = f" of {model}" if len(self.models) > 1 else ""
                yield (
                    f"Of {len(points)} settings{whose} the best on validation is {values} "
                    f"({self.metric} {validation:.3f} there)."
                )

    def _result(self) -> str:
        gain, split = self.gain(), self.results[0].get("split", "test")
        if gain is None:
            values = list(self.of(self.models[0]).values())
            mean = statistics.mean(values)
            if len(values) == 1:
                return f"{self.metric} {mean:.3f} on the {split} split with one seed"
            spread = statistics.stdev(values)
            return (
                f"{self.metric} {mean:.3f}, standard deviation {spread:.3f} over {len(values)} seeds, "
                f"on the {split} split"
            )
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
        chosen = {model: dict(self.chosen(model)[0]) for model in self.models}
        return {
            "metrics": list(self.metrics),
            "rows": list(self.results),
            **({"chosen": chosen} if any(chosen.values()) else {}),
            "summary": self.summary(),
            "gain": numbers,
        }


def show(comparison: Comparison) -> None:
    """Print the table and the summary; of a grid, what each point came to on validation."""
    console = Console(highlight=False)
    if any(len(list(comparison.points(model))) > 1 for model in comparison.models):
        console.print(_grid(comparison))
    console.print(_runs(comparison))
    console.print(f"[bold]{comparison.summary()}[/]")


def _runs(comparison: Comparison) -> Table:
    rows = [row for model in comparison.models for row in comparison.chosen(model)[1]]
    names = [name for name in (*comparison.metrics[:MOST_COLUMNS], "loss") if name in rows[0]]
    title = f"Fine-tuning, {rows[0].get('split', 'test')} split"
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    table.add_column("seed", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    for row in sorted(rows, key=lambda row: (row["model"], row["seed"])):
        table.add_row(row["model"], str(row["seed"]), *(f"{row[name]:.3f}" for name in names))
    return table


def _grid(comparison: Comparison) -> Table:
    table = Table(title="Settings, validation split", title_justify="left")
    keys = [key for key, _ in next(comparison.points(comparison.models[0]))[0].items()]
    for name in ("model", *keys, comparison.metric, "std", "runs"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for model in comparison.models:
        best = comparison.chosen(model)[0]
        for point, rows in comparison.points(model):
            values = comparison.validation(rows)
            spread = f"{statistics.stdev(values):.3f}" if len(values) > 1 else "–"
            cells = [model, *(str(point[key]) for key in keys), f"{_mean(values):.3f}", spread]
            table.add_row(*cells, str(len(rows)), style="bold" if point == best else "")
    return table


def _mean(values: Sequence[float]) -> float:
    return statistics.mean(values)
