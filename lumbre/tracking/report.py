"""The report: runs side by side on one HTML page that needs nothing but itself."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from lumbre.errors import RunFolderError
from lumbre.tracking import plots
from lumbre.tracking.console import MEASURED, duration, memory
from lumbre.tracking.html import cell, formatted, html_table, is_real
from lumbre.tracking.jsonl import METRICS_FILE, read
from lumbre.tracking.page import PAGE
from lumbre.tracking.results import mistakes, results_html, shown_mistakes

MOST_EVENTS = 40
Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What a run folder tells."""

    curves: plots.Curves
    events: list[Row]
    config: dict[str, str]
    """Dotted keys and their values as text."""
    results: dict[str, Any]
    mistakes: list[dict[str, Any]]
    """Predictions of a fine-tuned model that are not right, the worst first."""
    samples: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """The run's name."""
        return self.curves.name


def write_report(runs: Sequence[Path], out: Path) -> Path:
    """Write the report of the run folders to `out` and return it.

    Raises RunFolderError for what is no run folder, or where `out` cannot be written.
    """
    views = _read(runs)
    curves = [view.curves for view in views]
    trained = any(view.curves.training or view.curves.evaluations or view.curves.probes for view in views)
    sections = [
        _section("Numbers", _numbers(views)) if trained else "",
        _section("Curves", _figures(curves)) if trained else "",
        *(_section(f"Results of {view.name}", results_html(view.results)) for view in views if view.results),
        *(_section(f"What {view.name} gets wrong", shown_mistakes(view.mistakes)) for view in views),
        *(_section(f"Samples of {view.name}", _samples(view.samples)) for view in views if view.samples),
        _section("Config" if len(views) == 1 else "What the configs differ in", _configs(views)),
        _section("Events", _events(views)),
    ]
    title = " · ".join(view.name for view in views)
    page = PAGE.substitute(
        title=escape(title), legend=_legend(curves), body="\n".join(filter(None, sections))
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"{out}: the report cannot be written: {error.strerror}") from error
    return out


