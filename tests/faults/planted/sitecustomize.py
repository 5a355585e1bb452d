"""Plants a hang in one rank of a real run: Python imports this by itself where it is on PYTHONPATH.

LUMBRE_HANG names the kind, LUMBRE_HANG_RANK the rank and LUMBRE_HANG_NOTE a file that gets the moment at
which it began. Lumbre itself knows nothing of it.
"""

import atexit
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

AT_CALL = 6
"""The call of a patched function that hangs: after some that tell what is usual."""


def begin() -> None:
    """Note the moment, from which the watchdog's time counts."""
    note = Path(os.environ["LUMBRE_HANG_NOTE"])
    if not note.exists():
        note.write_text(repr(time.time()))


def stop() -> None:
    begin()
    os.kill(os.getpid(), signal.SIGSTOP)


def sleep() -> None:
    begin()
    while True:
        time.sleep(3600)


def spin() -> None:
    begin()
    while True:
        pass


def retry() -> None:
    begin()
    while True:
        time.sleep(0.2)


def keep_lock() -> None:
    begin()
    lock = threading.Lock()
    with lock:
        lock.acquire()


def keep_interpreter() -> None:
    begin()
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):
        ctypes.PyDLL(None).pthread_mutex_lock(mutex)


def write_to_nobody() -> None:
    begin()
    _, end = os.pipe()
    while True:
        os.write(end, b"x" * 65536)


def open_fifo() -> None:
    begin()
    fifo = Path(os.environ["LUMBRE_HANG_NOTE"] + ".fifo")
    os.mkfifo(fifo)
    fifo.open("w")


def wait_for_child() -> None:
    begin()
    subprocess.run(["sleep", "3600"], check=False)


def wait_for_event() -> None:
    begin()
    threading.Event().wait()


def die() -> None:
    begin()
    os._exit(1)


def be_killed() -> None:
    begin()
    os.kill(os.getpid(), signal.SIGKILL)


def crash() -> None:
    begin()
    ctypes.string_at(0)


def slow_down() -> None:
    """Let a process outside stop this one 95% of the time."""
    begin()
    code = (
        "import os, signal, sys, time\n"
        "pid = int(sys.argv[1])\n"
        "try:\n"
        "    while os.getppid() == pid:\n"
        "        os.kill(pid, signal.SIGSTOP); time.sleep(19)\n"
        "        os.kill(pid, signal.SIGCONT); time.sleep(1)\n"
        "except ProcessLookupError:\n"
        "    pass\n"
    )
    subprocess.Popen([sys.executable, "-c", code, str(os.getpid())])
    time.sleep(0.5)


def wait_for_compilation() -> None:
    from torch.utils.file_baton import FileBaton

    lock = Path(os.environ["TORCH_EXTENSIONS_DIR"]) / "cpu_adam" / "lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    begin()
    FileBaton(str(lock)).wait()


def extra_collective() -> None:
    import torch

    begin()
    torch.distributed.all_reduce(torch.ones(7))


def after(module: str, work: Callable[[Any], None]) -> None:
    """Do something to a module once it has been imported."""

    class Finder:
        @staticmethod
        def find_spec(name: str, path: Any, target: Any = None) -> Any:
            if name != module:
                return None
            others = (one for one in sys.meta_path if one is not Finder)
            spec = next(found for one in others if (found := one.find_spec(name, path, target)))
            execute = spec.loader.exec_module

            def exec_module(loaded: Any) -> None:
                execute(loaded)
                work(loaded)

            spec.loader.exec_module = exec_module
            return spec

    sys.meta_path.insert(0, Finder)  # type: ignore[arg-type]


def at_call(
    module: str, name: str, act: Callable[[], None], *, call: int = AT_CALL, instead: bool = False
) -> None:
    """Hang at a call of a function or method, or do something instead of it."""

    def patch(loaded: Any) -> None:
        *path, last = name.split(".")
        owner = loaded
        for part in path:
            owner = getattr(owner, part)
        original = getattr(owner, last)
        calls = [0]

        def patched(*arguments: Any, **more: Any) -> Any:
            calls[0] += 1
            if calls[0] == call:
                act()
                if instead:
                    return arguments[0]
            return original(*arguments, **more)

        setattr(owner, last, patched)

    after(module, patch)


