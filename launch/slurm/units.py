"""Slurm's own way to write times."""

import re

TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<rest>\d+(?::\d+){0,2})")


def minutes(text: str | int) -> float | None:
    """Return a time limit in minutes; None for what is no time, infinity for none.

    Slurm takes M, M:S, H:M:S, D-H, D-H:M and D-H:M:S.
    """
    if str(text).lower() in ("infinite", "unlimited"):
        return float("inf")
    found = TIME.fullmatch(str(text))
    if not found:
        return None
    parts = [int(part) for part in found["rest"].split(":")]
    if found["days"] is None and len(parts) < 3:
        parts = [0, *parts]
    hours, minute, second = [*parts, 0, 0][:3]
    return int(found["days"] or 0) * 1440 + hours * 60 + minute + second / 60
