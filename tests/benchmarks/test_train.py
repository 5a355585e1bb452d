"""The benchmark of pretraining: the same model for everyone, the gate between steps, and its arithmetic."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
import yaml

from benchmarks.speed.contenders import CONTENDERS, Setting
from benchmarks.speed.data import write_characters
from benchmarks.speed.gate import MARK, Parts
from benchmarks.speed.report import REST, Spread, breakdown, ratios, table, utilization
from benchmarks.speed.shapes import CHARACTERS, SHAPES
from lumbre import config as configs
from lumbre.hub.auto import adapter_for
from lumbre.models.flops import parameter_count
from pretrain.config import PretrainConfig

ROOT = Path(__file__).parents[2]
LOOP = """
import torch
from benchmarks.speed.gate import Gate

gate = Gate(torch.device("cpu"), torch.float32)
step = 0
while True:
    gate.between()
    step += 1
    with gate.parts.timed("forward"):
        print("what a loop says")
    gate.count(step)
"""


def setting_of(shape: str) -> Setting:
    one = SHAPES[shape]
    return Setting(one, one.batch, one.length, "float32", 1, True, (), "", 1)


@pytest.mark.parametrize("name", ["lumbre", "deepspeed-compiled"])
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_every_shape_is_a_run_that_pretraining_takes(shape: str, name: str, tmp_path: Path) -> None:
    if SHAPES[shape].by_character:
        write_characters(tmp_path / CHARACTERS, 65)
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(setting_of(shape).config(CONTENDERS[name], tmp_path)))
    config = configs.load(PretrainConfig, str(file), room="pretrain")
    assert config.batch_sizes == (SHAPES[shape].batch, SHAPES[shape].batch)


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_a_peer_is_given_the_same_model(shape: str, tmp_path: Path) -> None:
    if SHAPES[shape].by_character:
        write_characters(tmp_path / CHARACTERS, 65)
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(setting_of(shape).config(CONTENDERS["lumbre"], tmp_path)))
    ours = configs.load(PretrainConfig, str(file), room="pretrain").model
    adapter = adapter_for(ours)
    theirs = transformers.AutoConfig.for_model(adapter.model_type, **adapter.to_hf_config(ours, None))
    with torch.device("meta"):
        model = getattr(transformers, adapter.architecture)(theirs)
    assert sum(one.numel() for one in model.parameters()) == parameter_count(ours)
    assert not [part for part in model.modules() if isinstance(part, torch.nn.Dropout) and part.p]


def test_a_loop_goes_on_only_when_it_is_told_to() -> None:
    loop = subprocess.Popen(
        [sys.executable, "-c", LOOP], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    answers = []
    for command in ({"steps": 2, "parts": False}, {"steps": 3, "parts": True}):
        loop.stdin.write(json.dumps(command) + "\n")
        loop.stdin.flush()
        answers.append(json.loads(loop.stdout.readline().removeprefix(MARK)))
    assert loop.communicate(timeout=60)[0] == ""
    assert loop.returncode == 0
    assert [one["tokens"] for one in answers] == [[1, 2], [3, 4, 5]]
    assert [len(one["seconds"]) for one in answers] == [2, 3]
    assert [len(one["products"]) for one in answers] == [2, 3]
    assert [list(one["parts"]) for one in answers] == [[], ["forward"]]


def test_a_part_within_another_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(torch.device("cpu"))
    ticks = iter([0.0, 1.0, 3.0, 7.0])
    monkeypatch.setattr("benchmarks.speed.gate.time.perf_counter", lambda: next(ticks))
    inner = parts.wrapped("communication", lambda: "done")
    parts.is_on = True
    assert parts.wrapped("backward", inner)() == "done"
    assert parts.seconds == {"communication": 2.0, "backward": 5.0}
    parts.is_on = False
    assert inner() == "done"


def answer(seconds: list[float], tokens: int, products: list[float]) -> dict[str, object]:
    return {
        "seconds": seconds,
        "tokens": [tokens] * len(seconds),
        "products": products,
        "parts": {"forward": 0.25, "optimizer": 0.125},
        "peak_memory": 2**20,
    }


def test_figures_are_medians_and_ratios_within_rounds() -> None:
    slow, fast = answer([2.0, 1.0, 9.0], 100, [10.0, 40.0, 20.0]), answer([0.5, 1.0, 0.25], 100, [20.0])
    assert utilization(slow, 8.0) == 8.0 / 2.0 / 20.0
    assert utilization(slow, 8.0, ranks=2) == 8.0 / 2.0 / 20.0 / 2
    found = {"lumbre": [slow, slow], "lumbre-compiled": [fast, fast], "hf": [slow, fast]}
    assert ratios(found) == {"lumbre-compiled / hf": Spread.of([4.0, 1.0])}
    assert Spread.of([4.0, 1.0]) == Spread(2.5, 1.75, 3.25)
    assert (
        list(table(found, 8.0, 1))[2] == "| lumbre | 50 (50 to 50) | 0.20 (0.20 to 0.20) | 2000.0 | 0 | 1 |"
    )


def test_the_parts_make_up_the_step() -> None:
    parts = breakdown(answer([1.0, 2.0], 1, [1.0]))
    assert parts["forward"] == 0.25
    assert parts[REST] == 1.5 - 0.375
    assert sum(parts.values()) == 1.5


@pytest.mark.slow
def test_ours_and_a_peer_train_in_turn(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be, that is the question.\n" * 2000)
    out = tmp_path / "found.json"
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "benchmarks.train",
                "--shapes",
                "gpt-0.8m",
                "--contenders",
                "lumbre",
                "hf",
            ),
            *("--rounds", "1", "--steps", "2", "--threads", "1", "--device", "cpu"),
            *("--text", str(text), "--to", str(out)),
        ],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (shape,) = json.loads(out.read_text())["shapes"].values()
    assert [len(shape["rounds"][name]) for name in ("lumbre", "hf")] == [1, 1]
    assert all(one["tokens"] == [12 * 64] * 2 for (one,) in shape["rounds"].values())
    assert set(shape["parts"]["lumbre"]) >= {"forward", "backward", "optimizer"}
