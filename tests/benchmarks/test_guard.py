"""The guard of speed: what a loss is, by formula, and a planted one in the real program."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import guard
from benchmarks.speed import contenders, counting
from benchmarks.speed.verdict import Counts, loss, verdict

COUNT = st.floats(1e3, 1e12)
NOISE = st.floats(0.995, 1.005)


@given(COUNT, COUNT, st.floats(0.0, 0.95))
def test_a_loss_is_what_is_gone_of_the_tokens_for_one_of_the_peers(
    ours: float, peer: float, lost: float
) -> None:
    assert loss(Counts(ours, peer), Counts(ours / (1 - lost), peer)) == pytest.approx(lost, abs=1e-12)


@given(COUNT, COUNT, COUNT, COUNT, st.floats(0.1, 10.0))
def test_what_makes_both_sides_longer_is_no_loss(
    ours: float, peer: float, ours_now: float, peer_now: float, factor: float
) -> None:
    recorded = Counts(ours, peer)
    longer = loss(recorded, Counts(factor * ours_now, factor * peer_now))
    assert longer == pytest.approx(loss(recorded, Counts(ours_now, peer_now)), rel=1e-9, abs=1e-9)


@given(COUNT, COUNT, st.floats(0.10, 0.95), NOISE, NOISE)
def test_a_loss_of_a_tenth_never_passes(
    ours: float, peer: float, lost: float, noise: float, other: float
) -> None:
    now = Counts(noise * ours / (1 - lost), other * peer)
    assert verdict("a", Counts(ours, peer), now).is_lost


@given(COUNT, COUNT, st.floats(-10.0, 0.03), NOISE, NOISE)
def test_a_gain_and_a_small_loss_always_pass(
    ours: float, peer: float, lost: float, noise: float, other: float
) -> None:
    now = Counts(noise * ours / (1 - lost), other * peer)
    assert not verdict("a", Counts(ours, peer), now).is_lost


def test_a_verdict_says_which_case_and_both_ratios() -> None:
    assert verdict("gpt", Counts(1000.0, 2000.0), Counts(1250.0, 2000.0)).text == (
        "LOST gpt: 1.600 to the peer, recorded 2.000 (-20.0%); instructions a token:"
        " ours 1,000 -> 1,250, the peer's 2,000 -> 2,000"
    )


def test_the_total_of_a_profile_is_read() -> None:
    assert counting.total("events: Ir\nsummary: 7\nfn=(1)\n3 4\n\ntotals: 12345\n") == 12345


def test_the_text_is_the_same_everywhere() -> None:
    text = "exft kgwsa mjfmxkpts oubd hmiwxafi\n\nrqhs oubd rqhs rltdfbb oubd"
    assert guard.written(documents=2, words=5) == text


@pytest.mark.parametrize("case", sorted(guard.CASES))
def test_every_case_is_recorded(case: str) -> None:
    recorded = Counts(**json.loads(guard.RECORD.read_text())["cases"][case])
    assert recorded.ours > 0
    assert recorded.peer > 0


def test_a_case_that_is_not_recorded_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(counting, "lacking", list)
    assert guard.main(["--cases", "overhead", "--file", str(tmp_path / "none.json")]) == 2
    assert "overhead: not recorded" in capsys.readouterr().err


def test_without_the_instrument_nothing_passes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(counting, "lacking", lambda: ["valgrind"])
    assert guard.main([]) == 2
    assert "apt-get install valgrind" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(bool(counting.lacking()), reason="Valgrind is not installed")
def test_a_planted_loss_fails_and_the_program_as_it_is_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counted = counting.count
    peer: list[float] = []

    def once_for_the_peer(name: str, *rest: Any) -> float:
        if name != guard.PEER:
            return counted(name, *rest)
        if not peer:
            peer.append(counted(name, *rest))
        return peer[0]

    monkeypatch.setattr(counting, "count", once_for_the_peer)
    asked = ["--cases", "overhead", "--file", str(tmp_path / "guard.json")]
    assert guard.main([*asked, "--record", "a test"]) == 0
    assert guard.main(asked) == 0
    assert "ok   overhead" in capsys.readouterr().out
    monkeypatch.setitem(contenders.MODULES, "lumbre", "tests.benchmarks.slowed")
    assert guard.main(asked) == 1
    said = capsys.readouterr().out
    assert "LOST overhead" in said
    assert "--record REASON" in said
