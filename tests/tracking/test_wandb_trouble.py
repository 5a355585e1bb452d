"""A W&B that hangs or refuses: the run does not wait for it, and its user is told."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEY = "b" * 40

STOPPED = """
import os, signal, sys, time
from pathlib import Path
from lumbre.tracking import RunInfo, Trackers, WandbConfig
from lumbre.tracking.wandb import connection, tracker
connection.FINISH_SECONDS = tracker.CLOSE_SECONDS = 1.0
run = RunInfo("stopped", Path(sys.argv[1]), {}, 5000)
trackers = Trackers.start(run, [WandbConfig(mode="offline", system_seconds=None)])
os.kill(connection.service().pid, signal.SIGSTOP)
began = time.monotonic()
for step in range(1, 5001):
    trackers.log({"step": step, "loss": 1.0, **{f"value_{number}": float(step) for number in range(20)}})
took = time.monotonic() - began
began = time.monotonic()
trackers.finish(0)
print("seconds", took, time.monotonic() - began)
"""

REFUSED = """
import sys
from pathlib import Path
from lumbre.errors import ConfigError
from lumbre.tracking import RunInfo, Trackers, WandbConfig
for mode in ("online", "auto"):
    try:
        trackers = Trackers.start(RunInfo("refused", Path(sys.argv[1]), {}, 10), [WandbConfig(mode=mode)])
        trackers.log({"step": 1, "loss": 1.0})
        trackers.finish(0)
    except ConfigError as error:
        print("ConfigError", error)
"""


class _Refuses(http.server.BaseHTTPRequestHandler):
    """A stand-in for W&B's server, which answers 401 to every key."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b'{"errors": [{"message": "user is not logged in"}]}'
        self.send_response(401)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the screen."""


@pytest.fixture
def refusing_server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refuses) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", script, str(folder)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)


def test_a_refused_key_is_told_and_auto_goes_on_offline(
    clean, monkeypatch, tmp_path, records, refusing_server
):
    monkeypatch.setenv("WANDB_BASE_URL", refusing_server)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    said = run(REFUSED, tmp_path)
    assert "ConfigError tracking: W&B refuses the key: " in said.stdout
    assert "set WANDB_API_KEY to a valid key, or use mode: auto" in said.stdout
    assert "W&B: offline (W&B refuses the key: " in said.stdout
    assert KEY not in said.stdout + said.stderr
    told_first, row = [one["history"]["item"] for one in records(tmp_path) if one["type"] == "history"]
    assert told_first["event"] == "tracker_offline"
    assert "refuses the key" in told_first["message"]
    assert row["loss"] == 1.0


def test_a_client_that_stands_still_does_not_hold_up_the_run(clean, tmp_path):
    """Its socket and its queue fill with 5,000 rows of 22 values; every row is in metrics.jsonl."""
    said = run(STOPPED, tmp_path)
    took, ending = map(float, said.stdout.split("seconds ")[1].split())
    assert took < 10
    assert ending < 10
    assert "tracker_off  wandb failed and is switched off" in said.stdout
    assert "Traceback" not in said.stderr
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 5001
