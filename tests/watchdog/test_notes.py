"""What a rank notes, and how long it may take."""

from contextlib import suppress

import pytest

from lumbre.watchdog import notes
from lumbre.watchdog.board import Board, shared_memory
from lumbre.watchdog.notes import Notes


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time, which a test sets."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def noted(limit: float | str = "auto") -> Notes:
    return Notes(Board(shared_memory("test")), limit, start=1800.0, allowance=900.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("seconds", "limit"), [(0.05, 300.0), (20.0, 300.0), (90.0, 900.0)])
def test_a_hang_is_ten_usual_steps_and_at_least_five_minutes(
    clock: list[float], seconds: float, limit: float
) -> None:
    """The first step, which compiles, is part of the start; then what is usual counts, outliers or not."""
    one = noted()
    assert one.step_limit() == 1800.0
    for number in range(1, 8):
        with one.step(number):
            clock[0] += 50 * seconds if number == 3 else seconds
    with one.step(8):
        assert one.board.read().limit == pytest.approx(limit)
        assert one.board.read().step == 8


def test_a_limit_that_is_set_holds_for_steps_alone() -> None:
    """Evaluations and saves have the allowance, and the first step is part of the start."""
    one = noted(10.0)
    limits = []
    for number in (1, 2):
        with one.step(number):
            limits.append(one.board.read().limit)
            with one.during("saving"):
                limits.append(one.board.read().limit)
            limits.append(one.board.read().limit)
    limits.append(one.board.read().limit)
    assert limits == [1800.0, 1800.0, 1800.0, 10.0, 900.0, 10.0, 900.0]


def test_every_note_shows_and_what_was_before_comes_back() -> None:
    """The helper reads what the rank wrote: phases nest, and a collective is left even by an error."""
    one = noted()
    counts = [one.board.read().count]
    with one.during("saving"):
        with suppress(ValueError), one.collective("barrier"):
            note = one.board.read()
            assert (note.phase, note.collective, note.collectives) == ("saving", "barrier", 1)
            raise ValueError
        counts.append(one.board.read().count)
        assert one.board.read().collective == ""
    assert one.board.read().phase == "starting"
    assert counts[0] < counts[1] < one.board.read().count


def test_a_name_that_is_too_long_is_cut() -> None:
    """No name of a phase can break a run."""
    one = noted()
    one.enter("waiting for probe " + "é" * 100)
    assert one.board.read().phase.startswith("waiting for probe é")


def test_a_function_that_is_decorated_is_noted_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The notes that count are those of the call, not those of the definition."""
    seen = []

    @notes.during("evaluating")
    def evaluate() -> None:
        seen.append(notes.current().board.read().phase)

    monkeypatch.setattr(notes, "_current", [noted()])
    evaluate()
    evaluate()
    assert seen == ["evaluating", "evaluating"]
