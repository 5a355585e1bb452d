"""The benchmark of DeepSpeed's overhead: what is left of a step without its parts, round by round."""

from benchmarks.zero_overhead import row


def test_overhead_is_the_rest_of_each_round() -> None:
    measured = {
        "whole": [1.0, 2.0, 4.0],
        "model": [0.5, 1.0, 2.0],
        "optimizer": [0.2, 0.4, 0.8],
        "communication": [0.3, 0.4, 0.4],
        "inside": [0.2, 0.4, 0.8],
    }
    cells = [cell.strip() for cell in row("gpt-14m", 2, measured).strip("|").split("|")]
    assert cells[:2] == ["gpt-14m", "2"]
    assert cells[2] == "2000.0 (1500.0 to 3000.0)"
    assert cells[-3] == "400.0 (300.0 to 600.0)"
    assert cells[-2:] == ["10.0% (5.0% to 15.0%)", "10.0% (10.0% to 10.0%)"]
