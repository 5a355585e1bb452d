"""Which checkpoints stay: the latest, every n-th, the best; never one fewer than a run needs to go on."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre.checkpoint import BestConfig, CheckpointConfig, Checkpoints
from lumbre.checkpoint.retention import doomed
from lumbre.engine import AccelerateConfig
from lumbre.optim import AdamWConfig

CONFIGS = st.builds(
    CheckpointConfig,
    keep=st.integers(1, 4),
    keep_every=st.none() | st.integers(1, 7),
    keep_best=st.none()
    | st.builds(BestConfig, mode=st.sampled_from(["min", "max"]), count=st.integers(1, 3)),
)


@settings(max_examples=60)
@given(
    steps=st.sets(st.integers(1, 60), min_size=1, max_size=12),
    damaged=st.sets(st.integers(1, 60), max_size=4),
    values=st.lists(st.floats(-5, 5), min_size=60, max_size=60),
    config=CONFIGS,
    data=st.data(),
)
def test_what_goes_is_neither_latest_nor_nth_nor_best(
    steps: set[int], damaged: set[int], values: list[float], config: CheckpointConfig, data: st.DataObject
) -> None:
    """Each rule told anew, one step at a time."""
    newest = data.draw(st.sampled_from(sorted(steps)))
    damaged.discard(newest)
    metrics = {step: values[step - 1] for step in steps if step % 2}
    gone = doomed(steps, metrics, damaged, newest, config)
    whole = {step for step in steps if step <= newest} - damaged
    for step in steps:
        later = sum(other > step for other in whole)
        stays = step > newest or (step in whole and later < config.keep)
        if step in whole and config.keep_every is not None:
            stays = stays or step % config.keep_every == 0
        if step in whole and config.keep_best is not None and step in metrics:
            sign = 1 if config.keep_best.mode == "max" else -1
            better = [
                other
                for other in whole & metrics.keys()
                if (sign * metrics[other], other) > (sign * metrics[step], step)
            ]
            stays = stays or len(better) < config.keep_best.count
        assert (step in gone) != stays, step
    assert newest not in gone


@pytest.mark.parametrize(
    ("metric", "sign"), [("loss", -1), ("loss/mlm", -1), ("perplexity", -1), ("accuracy", 1), ("f1", 1)]
)
def test_less_is_better_for_losses_and_more_for_the_rest(metric: str, sign: int) -> None:
    assert BestConfig(metric=metric).sign == sign
    assert BestConfig(metric=metric, mode="max").sign == 1


def test_a_run_keeps_what_the_config_says(tmp_path: Path) -> None:
    """The last two, every fifth step's, and the one with the least loss."""
    engine = AccelerateConfig().build(torch.nn.Linear(2, 1), AdamWConfig(learning_rate=0.1), 1)
    config = CheckpointConfig(keep=2, keep_every=5, keep_best=BestConfig(metric="loss"))
    store = Checkpoints(tmp_path, config)
    for step in range(1, 10):
        measured = {"metrics": {"loss": abs(step - 3.0)}} if step != 4 else {}
        store.save(engine, step, measured, background=True)
    store.wait()
    assert sorted(folder.name for folder in tmp_path.iterdir()) == [
        f"step-{step:08d}" for step in (3, 5, 8, 9)
    ]


def test_a_damaged_checkpoint_takes_no_place_from_a_whole_one(tmp_path: Path) -> None:
    """The run went back to step 1; once it is past step 2 again, that one's ruin goes and step 1 stays."""
    engine = AccelerateConfig().build(torch.nn.Linear(2, 1), AdamWConfig(learning_rate=0.1), 1)
    config = CheckpointConfig(keep=2)
    for step in (1, 2):
        Checkpoints(tmp_path, config).save(engine, step, {})
    (tmp_path / "step-00000002/state.json").write_text("{}")
    store = Checkpoints(tmp_path, config)
    assert store.latest() == tmp_path / "step-00000001"
    store.save(engine, 3, {})
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]
