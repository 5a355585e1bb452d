"""Probes beside a run, without the run: what they come to, how they end, what is kept of them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lumbre.config import load
from lumbre.errors import ConfigError, RunFolderError
from lumbre.signals import StopRequest
from pretrain import downstream
from pretrain.config import PretrainConfig
from pretrain.downstream import Downstream, ProbeConfig

FAKE = """\
import json, os, pathlib, sys
_, parent, program, config, *overrides = sys.argv
keys = dict(text.split("=", 1) for text in overrides)
assert program == "finetune"
assert pathlib.Path(json.loads(keys["model.path"]), "weights").read_text() == "[0.0, 1.0, 2.0]"
folder = pathlib.Path(json.loads(keys["runs_folder"]), json.loads(keys["name"]))
folder.mkdir()
if config == "fails":
    print("first"); print("error: last line"); print(); sys.exit(2)
if config == "lasts":
    (folder / "pid").write_text(str(os.getpid()))
    import time; time.sleep(60)
(folder / "environment").write_text(json.dumps(dict(os.environ)))
rows = [{"seed": seed, "validation": {"accuracy": seed / 10, "loss": 2.0}} for seed in (1, 2)]
(folder / "results.json").write_text(json.dumps({"rows": [] if config == "says nothing" else rows}))
"""
"""Stands for `lumbre finetune`, in the time that Python takes to start."""


NO_ENGINE: Any = None
"""Probes ask an engine for nothing."""


def export(folder: Path) -> None:
    """Write weights."""
    folder.mkdir(parents=True)
    (folder / "weights").write_text(json.dumps([0.0, 1.0, 2.0]))


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downstream, "START", FAKE)


def probes(run: Path, *configs: str, every: int | None = 4, last_step: int = 10) -> Downstream:
    """Return probes of a run folder."""
    return Downstream([ProbeConfig(config=config) for config in configs], every, last_step, run, export)


def rows(of: Downstream, step: int, stop: StopRequest | None = None) -> list[dict[str, object]]:
    """Run what is due; return the rows without their time."""
    found = [dict(row) for row in of.run(NO_ENGINE, step, StopRequest() if stop is None else stop)]
    return [{key: row[key] for key in row if key != "time"} for row in found]


def test_probes_are_due_every_so_many_steps_and_at_the_end(tmp_path: Path) -> None:
    assert [step for step in range(11) if probes(tmp_path, "a").due(step)] == [4, 8, 10]
    assert [step for step in range(11) if probes(tmp_path, "a", every=None).due(step)] == [10]
    assert not any(probes(tmp_path).due(step) for step in range(11))


def test_each_probe_gives_the_mean_over_its_seeds_and_leaves_results_and_log(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    both = probes(tmp_path, "one", "configs/two.yaml")
    assert rows(both, 4) == [
        {"step": 4, f"downstream/{name}/accuracy": pytest.approx(0.15), f"downstream/{name}/loss": 2.0}
        for name in ("one", "two")
    ]
    assert not both.due(4)
    assert both.due(8)
    left = sorted(file.name for file in (tmp_path / "downstream").iterdir())
    assert left == [f"{name}-step-00000004.{end}" for name in ("one", "two") for end in ("json", "log")]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_probe_that_fails_is_an_event_with_its_last_line_and_the_others_run(tmp_path: Path) -> None:
    three = probes(tmp_path, "fails", "says nothing", "good")
    failed, silent, good = rows(three, 4)
    log = tmp_path / "downstream/fails-step-00000004.log"
    message = f"fails: error: last line; see {log}"
    assert failed == {"event": "probe_failed", "step": 4, "message": message}
    assert log.read_text().splitlines()[0] == "first"
    assert silent["event"] == "probe_failed"
    assert "downstream/good/accuracy" in good
    assert not three.due(4)


def test_weights_that_cannot_be_written_fail_the_probes_and_not_the_run(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        raise RunFolderError(f"{folder}: the disk is full; free some space")

    one = Downstream([ProbeConfig(config="one")], 4, 10, tmp_path, full)
    (row,) = rows(one, 4)
    assert row["event"] == "probe_failed"
    assert str(row["message"]).endswith("the disk is full; free some space")
    assert not (tmp_path / "downstream/at-work").exists()


def test_a_signal_ends_the_probe_which_alone_stays_due(tmp_path: Path) -> None:
    stop, pids = StopRequest(), []
    pid = tmp_path / "downstream/at-work/lasts/pid"

    def ask() -> None:
        while not pid.is_file() or not pid.read_text():
            time.sleep(0.01)
        pids.append(int(pid.read_text()))
        stop.name = "SIGTERM"

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    both = probes(tmp_path, "one", "lasts")
    assert [list(row) for row in rows(both, 4, stop)] == [
        ["step", "downstream/one/accuracy", "downstream/one/loss"]
    ]
    thread.join(5.0)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    assert not (tmp_path / "downstream/at-work").exists()
    assert both.due(4)

    again = probes(tmp_path, "one", "lasts")
    again.restore(json.loads(json.dumps(both.state())))
    assert again.due(4)
    again._probes["lasts"] = ProbeConfig(config="one", name="lasts")
    assert [list(row)[1] for row in rows(again, 4)] == ["downstream/lasts/accuracy"]
    assert not again.due(4)


def test_a_probe_is_no_rank_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "WANDB_SERVICE"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("WORLD_SIZE_OF_MINE", "7")
    theirs = downstream.environment()
    assert not {"RANK", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "WANDB_SERVICE"} & theirs.keys()
    assert {"WORLD_SIZE_OF_MINE", "PATH"} <= theirs.keys()


def test_a_killed_run_leaves_no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real start of a probe in place of the command, below a process that is killed."""
    monkeypatch.undo()
    last = "from lumbre.cli import main\nmain()\n"
    assert downstream.START.endswith(last)
    start = downstream.START.removesuffix(last) + "print('ready', flush=True)\nimport time; time.sleep(60)\n"
    parent = (
        "import os, subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], str(os.getpid())])"
    )
    process = subprocess.Popen([sys.executable, "-c", parent, start], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    killed = time.monotonic()
    process.send_signal(signal.SIGKILL)
    # The pipe is at its end once the probe, which has the other end, is gone.
    assert process.stdout.read() == b""
    assert time.monotonic() - killed < 30.0
    process.stdout.close()
    process.wait()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["downstream=[a, b/a.yaml]"], "downstream.1: 'a' is the name of downstream.0 too; give it a `name`"),
        (["downstream=[{config: a, name: b/c}]"], "downstream.0.name: 'b/c' cannot be a probe's name"),
        (
            ["downstream=[{config: a, overrides: [model.path=x]}]"],
            "downstream.0.overrides.0: model.path is set by the run; leave it out",
        ),
        (["train.downstream_every=5"], "train.downstream_every: there is no probe to run"),
    ],
)
def test_misfits_of_probes_are_told(overrides: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(PretrainConfig, "configs/pretrain/quickstart-bert.yaml", overrides, room="pretrain")
    assert expected in str(caught.value)
