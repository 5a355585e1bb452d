"""Cells and tables of the report."""

import math
from collections.abc import Iterable, Sequence
from typing import Any


def html_table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: bool = False) -> str:
    """Return a table of cells that are HTML; in a numeric one all but the first stand to the right."""
    head = "".join(f"<th>{cell}</th>" for cell in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    kind = ' class="numeric"' if numeric else ""
    return (
        f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def is_number(value: Any) -> bool:
    """Return whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def formatted(value: Any, form: str) -> str:
    """Return a number in that form; a dash for none."""
    return format(value, form) if is_number(value) else "–"


def cell(value: Any) -> str:
    """Return any value as a cell's text."""
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
