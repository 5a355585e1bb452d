"""What fine-tuning came to, for the report: scores by seed and model, settings tried, and what went wrong."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import mean
from typing import Any

from lumbre.report.html import cell, html_table, is_number

MOST_MISTAKES = 12
LONGEST = 400
NO_METRIC = ("model", "seed", "point", "split", "step", "validation", "run")
Row = dict[str, Any]


def results_html(results: Row) -> str:
    """Return the summary, each model's scores (drawn by the page as dots), the runs, a grid's settings."""
    rows = [row for row in results.get("rows") or [] if isinstance(row, dict)]
    chosen = results.get("chosen") or {}
    told = [row for row in rows if row.get("point", {}) == chosen.get(row.get("model"), {})]
    parts = [f'<p class="finding">{escape(str(results["summary"]))}</p>'] if results.get("summary") else []
    metrics = list(dict.fromkeys(key for row in told for key in row if key not in NO_METRIC))
    for metric in metrics:
        scores: dict[str, list[float]] = {}
        for row in told:
            if is_number(row.get(metric)):
                scores.setdefault(str(row.get("model", "")), []).append(row[metric])
        if scores and len(scores) < len(told):
            given = escape(json.dumps({"metric": metric, "scores": scores}), quote=True)
            parts.append(f'<figure class="scores" data-scores="{given}"></figure>')
    if told:
        heads = [head for head in ("model", "seed", "split", *metrics) if any(head in row for row in told)]
        body = [[escape(cell(row.get(head))) for head in heads] for row in told]
        parts.append(html_table([escape(head) for head in heads], body, numeric=True))
    if len(told) < len(rows):
        parts.append(_settings(rows, str((results.get("metrics") or metrics)[0])))
    return "".join(parts)


def _settings(rows: Sequence[Row], metric: str) -> str:
    """Return each setting's mean on validation: what the choice was made by."""
    points: list[tuple[str, Row]] = []
    for row in rows:
        if (one := (str(row.get("model")), row.get("point", {}))) not in points:
            points.append(one)
    keys = list(dict.fromkeys(key for _, point in points for key in point))
    body = []
    for model, point in points:
        values = [
            row["validation"][metric]
            for row in rows
            if (str(row.get("model")), row.get("point", {})) == (model, point)
            and is_number(row.get("validation", {}).get(metric))
        ]
        cells = [model, *(str(point.get(key, "–")) for key in keys)]
        body.append([*map(escape, cells), cell(mean(values)) if values else "–"])
    heads = ["model", *(f"<code>{escape(key)}</code>" for key in keys), escape(f"validation {metric}")]
    whole = html_table(heads, body, numeric=True)
    return f"<details open><summary>{len(points)} settings</summary>{whole}</details>"


def mistakes(folder: Path, results: Row) -> list[Row]:
    """Return the predictions with a score below 1, the worst first; of several runs, the best's."""
    rows = [row for row in results.get("rows") or [] if isinstance(row, dict)]
    metric = (results.get("metrics") or [None])[0]
    scored = [row for row in rows if is_number(row.get("validation", {}).get(metric))]
    if not scored:
        return []
    best = max(scored, key=lambda row: float(row["validation"][metric]))
    file = folder / str(best.get("run", "")) / f"predictions-{best.get('split')}.jsonl"
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []
    wrong = [line for line in lines if is_number(line.get("score")) and line["score"] < 1]
    return sorted(wrong, key=_badness)[:MOST_MISTAKES]


def _badness(line: Row) -> tuple[float, float]:
    """Return a key that puts low scores first, and of equal ones those the model was surest of."""
    chances = line.get("probabilities")
    surest = max(chances.values(), default=0.0) if isinstance(chances, dict) else 0.0
    return line["score"], -surest


def shown_mistakes(lines: Sequence[Row]) -> str:
    """Return the predictions as a table of input, target and prediction; empty for none."""
    if not lines:
        return ""
    body = []
    for line in lines:
        cells = [_words(line.get(name)) for name in ("input", "target", "prediction")]
        chances = line.get("probabilities")
        if isinstance(chances, dict) and line.get("prediction") in chances:
            cells[2] += f" ({chances[line['prediction']]:.0%})"
        body.append([*map(escape, cells), cell(line["score"])])
    return html_table(["input", "target", "prediction", "score"], body)


def _words(value: Any) -> str:
    if isinstance(value, list):
        value = " · ".join(map(str, value))
    elif isinstance(value, dict):
        value = " · ".join(f"{key}: {one}" for key, one in value.items())
    shown = "–" if value is None else str(value)
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…"
