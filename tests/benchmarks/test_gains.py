"""The benchmark of gains: two sides that differ in one thing, and do the same."""

from pathlib import Path

import pytest
import yaml

from benchmarks.gain import learning, pieces
from benchmarks.gain.steps import GAINS, StepGain
from benchmarks.speed.contenders import Setting
from benchmarks.speed.data import write_characters
from benchmarks.speed.shapes import CHARACTERS, SHAPES
from benchmarks.to_loss import shakespeare
from lumbre import config as configs
from pretrain.config import PretrainConfig


@pytest.mark.parametrize("gain", GAINS, ids=lambda gain: gain.key)
def test_both_sides_are_runs_that_differ_in_the_key_alone(gain: StepGain, tmp_path: Path) -> None:
    write_characters(tmp_path / CHARACTERS, 65)
    section, key = gain.key.split(".")
    for name in gain.shapes:
        shape = SHAPES[name]
        setting = Setting(shape, shape.batch, shape.length, "float32", 1, True, (), "", 1)
        found = []
        for value in (gain.with_, gain.without):
            file = tmp_path / "run.yaml"
            file.write_text(yaml.safe_dump(setting.config(gain.contender(value), tmp_path)))
            dumped = configs.load(PretrainConfig, str(file), room="pretrain").model_dump(
                serialize_as_any=True
            )
            found.append((dumped[section].pop(key), dumped))
        (with_, rest), (without, other) = found
        assert with_ != without
        if key != "type":  # another optimizer has keys of its own
            assert rest == other


@pytest.mark.parametrize("name", list(learning.VARIANTS))
def test_each_variant_is_a_run_of_as_many_tokens(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tinyshakespeare").mkdir()
    for part in ("train", "valid"):
        (tmp_path / f"tinyshakespeare/{part}.txt").write_text("text")
    monkeypatch.chdir(tmp_path)
    config = configs.load(
        PretrainConfig, str(shakespeare.CONFIG), room="pretrain", overrides=learning.VARIANTS[name]
    )
    stages = map(config.plan.stage_of_step, range(config.train.steps))
    tokens = sum(stage.global_batch_size * stage.seq_length for stage in stages)
    assert tokens == pytest.approx(learning.ROWS * 65, rel=0.02)


@pytest.mark.parametrize("name", ["chunked cross-entropy", "head at targets alone"])
def test_both_ways_of_a_part_come_to_one_loss(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "WORDS", 500)
    ours, plain = (float(way()) for way in pieces.PIECES[name]())
    assert ours == pytest.approx(plain, rel=1e-5)
