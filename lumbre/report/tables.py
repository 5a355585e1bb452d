"""The report's tables: the numbers, what the configs differ in, events, samples."""

from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import islice
from typing import Any

import numpy as np

from lumbre.report.columns import OVERHEAD, SECONDS, Floats, Row
from lumbre.report.html import cell, formatted, html_table, is_number
from lumbre.report.run import ROUTINE, Run
from lumbre.tracking.console import MEASURED, duration, memory

MOST_EVENTS = 40
MOST_VERSIONS = 12


def numbers(runs: Sequence[Run]) -> str:
    """Return a row of figures for each run."""
    rows = [_figures_of(run) for run in runs]
    heads = list(dict.fromkeys(key for row in rows for key in row))
    body = [
        [chip(run), *(escape(row.get(key, "–")) for key in heads)]
        for run, row in zip(runs, rows, strict=True)
    ]
    return html_table(["", *map(escape, heads)], body, numeric=True) if heads else ""


def _figures_of(run: Run) -> dict[str, str]:
    out: dict[str, str] = {}
    columns = run.columns
    if "loss" in columns:
        steps, losses = columns["loss"]
        tokens = columns["tokens"][1][-1] if "tokens" in columns else None
        out["steps"] = formatted(float(steps[-1]), ",.0f")
        out["tokens"] = formatted(tokens, ",.0f")
        out["loss"] = formatted(_over(np.mean, losses[-max(1, len(losses) // 20) :]), ".4f")
    for row in run.measured:
        out |= {key: formatted(value, ".4f") for key, value in row.items() if key.startswith(MEASURED)}
    for name, key, form in [
        ("tokens/s", "tokens_per_second", ",.0f"),
        ("MFU", "mfu", ".1%"),
        ("overhead", OVERHEAD, ".2%"),
    ]:
        if key in columns:
            out[name] = formatted(_over(np.median, columns[key][1]), form)
    if "peak_memory_bytes" in columns:
        out["memory"] = memory(_over(np.max, columns["peak_memory_bytes"][1]))
    if SECONDS in columns:
        out["time"] = duration(float(columns[SECONDS][1][-1]))
    return out


def samples(run: Run) -> str:
    """Return what the run last made of each prompt, and on a click what it made of it at earlier steps."""
    versions: dict[str, list[tuple[Any, str]]] = {}
    for row in run.generations:
        for sample in row["samples"]:
            prompt = str(sample.get("prompt", ""))
            text = str(sample.get("text", "")).removeprefix(prompt)
            versions.setdefault(prompt, []).append((row.get("step"), text))
    return "".join(_sample(prompt, told) for prompt, told in versions.items())


def _sample(prompt: str, told: Sequence[tuple[Any, str]]) -> str:
    *earlier, (step, text) = told
    at = f'<span class="at">step {step:,}</span>' if is_number(step) else ""
    latest = f"<pre>{at}<b>{escape(prompt)}</b>{escape(text)}</pre>"
    if not earlier:
        return latest
    thinned = [earlier[place * len(earlier) // MOST_VERSIONS] for place in range(MOST_VERSIONS)]
    shown = earlier if len(earlier) <= MOST_VERSIONS else thinned
    body = [[formatted(step, ",.0f"), f"<code>{escape(text)}</code>"] for step, text in shown]
    return latest + _behind("at earlier steps", html_table(["step", ""], body))


def configs(runs: Sequence[Run]) -> str:
    """Return the keys of one config, or those that differ between several.

    Keys that not every config has, as of a pretraining and its fine-tuning, are behind a click.
    """
    keys = list(dict.fromkeys(key for run in runs for key in run.config))
    if len(runs) == 1:
        return _behind(f"{len(keys)} keys", _configs(runs, keys))
    differ = [key for key in keys if len({run.config.get(key) for run in runs}) > 1]
    shared = [key for key in differ if all(key in run.config for run in runs if run.config)]
    rest = [key for key in differ if key not in shared]
    return _configs(runs, shared) + _behind(f"{len(rest)} keys of some runs alone", _configs(runs, rest))


def _configs(runs: Sequence[Run], keys: Sequence[str]) -> str:
    body = [
        [f"<code>{escape(key)}</code>", *(escape(run.config.get(key, "–")) for run in runs)] for key in keys
    ]
    return html_table(["", *map(chip, runs)], body) if keys else ""


def _behind(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>{content}</details>" if content else ""


def events(runs: Sequence[Run]) -> str:
    """Return the runs' events, the latest first; what happens again and again is behind a click."""
    often, seldom = (
        [(run, event) for run in runs for event in _latest(run, routine)] for routine in (True, False)
    )
    whole = _events(seldom)
    return whole + _behind(f"{len(often)} checkpoints", _events(often))


def _latest(run: Run, routine: bool) -> Iterable[Row]:
    wanted = (event for event in reversed(run.events) if (event.get("event") in ROUTINE) is routine)
    return islice(wanted, MOST_EVENTS)


def _events(told: Sequence[tuple[Run, Row]]) -> str:
    body = [
        [
            chip(run),
            formatted(event.get("step"), ",.0f"),
            *(escape(cell(event.get(key))) for key in ("event", "message")),
        ]
        for run, event in told
    ]
    return html_table(["", "step", "event", ""], body) if body else ""


def missing(runs: Sequence[Run]) -> str:
    """Return what the page cannot show, and of which run."""
    lines = [f"<li>{chip(run)}: {escape(one)}</li>" for run in runs for one in run.missing]
    return f"<ul>{''.join(lines)}</ul>" if lines else ""


def chip(run: Run) -> str:
    """Return the run's name with its colour."""
    return f'<span class="chip" style="--color:{run.color}">{escape(run.name)}</span>'


def _over(figure: Callable[[Floats], Any], values: Floats) -> float | None:
    real = values[np.isfinite(values)]
    return float(figure(real)) if len(real) else None
