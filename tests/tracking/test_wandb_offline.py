"""W&B with its real client: offline runs read back, one id through a resume, and no hanging."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import lumbre.tracking.wandb.connection as module
from lumbre.errors import ConfigError
from lumbre.tracking import RunInfo, Trackers, WandbConfig

ROOT = Path(__file__).resolve().parents[2]
KEY = "a" * 40

# A process of its own: the client keeps a helper process and settings for as long as Python lives.
SCRIPT = """
import json, sys
from pathlib import Path
from lumbre.tracking import RunInfo, Trackers, WandbConfig
folder, start, last, status = Path(sys.argv[1]), *map(int, sys.argv[2:5])
config = {"name": "quick", "model": {"hidden_size": 64, "position": {"type": "rotary"}}}
run = RunInfo("quick", folder, config, 100, start, "finetune")
trackers = Trackers.start(run, [WandbConfig(project="p", entity="e", group="g", tags=["t"], notes="n")])
for step in range(start + 10, last + 1, 10):
    seen = {"step": step, "tokens": 100 * step, "samples": 2 * step}
    trackers.log({**seen, "loss": 5.0 - step / 100, "learning_rate": 1e-3, "mfu": None, "time": 0.0})
    if step % 20 == 0:
        trackers.log({**seen, "eval/loss": 3.0 + abs(step - 20) / 100, "eval/accuracy": abs(step - 40) / 100})
trackers.log({"step": last, "event": "stopped", "message": "saved", "time": 1.0})
trackers.finish(status)
"""


def work(folder: Path, start: int, last: int, status: int) -> str:
    line = [sys.executable, "-c", SCRIPT, folder, start, last, status]
    told = subprocess.run(list(map(str, line)), cwd=ROOT, capture_output=True, text=True, check=True)
    return told.stdout


def read_back(folder: Path, *how: str) -> str:
    line = [Path(sys.executable).with_name("wandb"), "leet", "inspect", *how, "--json", folder]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout


def history(folder: Path) -> list[dict]:
    records = map(json.loads, read_back(folder).splitlines())
    return [record["history"]["item"] for record in records if record["type"] == "history"]


@pytest.fixture
def silent_server():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_resumed_run_keeps_its_id_and_sends_nothing_twice(clean, tmp_path):
    told = work(tmp_path, 0, 40, 75)
    assert "W&B: offline (no key (WANDB_API_KEY or `wandb login`)" in told
    work(tmp_path, 20, 60, 0)
    first, second = sorted(
        (tmp_path / "wandb").glob("offline-run-*"), key=lambda folder: folder.stat().st_ctime
    )
    summaries = [json.loads(read_back(folder, "--summary")) for folder in (first, second)]
    assert summaries[0]["run_id"] == summaries[1]["run_id"]
    assert [summary["exit_code"] for summary in summaries] == [75, 0]
    for summary in summaries:
        assert summary["config"] == {
            "name": "quick",
            "model": {"hidden_size": 64, "position": {"type": "rotary"}},
        }
        assert (summary["name"], summary["project"], summary["tags"]) == ("quick", "p", ["t"])
    rows = [history(first), history(second)]
    assert [[row["_step"] for row in part] for part in rows] == [[10, 20, 30, 40], [50, 60]]
    for row in rows[0] + rows[1]:
        assert row["step"] == row["_step"]
        assert row["loss"] == 5.0 - row["step"] / 100
        assert (row["tokens"], row["samples"]) == (100 * row["step"], 2 * row["step"])
        assert ("eval/loss" in row) == (row["step"] % 20 == 0)
        assert "mfu" not in row
    assert [part[-1]["event"] for part in rows] == ["stopped", "stopped"]
    # The best evaluation was in the first part, and the summary is the second's.
    last = summaries[1]["summary"]
    assert {key: last[key] for key in ("best/loss", "best/eval/loss", "best/eval/accuracy")} == {
        "best/loss": 4.4,
        "best/eval/loss": 3.0,
        "best/eval/accuracy": 0.2,
    }
    assert (last["loss"], last["eval/loss"]) == (4.4, 3.4)
    metrics = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert metrics == [10, 20, 20, 30, 40, 40, 50, 60, 60, 60]


def test_an_evaluation_that_a_stop_left_out_is_sent_after_the_resume(clean, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = RunInfo("quick", tmp_path, {}, 100)
    for start, rows in [
        (0, [{"step": 20, "loss": 1.0}, {"step": 20, "event": "stopped"}]),
        (20, [{"step": 20, "event": "resumed"}, {"step": 20, "eval/loss": 4.0}, {"step": 30, "loss": 0.5}]),
    ]:
        trackers = Trackers.start(run, [WandbConfig(system_seconds=None)])
        for row in rows:
            trackers.log(row)
        trackers.finish(0)
        folder = max((tmp_path / "wandb").glob("offline-run-*"), key=lambda folder: folder.stat().st_ctime)
        kept = [{key: value for key, value in row.items() if key[0] != "_"} for row in history(folder)]
        assert kept == (
            [{"step": 20, "loss": 1, "event": "stopped"}]
            if start == 0
            else [{"step": 20, "eval/loss": 4}, {"step": 30, "loss": 0.5}]
        )


def test_no_key_means_offline(clean):
    assert module.choose_mode("auto")[0] == "offline"


def test_the_environments_mode_goes_first(clean, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert module.choose_mode("online") == ("disabled", "")


def test_a_host_is_reachable_when_it_or_its_proxy_answers(clean, monkeypatch, silent_server):
    with socket.create_server(("127.0.0.1", 0)) as closing:
        closed = f"http://127.0.0.1:{closing.getsockname()[1]}"
    assert module.reachable(silent_server, 3.0)
    assert not module.reachable(closed, 3.0)
    monkeypatch.setenv("http_proxy", closed)
    assert not module.reachable("http://example.invalid", 3.0)
    monkeypatch.setenv("http_proxy", silent_server)
    assert module.reachable("http://example.invalid", 3.0)


def test_a_server_that_never_answers_does_not_hang_the_run(clean, monkeypatch, tmp_path, silent_server):
    """The client's own time-outs end the attempt, and the same run goes on offline."""
    script = "import lumbre.tracking.wandb.connection as module; module.INIT_SECONDS = 2.0\n" + SCRIPT
    monkeypatch.setenv("WANDB_BASE_URL", silent_server)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    told = subprocess.run(
        [sys.executable, "-c", script, tmp_path, "0", "20", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=45,
    )
    assert "W&B: offline (W&B cannot be reached" in told.stdout
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    told_first, *rows = history(folder)
    assert (told_first["event"], told_first["step"]) == ("tracker_offline", 0)
    assert [row["step"] for row in rows] == [10, 20]
    assert KEY not in told.stdout + told.stderr
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]


def test_online_without_a_key_is_a_config_error(clean, tmp_path):
    with pytest.raises(ConfigError, match=r"tracking: W&B cannot be reached.*WANDB_API_KEY.*mode: auto"):
        Trackers.start(RunInfo("quick", tmp_path, {}, 10), [WandbConfig(mode="online")])
