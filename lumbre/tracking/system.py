"""What each node of a run does: a thread on every node writes its figures into the run folder.

W&B's client sees the node that it runs on alone; through the run folder, which nodes share, the main
process reads them all, offline too.
"""

import json
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from lumbre.tracking.rows import Row

FOLDER = "system"
TAIL_BYTES = 8192
"""More than a line of a file of figures has."""


class NodeWatch:
    """Appends a line of figures to system/HOST.jsonl every so many seconds, until it is finished."""

    name = "system figures"

    def __init__(self, run: Path, seconds: float) -> None:
        self._file = run / FOLDER / f"{os.uname().nodename}.jsonl"
        self._seconds = seconds
        self._figures = Figures(run)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system", daemon=True)
        self._thread.start()

    def log(self, row: Row) -> None:
        """Nothing: the figures are not the run's."""

    def finish(self, exit_status: int) -> None:
        """End the thread."""
        self._done.set()
        self._thread.join(self._seconds)

    def _work(self) -> None:
        # A full disk or a node's lost mount ends the figures, and not the run.
        with suppress(OSError, psutil.Error):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            while not self._done.is_set():
                line = json.dumps({"time": time.time(), **self._figures.now()})
                with self._file.open("a", encoding="utf-8") as out:
                    out.write(line + "\n")
                self._done.wait(self._seconds)


class Figures:
    """A node's figures; percentages and rates are over the time since the last look."""

    def __init__(self, disk: Path) -> None:
        self._disk = disk
        self._gpus = _Gpus()
        psutil.cpu_percent()
        self._before = self._counted()

    def now(self) -> dict[str, float]:
        """Return the figures by name, in percent, bytes, bytes per second, degrees Celsius and watts."""
        memory, before = psutil.virtual_memory(), self._before
        self._before = self._counted()
        passed = max(self._before["time"] - before["time"], 1e-9)
        names = ("network_sent", "network_received", "disk_read", "disk_written")
        rates = {f"{name}_per_second": (self._before[name] - before[name]) / passed for name in names}
        return {
            "cpu_percent": psutil.cpu_percent(),
            "memory_percent": memory.percent,
            "memory_used_bytes": float(memory.used),
            "disk_percent": psutil.disk_usage(str(self._disk)).percent,
            **rates,
            **self._gpus.now(),
        }

    def _counted(self) -> dict[str, float]:
        network, disk = psutil.net_io_counters(), psutil.disk_io_counters()
        return {
            "time": time.monotonic(),
            "network_sent": network.bytes_sent if network else 0,
            "network_received": network.bytes_recv if network else 0,
            "disk_read": disk.read_bytes if disk else 0,
            "disk_written": disk.write_bytes if disk else 0,
        }


class _Gpus:
    """NVIDIA's GPUs through its library's Python module, where that is installed; none otherwise."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._handles: list[Any] = []
        with suppress(Exception):
            import pynvml

            pynvml.nvmlInit()
            count = pynvml.nvmlDeviceGetCount()
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
            self._nvml = pynvml

    def now(self) -> dict[str, float]:
        figures: dict[str, float] = {}
        for index, handle in enumerate(self._handles):
            # A GPU may keep one of its figures to itself.
            with suppress(self._nvml.NVMLError):
                figures[f"gpu.{index}.percent"] = self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu
            with suppress(self._nvml.NVMLError):
                figures[f"gpu.{index}.memory_bytes"] = self._nvml.nvmlDeviceGetMemoryInfo(handle).used
            with suppress(self._nvml.NVMLError):
                figures[f"gpu.{index}.celsius"] = self._nvml.nvmlDeviceGetTemperature(handle, 0)
            with suppress(self._nvml.NVMLError):
                figures[f"gpu.{index}.watts"] = self._nvml.nvmlDeviceGetPowerUsage(handle) / 1000
        return figures


class Nodes:
    """The latest figures of every node, read from the run folder."""

    def __init__(self, run: Path) -> None:
        self._folder = run / FOLDER
        self._seen: dict[Path, float] = {}

    def news(self) -> dict[str, float]:
        """Return system/HOST/FIGURE for each node that has written since the last call."""
        figures: dict[str, float] = {}
        for file in self._folder.glob("*.jsonl"):
            line = last_line(file)
            if line.get("time", 0.0) > self._seen.get(file, 0.0):
                self._seen[file] = line.pop("time")
                figures |= {f"system/{file.stem}/{name}": value for name, value in line.items()}
        return figures


def last_line(file: Path) -> dict[str, Any]:
    """Return the last whole line of a file of figures; nothing where there is none."""
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - TAIL_BYTES))
        lines = stream.read().split(b"\n")[:-1]
    try:
        found = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