def write_picture(runs: Sequence[Path], out: Path) -> Path:
    """Write the runs' curves to `out` as one PNG and return it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    plots.picture([view.curves for view in _read(runs)], out)
    return out


def _read(folders: Sequence[Path]) -> list[Run]:
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise RunFolderError(f"{', '.join(missing)}: no such run folder; runs are usually in runs/NAME")
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    views = []
    for number, (name, folder) in enumerate(zip(names, folders, strict=True)):
        rows = read(folder / METRICS_FILE)
        color = plots.COLORS[number % len(plots.COLORS)]
        training = [row for row in rows if "loss" in row and "event" not in row]
        evaluations, probes = (
            [row for row in rows if any(key.startswith(f"{kind}/") for key in row)]
            for kind in ("eval", "downstream")
        )
        results, samples = _json(folder / "results.json"), _json(folder / "samples.json")
        views.append(
            Run(
                plots.Curves(name, color, training, evaluations, probes),
                [row for row in rows if "event" in row],
                dict(_flat(_yaml(folder / "config.yaml"))),
                results if isinstance(results, dict) else {},
                mistakes(folder, results) if isinstance(results, dict) else [],
                [sample for sample in samples if isinstance(sample, dict)]
                if isinstance(samples, list)
                else [],
            )
        )
    return views


def _numbers(views: Sequence[Run]) -> str:
    rows = [_figures_of(view.curves) for view in views]
    heads = list(dict.fromkeys(key for row in rows for key in row))
    body = [
        [_chip(view.curves), *(escape(row.get(key, "–")) for key in heads)]
        for view, row in zip(views, rows, strict=True)
    ]
    return html_table(["", *map(escape, heads)], body, numeric=True)


def _figures_of(run: plots.Curves) -> dict[str, str]:
    out: dict[str, str] = {}
    if run.training:
        last = run.training[-1]
        losses = [
            row["loss"] for row in run.training[-max(1, len(run.training) // 20) :] if is_real(row["loss"])
        ]
        out["steps"] = formatted(last.get("step"), ",.0f")
        out["tokens"] = formatted(last.get("tokens"), ",.0f")
        out["loss"] = formatted(sum(losses) / len(losses) if losses else None, ".4f")
    for row in [*run.evaluations, *run.probes]:
        out |= {key: formatted(value, ".4f") for key, value in row.items() if key.startswith(MEASURED)}
    if run.training:
        for name, key, form in [("tokens/s", "tokens_per_second", ",.0f"), ("MFU", "mfu", ".1%")]:
            out[name] = formatted(_median(row.get(key) for row in run.training), form)
        shares = (plots.series(run.training, plots.loop_share))[1]
        out["overhead"] = formatted(_median(value / 100 for value in shares), ".2%")
        peaks = [row["peak_memory_bytes"] for row in run.training if is_real(row.get("peak_memory_bytes"))]
        out["memory"] = memory(max(peaks)) if peaks else "–"
        seconds = _seconds(run.training)
        out["time"] = duration(seconds) if seconds else "–"
    return out


def _seconds(rows: Sequence[Row]) -> float:
    """Return the time that the steps took; pauses between the parts of a resumed run are left out."""
    total = before = 0.0
    for row in rows:
        step, seconds = row.get("step"), row.get("step_seconds")
        if isinstance(step, int | float) and isinstance(seconds, int | float):
            total, before = total + (step - before) * seconds, step
    return total


def _figures(curves: Sequence[plots.Curves]) -> str:
    wanted = [*plots.probe_panels(curves), *plots.PANELS]
    panels = [panel for panel in (plots.panel_svg(curves, panel) for panel in wanted) if panel]
    small = "".join(f"<figure>{panel}</figure>" for panel in panels)
    wide, narrow = plots.loss_svg(curves), plots.loss_svg(curves, narrow=True)
    loss = f'<figure class="wide">{wide}</figure><figure class="narrow">{narrow}</figure>'
    return f'{loss}<div class="grid">{small}</div>'


def _samples(samples: Sequence[dict[str, Any]]) -> str:
    return "".join(
        f"<pre><b>{escape(str(sample.get('prompt', '')))}</b>{escape(_continuation(sample))}</pre>"
        for sample in samples
    )


def _continuation(sample: dict[str, Any]) -> str:
    prompt, text = str(sample.get("prompt", "")), str(sample.get("text", ""))
    return text.removeprefix(prompt)


def _configs(views: Sequence[Run]) -> str:
    keys = list(dict.fromkeys(key for view in views for key in view.config))
    if len(views) > 1:
        keys = [key for key in keys if len({view.config.get(key) for view in views}) > 1]
    if not keys:
        return ""
    body = [
        [f"<code>{escape(key)}</code>", *(escape(view.config.get(key, "–")) for view in views)]
        for key in keys
    ]
    whole = html_table(["", *(_chip(view.curves) for view in views)], body)
    return whole if len(views) > 1 else f"<details><summary>{len(keys)} keys</summary>{whole}</details>"


def _events(views: Sequence[Run]) -> str:
    body = [
        [
            _chip(view.curves),
            formatted(event.get("step"), ",.0f"),
            *(escape(cell(event.get(key))) for key in keys),
        ]
        for view in views
        for keys in [("event", "message")]
        for event in islice(reversed(view.events), MOST_EVENTS)
    ]
    return html_table(["", "step", "event", ""], body) if body else ""


def _legend(curves: Sequence[plots.Curves]) -> str:
    return "".join(f"<span>{_chip(run)}</span>" for run in curves)


def _chip(run: plots.Curves) -> str:
    return f'<span class="chip" style="--color:{run.color}">{escape(run.name)}</span>'


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _flat(tree: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif prefix:
        yield prefix, tree if isinstance(tree, str) else json.dumps(tree, default=str)


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _yaml(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _median(values: Iterable[Any]) -> float | None:
    real = [value for value in values if is_real(value)]
    return median(real) if real else None
