"""What kind a row is."""

from lumbre.tracking.rows import kind


def test_probes_of_one_step_are_kinds_of_their_own():
    """After a resume one may have been sent and another not."""
    rows = [
        {"loss": 1.0, "samples": 8},
        {"eval/loss": 1.0, "samples": 8},
        {"downstream/a/f1": 1.0},
        {"downstream/b/f1": 1.0},
        {"samples": [{"prompt": "a", "text": "b"}]},
        {"event": "x", "loss": 1.0},
    ]
    kinds = [kind({"step": 4, **row}) for row in rows]
    assert kinds == ["train", "eval", "downstream/a", "downstream/b", "samples", "event"]
