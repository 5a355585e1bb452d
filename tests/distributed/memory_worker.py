"""Groups of ranks that build, save and restore a model, and write what each took of memory and read.

    python -m tests.distributed.memory_worker FOLDER

The imports are done once, and each group is forked from them. FOLDER/NAME-RANK.json says what a rank took.
"""

import json
import os
import socket
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import deepspeed.runtime.zero.muon.muon_optimizer  # what every rank would import by itself
import torch

from lumbre import distributed
from lumbre.checkpoint import Checkpoints, Reader
from lumbre.engine import DeepSpeedConfig, Engine
from lumbre.models import LanguageModel, TransformerConfig
from lumbre.models.deferred import deferring
from lumbre.optim import AdamWConfig

SHAPE: dict[str, Any] = {
    **{"vocab_size": 8192, "hidden_size": 1024, "num_layers": 4, "num_heads": 8, "causal": True},
    "position": {"type": "rotary"},
}
GROUPS = {"saved": (4, 3), "stage3": (4, 3), "stage2": (2, 2), "stage1": (2, 1)}
"""Ranks and stage of each group; the first one saves what the others restore."""
STEP = 1


class Taken:
    """The most memory that the process has had at once since this was made, beyond what it had then."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self._before = self._read("VmRSS")

    def bytes(self) -> int:
        """Return it in bytes."""
        return self._read("VmHWM") - self._before

    def _read(self, key: str) -> int:
        return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]) * 1024


def build(config: DeepSpeedConfig, shape: dict[str, Any]) -> tuple[Engine, dict[str, int]]:
    """Return an engine, its model's elements, and what was taken until every rank had its part of them."""
    taken = Taken()
    with deferring() if config.defers else nullcontext() as weights:
        model = LanguageModel(TransformerConfig.model_validate(shape).build())
    found = {"parameters": sum(one.numel() for one in model.parameters())}
    plain = deepspeed.initialize

    def initialize(**keys: Any) -> Any:
        found["shared"] = taken.bytes()
        return plain(**keys)

    with patch.object(deepspeed, "initialize", initialize):
        engine = config.build(model, AdamWConfig(learning_rate=1e-4), 1, weights)
    return engine, found


def work(rank: int, name: str, port: int, folder: Path) -> None:
    """Be one rank of a group, and end the process."""
    world, stage = GROUPS[name]
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with distributed.session(0):
        config = DeepSpeedConfig.model_validate({"zero_stage": stage})
        # What is imported and allocated once, whatever the model.
        build(config, {**SHAPE, "hidden_size": 16, "vocab_size": 64})
        engine, found = build(config, SHAPE)
        taken = Taken()
        checkpoints = Checkpoints(folder / "checkpoints")
        if name == "saved":
            checkpoints.save(engine, STEP, {"step": STEP})
        else:
            reader = Reader(folder / "checkpoints" / f"step-{STEP:08d}")
            engine.restore(reader.read, STEP)
            found["read"] = reader.bytes_read
        found["moved"] = taken.bytes()
        (folder / f"{name}-{rank}.json").write_text(json.dumps(found))
        distributed.barrier()
    distributed.leave(0)


def main(folder: Path) -> None:
    """Run the groups one after the other."""
    for name, (world, _) in GROUPS.items():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        torch.multiprocessing.start_processes(work, (name, port, folder), nprocs=world, start_method="fork")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
