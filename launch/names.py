"""Names that DNS, and with it Kubernetes and Docker, will take."""

import hashlib
import re

from .base import Run

LONGEST = 45
"""A label of DNS has 63 characters; what is made of a job's name (its pods and hosts) needs some."""
LABEL = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")


def label(name: str, *, apart: str = "") -> str:
    """Return a label of DNS (RFC 1035 and 1123): the name where it is one, else its letters and a hash of it.

    `apart` tells names apart that are the same: it goes into the hash, which is then always there.
    """
    if LABEL.fullmatch(name) and len(name) <= LONGEST and not apart:
        return name
    digest = hashlib.sha256(f"{apart}\0{name}".encode()).hexdigest()[:8]
    letters = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not letters[:1].isalpha():
        letters = f"run-{letters}"
    return f"{letters[: LONGEST - 9].strip('-')}-{digest}"


def job_name(run: Run) -> str:
    """Return what tells a run apart from the preparation of its data, which has its name."""
    return run.name if run.job.is_training else f"{run.name}-{run.job.program}"
