"""The report's figures, drawn by matplotlib without a display."""

import io
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#c2542d", "#2f6690", "#5a8f5a", "#8a5a8f", "#b8912b", "#4d8a8a", "#9a5b5b", "#6b6b6b")
MOST_POINTS = 1500
Row = dict[str, Any]
Line = tuple[list[float], list[float]]
"""Steps and values; a value that is missing is NaN and leaves a gap."""


@dataclass(frozen=True)
class Curves:
    """A run as the figures see it."""

    name: str
    color: str
    training: Sequence[Row]
    evaluations: Sequence[Row]
    probes: Sequence[Row] = ()


@dataclass(frozen=True)
class Panel:
    """One small figure: a number of the training rows, or of a probe's, over the steps."""

    title: str
    value: Callable[[Row], Any]
    form: str = "{:,.4g}"
    noisy: bool = True
    """Whether the eye needs a smoothed line over the raw one."""
    probe: str = ""
    """The key in the rows of a probe, which has a dot for each, on an axis that need not begin at 0."""

    def line(self, run: Curves) -> Line:
        """Return the run's steps and values."""
        rows = [row for row in run.probes if self.probe in row] if self.probe else run.training
        return series(rows, self.value)


def loop_share(row: Row) -> float:
    """Return the share of a step, in percent, that went to data and to the loop itself."""
    return float(100 * (row["data_seconds"] + row["overhead_seconds"]) / row["step_seconds"])


PANELS = (
    Panel("Learning rate", lambda row: row["learning_rate"], "{:.1e}", noisy=False),
    Panel("Tokens per second", lambda row: row["tokens_per_second"], "{:,.0f}"),
    Panel("Gradient norm", lambda row: row["grad_norm"]),
    Panel("Waiting and overhead, % of a step", loop_share, "{:.3g}"),
)


def probe_panels(runs: Sequence[Curves]) -> list[Panel]:
    """Return a figure for each probe of the runs, of the first metric that it has."""
    firsts: dict[str, str] = {}
    for row in (row for run in runs for row in run.probes):
        for key in row:
            if key.startswith("downstream/"):
                name = key.split("/")[1]
                firsts.setdefault(name, key)
    return [
        Panel(f"Probe {name}: {key.split('/', 2)[-1]}", itemgetter(key), "{:.3g}", noisy=False, probe=key)
        for name, key in firsts.items()
    ]


def series(rows: Sequence[Row], value: Callable[[Row], Any]) -> Line:
    """Return the steps and values of the rows that have a step, thinned to what a screen can show."""
    rows = [row for row in rows if isinstance(row.get("step"), int | float)]
    kept = rows[:: math.ceil(len(rows) / MOST_POINTS) or 1]
    kept += [rows[-1]] if rows and kept[-1] is not rows[-1] else []
    return [row["step"] for row in kept], [_finite(value, row) for row in kept]


def smooth(values: Sequence[float]) -> list[float]:
    """Return the mean around each value, over about a fortieth of them; NaN stays NaN."""
    reach = len(values) // 80 + 1 if len(values) > 20 else 0
    out = []
    for place, value in enumerate(values):
        near = [other for other in values[max(0, place - reach) : place + reach + 1] if not math.isnan(other)]
        out.append(math.nan if math.isnan(value) else sum(near) / len(near))
    return out


def loss_svg(runs: Sequence[Curves], *, narrow: bool = False) -> str:
    """Return the runs' loss curves: training as lines, evaluation as dots."""
    with _style():
        return _svg((4.5, 3.2) if narrow else (9.2, 3.9), lambda axes: _loss(axes, runs), "Loss over steps")


def panel_svg(runs: Sequence[Curves], panel: Panel) -> str:
    """Return one small figure, or "" if no run has its numbers."""
    lines = [(run, panel.line(run)) for run in runs]
    if not any(math.isfinite(value) for _, (_, values) in lines for value in values):
        return ""

    with _style():
        return _svg((4.5, 2.3), lambda axes: _panel(axes, lines, panel), panel.title)


