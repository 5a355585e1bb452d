"""Stands in for W&B's server where there is none: takes one sweep, and hands its grid to agents.

It knows the four requests that W&B's client makes for that, and is no test of W&B itself.
"""

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

SWEEP = "s0m3swp1"


class Sweeps:
    """What the server has been told."""

    def __init__(self) -> None:
        self.config: dict[str, Any] = {}
        self.agents = 0
        self._points: Iterator[tuple[tuple[str, Any], ...]] = iter(())
        self._lock = threading.Lock()

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Return what W&B's server would, as far as its client reads it."""
        with self._lock:
            if "UpsertSweep" in query:
                self.config = yaml.safe_load(variables["config"])
                values = {key: one["values"] for key, one in self.config["parameters"].items()}
                self._points = (
                    tuple(zip(values, p, strict=True)) for p in itertools.product(*values.values())
                )
                project = {"id": "p", "name": variables["projectName"], "entity": {"id": "e", "name": "me"}}
                return {
                    "upsertSweep": {
                        "sweep": {"name": SWEEP, "project": project},
                        "configValidationWarnings": [],
                    }
                }
            if "SweepWithRuns" in query:
                sweep = {"name": SWEEP, "config": yaml.safe_dump(self.config), "runs": {"edges": []}}
                return {"project": {"sweep": sweep}}
            if "CreateAgent" in query:
                self.agents += 1
                return {"createAgent": {"agent": {"id": f"agent-{self.agents}"}}}
            if "Heartbeat" in query:
                commands = [] if json.loads(variables["runState"]) else [self._next()]
                return {
                    "agentHeartbeat": {"agent": {"id": variables["id"]}, "commands": json.dumps(commands)}
                }
        viewer = {
            "id": "u",
            "username": "me",
            "entity": "me",
            "email": "",
            "flags": "{}",
            "teams": {"edges": []},
        }
        return {"viewer": viewer}

    def _next(self) -> dict[str, Any]:
        point = next(self._points, None)
        if point is None:
            return {"type": "exit"}
        title = "-".join(str(value).replace(".", "") for _, value in point)
        args = {key: {"value": value} for key, value in point}
        return {"type": "run", "run_id": f"run{title}", "program": None, "args": args}


@contextmanager
def serving() -> Iterator[tuple[str, Sweeps]]:
    """Serve while the context lasts; yields the address, and what has been told."""
    sweeps = Sweeps()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer: dict[str, Any] = {}
            if self.path == "/graphql":
                asked = json.loads(body)
                answer = {"data": sweeps.answer(asked["query"], asked.get("variables") or {})}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *words: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", sweeps
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
