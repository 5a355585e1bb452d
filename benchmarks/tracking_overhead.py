"""What tracking costs of a 50 ms step: metrics.jsonl, console and W&B, which is well, hangs or refuses.

    .venv/bin/python benchmarks/tracking_overhead.py [--steps 300] [--rounds 3]

A step stands in for a GPU's: the main thread multiplies matrices outside Python's lock, as torch does, for
50 ms, and logs a row (log_every: 1 and 10). Three figures, as shares of a step, the start left out:

- in log: the time that the main thread spends in `log`;
- CPU: all the CPU time that the process takes beyond the main thread's matrices, W&B's threads included: the
  most that a step can lose, whatever else runs on the machine;
- step: the median step against the same loop without tracking, the rounds in turn; needs an idle machine.

The ways: offline (a client that is well), stopped (its helper process stands still, SIGSTOP, and its socket
fills), silent (online, a stand-in server that takes connections and never answers), refused (401).
"""

import argparse
import contextlib
import http.server
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

STEP_SECONDS = 0.05
WAYS = ("nothing", "offline", "stopped", "silent", "refused")
FIELDS = ("learning_rate", "grad_norm", "tokens_per_second", "mfu", "step_seconds", "data_seconds")


class Refuses(http.server.BaseHTTPRequestHandler):
    """A stand-in for W&B's server that refuses every key."""

    def do_POST(self) -> None:
        """Answer 401."""
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(401)
        self.send_header("content-length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the screen."""


def measure(way: str, steps: int, log_every: int) -> dict[str, float]:
    """Run the loop in this process; return medians in seconds of a step and of `log`."""
    import torch

    from lumbre.tracking import RunInfo, Trackers, WandbConfig
    from lumbre.tracking.wandb import connection, tracker

    connection.INIT_SECONDS, tracker.CLOSE_SECONDS, connection.FINISH_SECONDS = 3.0, 2.0, 2.0
    torch.set_num_threads(1)
    factor = torch.randn(512, 512)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        trackers = Trackers()
        if way != "nothing":
            mode = "auto" if way in ("silent", "refused") else "offline"
            trackers = Trackers.start(RunInfo("bench", Path(folder), {}, steps), [WandbConfig(mode=mode)])
            if way == "stopped" and (service := connection.service()) is not None:
                os.kill(service.pid, signal.SIGSTOP)
        # What has the client start is over, and what an attempt to reach a server costs is not.
        time.sleep(2.0)
        repeats = calibrated(factor)
        took, inside, cpu, computing = [], [], time.process_time(), 0.0
        for step in range(1, steps + 1):
            began, used = time.perf_counter(), time.thread_time()
            for _ in range(repeats):
                factor @ factor
            logging = time.perf_counter()
            computing += time.thread_time() - used
            if step % log_every == 0:
                row = {"step": step, "tokens": step * 1000, "samples": step * 8, "loss": 1.0 + 1 / step}
                trackers.log({**row, **dict.fromkeys(FIELDS, 0.1), "time": time.time()})
            took.append(time.perf_counter() - began)
            inside.append(time.perf_counter() - logging)
        cpu = time.process_time() - cpu - computing
        trackers.finish(0)
        file = Path(folder) / "metrics.jsonl"
        rows = [line for line in file.read_text().splitlines() if '"loss"' in line] if file.exists() else []
    logged = inside[log_every - 1 :: log_every]
    return {
        "step": statistics.median(took),
        "cpu": cpu / steps,
        "mean_log": sum(inside) / steps,
        "median_row": statistics.median(logged),
        "worst_row": max(logged),
        "rows": len(rows),
    }


def calibrated(factor: "torch.Tensor") -> int:
    """Return how many products take a step's time."""
    times = []
    for _ in range(20):
        began = time.perf_counter()
        factor @ factor
        times.append(time.perf_counter() - began)
    return max(1, round(STEP_SECONDS / min(times)))


def in_a_process(way: str, steps: int, log_every: int) -> dict[str, float]:
    """Run `measure` in a process of its own, against the stand-in server that the way needs."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with contextlib.ExitStack() as stack:
        address = None
        if way == "silent":
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            address = server.getsockname()
        elif way == "refused":
            answering = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses))
            threading.Thread(target=answering.serve_forever, daemon=True).start()
            stack.callback(answering.shutdown)
            address = answering.server_address
        if address is not None:
            environment |= {"WANDB_BASE_URL": f"http://127.0.0.1:{address[1]}", "WANDB_API_KEY": "c" * 40}
        line = [sys.executable, __file__, "--way", way, "--steps", str(steps), "--log-every", str(log_every)]
        told = subprocess.run(line, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, float] = json.loads(told.splitlines()[-1])
    return found


def main() -> None:
    """Print a line for each way and log_every."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--log-every", type=int, default=1)
    given = parser.parse_args()
    if given.way:
        print(json.dumps(measure(given.way, given.steps, given.log_every)))
        return
    print(f"load average {os.getloadavg()[0]:.1f}; shares of a step of {1e3 * STEP_SECONDS:.0f} ms")
    for log_every in (1, 10):
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(given.rounds):
            for way in WAYS:
                found[way].append(in_a_process(way, given.steps, log_every))
        for way in WAYS[1:]:
            pairs = list(zip(found[way], found["nothing"], strict=True))
            shares = {
                "in log": [one["mean_log"] / STEP_SECONDS for one, _ in pairs],
                "CPU": [one["cpu"] / STEP_SECONDS for one, _ in pairs],
                "step": [one["step"] / none["step"] - 1 for one, none in pairs],
            }
            told = (
                f"{name} {100 * statistics.median(share):.2f}% "
                f"({100 * min(share):.2f} to {100 * max(share):.2f})"
                for name, share in shares.items()
            )
            row = statistics.median(one["median_row"] for one, _ in pairs)
            worst = max(one["worst_row"] for one, _ in pairs)
            print(
                f"log_every {log_every:2} {way:8}: {', '.join(told)}; a row {1e3 * row:.3f} ms, "
                f"the worst {1e3 * worst:.1f} ms; {pairs[0][0]['rows']:.0f} rows in metrics.jsonl",
                flush=True,
            )


if __name__ == "__main__":
    main()
