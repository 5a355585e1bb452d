"""The page, put together: what the runs tell, the scripts that draw it, and nothing to fetch."""

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from lumbre.errors import RunFolderError
from lumbre.report import attention, tables
from lumbre.report.html import is_number
from lumbre.report.results import results_html, shown_mistakes
from lumbre.report.run import ROUTINE, Run, read_runs
from lumbre.report.series import axes, figures

MARKED = 60
"""Most events of a run that are marked on the curves: the latest ones."""


def write_report(folders: Sequence[Path], out: Path, *, attention_text: str | None = None) -> Path:
    """Write the report of the run folders to `out` and return it.

    With `attention_text`, each run's model reads it, and the page shows what its heads look at; "" takes the
    latest sample's prompt. Raises RunFolderError for what is no run folder, or where `out` cannot be written.
    """
    runs = read_runs(folders)
    drawn = figures(runs)
    maps, heads = _attention(runs, attention_text)
    sections = [
        _section("Missing", tables.missing(runs)),
        _section("Numbers", tables.numbers(runs)),
        _section("Curves", _file("tools.html") + '<div id="curves"></div>') if drawn else "",
        *(_section(f"Results of {run.name}", results_html(run.results)) for run in runs if run.results),
        *(_section(f"What {run.name} gets wrong", shown_mistakes(run.mistakes)) for run in runs),
        *(_section(f"Samples of {run.name}", tables.samples(run)) for run in runs),
        *heads,
        _section("Config" if len(runs) == 1 else "What the configs differ in", tables.configs(runs)),
        _section("Events", tables.events(runs)),
    ]
    data = {
        "runs": [{"name": run.name, "color": run.color, "axes": axes(run)} for run in runs],
        "figures": drawn,
        "events": [event for number, run in enumerate(runs) for event in _marks(number, run)],
        "attention": maps,
    }
    page = Template(_file("page.html")).substitute(
        title=escape(" · ".join(run.name for run in runs)),
        legend="".join(map(tables.chip, runs)),
        style=_file("page.css"),
        body="\n".join(filter(None, sections)),
        data=_inert(data),
        plotly=_plotly(),
        curves=_file("curves.js"),
        attention=_file("attention.js"),
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"{out}: the report cannot be written: {error.strerror}") from error
    return out


def _attention(runs: Sequence[Run], text: str | None) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the maps as data, and a section for each run that says what they are or why there are none."""
    if text is None:
        return [], []
    text = text or attention.sample_text(runs)
    data: list[dict[str, Any]] = []
    sections = []
    for run in runs:
        maps, remark = attention.maps_of(run, text)
        places = range(len(data), len(data) + len(maps))
        data += [one.packed() for one in maps]
        said = "".join(f'<p class="soft">{escape(one)}</p>' for one in [remark] if one)
        drawn = "".join(f'<div class="attention" data-maps="{place}"></div>' for place in places)
        quoted = f"<pre>{escape(text)}</pre>" if maps else ""
        sections.append(_section(f"Attention of {run.name}", quoted + said + drawn))
    return data, sections


def _marks(number: int, run: Run) -> list[dict[str, Any]]:
    told = [
        event for event in run.events if event.get("event") not in ROUTINE and is_number(event.get("step"))
    ]
    return [
        {
            "run": number,
            "step": event["step"],
            "event": str(event["event"]),
            "message": str(event.get("message") or ""),
        }
        for event in told[-MARKED:]
    ]


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _inert(data: Any) -> str:
    """Return JSON that no browser takes for markup."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _file(name: str) -> str:
    return (files("lumbre.report") / name).read_text(encoding="utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    return script
