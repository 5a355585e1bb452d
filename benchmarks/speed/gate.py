"""Lets a training loop run on command, so many steps at a time, and times each step between two products."""

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.speed.operators import Profiler
from lumbre import distributed, products
from lumbre.hardware import peak_memory_bytes, synchronize

CPU_SIZE, GPU_SIZE = 1024, 8192
MARK = "gate: "
"""What a line begins with that is an answer: what is printed before there is a gate is none."""


class Products:
    """Square matrix products, of which the device's rate is measured."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._size = CPU_SIZE if device.type == "cpu" else GPU_SIZE
        self._device = device
        self._left, self._right, self._out = (
            torch.rand(self._size, self._size, device=device).to(dtype) for _ in range(3)
        )

    def measure(self) -> float:
        """Return the FLOP/s of one product by the fastest library, whoever trains, after one not timed."""
        began = 0.0
        with products.fastest():
            for _ in range(2):
                synchronize(self._device)
                began = time.perf_counter()
                torch.mm(self._left, self._right, out=self._out)
            synchronize(self._device)
            return 2 * self._size**3 / (time.perf_counter() - began)


class Parts:
    """Where the time of a step goes: each part's own seconds, without those of parts within it."""

    def __init__(self, device: torch.device) -> None:
        self.is_on = False
        self.seconds: dict[str, float] = defaultdict(float)
        self._device = device
        self._inner = [0.0]

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add what happens within to a part, where parts are being timed."""
        if not self.is_on:
            yield
            return
        synchronize(self._device)
        began = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            synchronize(self._device)
            took = time.perf_counter() - began
            self.seconds[name] += took - self._inner.pop()
            self._inner[-1] += took

    def wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, its time added to a part."""

        def run(*arguments: Any, **keys: Any) -> Any:
            with self.timed(name):
                return function(*arguments, **keys)

        return run


class Gate:
    """Stands between the steps of a loop, and ends the process when it is told to.

    A command is a line on stdin, {"steps": n, "parts": false, "products": true, "profile": false}; the answer
    is a line on what stdout was. What else the process prints goes to stderr.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        # Of several ranks the main one is told and answers; the others hear of it from that one.
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._device = device
        self._products = Products(device, dtype)
        self.parts = Parts(device)
        self._profiler = Profiler(device)
        self._left = 0
        self._has_products = True
        self._began: float | None = None
        self._tokens = 0
        self._forget()

    def count(self, tokens: int) -> None:
        """Add to the tokens of the step, padding not counted."""
        self._tokens += tokens

    def between(self) -> None:
        """Take the time of the step before, and wait until another may begin; the loop calls before each."""
        if self._began is not None:
            synchronize(self._device)
            self._seconds.append(time.perf_counter() - self._began)
            self._profiler.end()
            self._of_steps.append(self._tokens)
            self._left -= 1
            if not self._left:
                self._answer()
        while not self._left:
            self._listen()
        if self._has_products:
            self._rates.append(self._products.measure())
        self._tokens = 0
        self._profiler.begin()
        self._began = time.perf_counter()

    def _listen(self) -> None:
        line = distributed.from_main(sys.stdin.readline() if distributed.world().is_main else "")
        if not line:
            os._exit(0)
        command = json.loads(line)
        self._left, self.parts.is_on = command["steps"], command["parts"]
        self._has_products = command.get("products", True)
        self._profiler.is_on = command.get("profile", False)

    def _answer(self) -> None:
        answer = {
            "seconds": self._seconds,
            "tokens": self._of_steps,
            "products": self._rates,
            "parts": {name: seconds / len(self._seconds) for name, seconds in self.parts.seconds.items()},
            "peak_memory": peak_memory_bytes(self._device),
            "operators": [
                {name: asdict(one) for name, one in step.items()} for step in self._profiler.of_steps
            ],
        }
        if distributed.world().is_main:
            self._answers.write(MARK + json.dumps(answer) + "\n")
            self._answers.flush()
        self._began = None
        self._forget()

    def _forget(self) -> None:
        self._seconds: list[float] = []
        self._of_steps: list[int] = []
        self._rates: list[float] = []
        self.parts.seconds.clear()
        self._profiler.of_steps.clear()