def in_a_hook(module: Any) -> None:
    """Hang in the hook of a parameter's gradient."""
    original = module.AccelerateEngine.backward
    calls = [0]

    def backward(self: Any, loss: Any) -> None:
        calls[0] += 1
        if calls[0] == AT_CALL:
            next(self.module.parameters()).register_hook(lambda gradient: sleep())
        original(self, loss)

    module.AccelerateEngine.backward = backward


def other_shapes(module: Any) -> None:
    """Give a sum over ranks one value more than the others give."""
    original = module.sum_over_ranks
    calls = [0]

    def sum_over_ranks(values: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2 * AT_CALL:
            begin()
            return original([*values, 0.0])
        return original(values)

    module.sum_over_ranks = sum_over_ranks


ENGINE = "lumbre.engine.accelerate"
PLANTS: dict[str, Callable[[], None]] = {
    "stopped in a step": lambda: at_call(ENGINE, "AccelerateEngine.autocast", stop, call=20),
    "stopped in a save": lambda: at_call(ENGINE, "AccelerateEngine.fragments", stop, call=2),
    "stopped in an evaluation": lambda: at_call(
        "lumbre.pretrain.evaluation", "LossEvaluator.evaluate", stop, call=1
    ),
    "endless loop": lambda: at_call(ENGINE, "AccelerateEngine.step", spin),
    "sleep in the loader": lambda: at_call("lumbre.pretrain.data.loader", "stacked", sleep, call=30),
    "loader process stuck": lambda: at_call("lumbre.pretrain.data.loader_workers", "stacked", sleep, call=30),
    "loader process stopped": lambda: at_call(
        "lumbre.pretrain.data.loader_workers", "stacked", stop, call=30
    ),
    "lock held": lambda: at_call(ENGINE, "AccelerateEngine.autocast", keep_lock, call=20),
    "interpreter held in C": lambda: at_call(ENGINE, "AccelerateEngine.autocast", keep_interpreter, call=20),
    "collective skipped": lambda: at_call(
        "lumbre.distributed", "sum_over_ranks", begin, call=2 * AT_CALL, instead=True
    ),
    "collective too many": lambda: at_call(ENGINE, "AccelerateEngine.step", extra_collective),
    "shapes do not match": lambda: after("lumbre.distributed", other_shapes),
    "blocked write": lambda: at_call("lumbre.tracking.console", "LineTracker.log", write_to_nobody, call=4),
    "blocked open": lambda: at_call(ENGINE, "AccelerateEngine.fragments", open_fifo, call=2),
    "tracker retries": lambda: at_call("lumbre.tracking.jsonl", "JsonlTracker.log", retry),
    "silent death": lambda: at_call(ENGINE, "AccelerateEngine.step", die),
    "killed": lambda: at_call(ENGINE, "AccelerateEngine.step", be_killed),
    "crash in C": lambda: at_call(ENGINE, "AccelerateEngine.step", crash),
    "child waited for": lambda: at_call(ENGINE, "AccelerateEngine.step", wait_for_child),
    "slow rank": lambda: at_call(ENGINE, "AccelerateEngine.step", slow_down),
    "hook in backward": lambda: after(ENGINE, in_a_hook),
    "optimizer step": lambda: at_call(ENGINE, "AccelerateEngine.step", wait_for_event),
    "export": lambda: at_call("lumbre.pretrain.export", "export_checkpoint", sleep, call=1),
    "at exit": lambda: atexit.register(sleep),
    "rendezvous": lambda: time.sleep(3600),
    "compilation lock": lambda: at_call(ENGINE, "AccelerateEngine.__init__", wait_for_compilation, call=1),
}


def plant() -> None:
    """Plant what the environment asks for, in the process that is the rank."""
    kind = os.environ.get("LUMBRE_HANG", "")
    is_program = any(word in ("pretrain", "finetune") for word in sys.orig_argv) and (
        "torch.distributed.run" not in sys.orig_argv and "launch" not in sys.orig_argv
    )
    if (
        kind
        and is_program
        and "--dry-run" not in sys.orig_argv
        and os.environ.get("RANK", "0") == os.environ["LUMBRE_HANG_RANK"]
    ):
        PLANTS[kind]()
    elif kind == "rendezvous" and is_program:
        # The time that the others wait counts from the moment at which they begin to.
        at_call("lumbre.rendezvous", "meet", begin, call=1)


plant()