def scores_svg(metric: str, scores: dict[str, list[float]]) -> str:
    """Return each model's scores as dots, a seed each, with their mean as a bar."""

    def draw(axes: "Axes") -> None:
        for place, values in enumerate(scores.values()):
            color = COLORS[place % len(COLORS)]
            axes.scatter(values, [place] * len(values), color=color, s=34, alpha=0.75, linewidths=0)
            axes.plot([sum(values) / len(values)] * 2, [place - 0.26, place + 0.26], color=color, lw=2)
        axes.set_yticks(range(len(scores)), [_literal(name) for name in scores])
        axes.set_ylim(len(scores) - 0.5, -0.5)
        axes.tick_params(axis="y", labelsize=9.5, length=0)
        axes.grid(axis="x", color="#ece8e1", lw=0.8)
        axes.grid(False, axis="y")
        axes.set_title(metric, loc="left", parse_math=False)

    with _style():
        return _svg((6.4, 0.75 + 0.42 * len(scores)), draw, f"{metric} of each model")


def picture(runs: Sequence[Curves], out: Path) -> None:
    """Write the loss curves and the small figures as one PNG."""
    with _style():
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D

        panels = [*PANELS, *probe_panels(runs)]
        rows = math.ceil(len(panels) / 2)
        figure = Figure(figsize=(11, 2.3 * rows), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.09, h_pad=0.09)  # type: ignore[union-attr,call-arg]
        cells = [str(place) if place < len(panels) else "." for place in range(2 * rows)]
        places = figure.subplot_mosaic(
            [["loss", "loss", *cells[2 * row : 2 * row + 2]] for row in range(rows)]
        )
        _loss(places["loss"], runs)
        marks = [Line2D([], [], color=run.color, lw=2, label=_literal(run.name)) for run in runs]
        marks.append(Line2D([], [], color="#555", marker="o", lw=0, ms=4.5, label="evaluation"))
        places["loss"].legend(handles=marks, frameon=False, loc="upper right")
        for number, panel in enumerate(panels):
            _panel(places[str(number)], [(run, panel.line(run)) for run in runs], panel)
        figure.savefig(out, dpi=144, format="png", metadata={"Software": None})


def _loss(axes: "Axes", runs: Sequence[Curves]) -> None:
    for run in runs:
        steps, values = series(run.training, lambda row: row["loss"])
        axes.plot(steps, values, color=run.color, lw=0.8, alpha=0.28)
        axes.plot(steps, smooth(values), color=run.color, lw=1.7)
        steps, values = series(run.evaluations, lambda row: row["eval/loss"])
        axes.plot(steps, values, color=run.color, lw=0, marker="o", ms=4.6, mec="white", mew=0.9)
    axes.set_title("Loss, nats per target token", loc="left")
    axes.set_xlabel("step")


def _panel(axes: "Axes", lines: Sequence[tuple[Curves, Line]], panel: Panel) -> None:
    for run, (steps, values) in lines:
        if panel.noisy:
            axes.plot(steps, values, color=run.color, lw=0.8, alpha=0.28)
        axes.plot(steps, smooth(values) if panel.noisy else values, color=run.color, lw=1.4)
        if panel.probe:
            axes.plot(steps, values, color=run.color, lw=0, marker="o", ms=4.6, mec="white", mew=0.9)
    axes.set_title(panel.title, loc="left", parse_math=False)
    if not panel.probe:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: panel.form.format(value))
    axes.locator_params(axis="y", nbins=4)
    axes.locator_params(axis="x", nbins=5)


def _style() -> AbstractContextManager[None]:
    import matplotlib as mpl

    return mpl.rc_context(
        {
            "font.size": 9,
            "axes.titlesize": 10,
            "axes.titlecolor": "#2b2825",
            "axes.titlepad": 9,
            "axes.labelcolor": "#77716a",
            "axes.edgecolor": "#cfc8be",
            "axes.linewidth": 0.8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.spines.left": False,
            "axes.grid": True,
            "axes.grid.axis": "y",
            "grid.color": "#ece8e1",
            "axes.axisbelow": True,
            "axes.xmargin": 0.015,
            "xtick.color": "#77716a",
            "ytick.color": "#77716a",
            "ytick.major.size": 0,
            "xtick.major.size": 3,
            "figure.facecolor": "white",
            "svg.fonttype": "path",
            "svg.hashsalt": "lumbre",
        }
    )


def _svg(size: tuple[float, float], draw: "Callable[[Axes], None]", label: str) -> str:
    from html import escape

    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    draw(axes)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    body = text.getvalue()
    return body[body.index("<svg") :].replace(
        "<svg", f'<svg role="img" aria-label="{escape(label, quote=True)}"', 1
    )


def _finite(value: Callable[[Row], Any], row: Row) -> float:
    try:
        number = float(value(row))
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _literal(text: str) -> str:
    """Return text that matplotlib draws as it stands: no formulas, no hidden legend entries."""
    return text.replace("$", r"\$").lstrip("_")
