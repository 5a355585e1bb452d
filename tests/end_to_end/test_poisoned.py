"""Poisoned documents in a corpus: a run quarantines them, and ends as one that never had them."""

from pathlib import Path

import pytest

from .poison import end, found, lay_out, lumbre, never_had, numbers, trained

NOISE = 0.02
"""What the evaluation's loss differs between runs of two seeds, at least."""


@pytest.mark.slow
def test_planted_documents_are_found_and_no_others_and_the_run_ends_as_without_them(tmp_path: Path) -> None:
    """Three in 3,000, of three kinds, over four epochs."""
    texts = lay_out(tmp_path, 3000, 3)
    lumbre(tmp_path, "prepare")
    planted = numbers(tmp_path / "prepared", texts)
    assert len(planted) == 3
    rows = trained(tmp_path, "poisoned", "train.steps=300")
    assert found(rows) == planted
    never_had(tmp_path, "never", planted)
    never = trained(tmp_path, "never", "train.steps=300")
    assert not found(never)
    assert end(rows) == pytest.approx(end(never), abs=NOISE)
