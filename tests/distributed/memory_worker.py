"""Groups of ranks that build, save, restore and export a model, and write what each took of memory and read.

    python -m tests.distributed.memory_worker FOLDER

The imports are done once, and each group is forked from them. FOLDER/NAME-RANK.json says what a rank took.
"""

import json
import os
import socket
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import deepspeed.runtime.zero.muon.muon_optimizer  # what every rank would import by itself
import torch

from lumbre import distributed, hub
from lumbre.checkpoint import Checkpoints, Reader
from lumbre.engine import DeepSpeedConfig, Engine
from lumbre.hub import HuggingFaceConfig, weights
from lumbre.models import LanguageModel, ModelConfig, TransformerConfig
from lumbre.models.deferred import deferring
from lumbre.optim import AdamWConfig
from lumbre.tokenizer import BpeConfig
from pretrain.export import export_checkpoint
from pretrain.objectives import ClmConfig

SHAPE: dict[str, Any] = {
    **{"vocab_size": 8192, "hidden_size": 768, "num_layers": 8, "num_heads": 8, "causal": True},
    "position": {"type": "rotary"},
}
GROUPS: dict[str, tuple[int, dict[str, Any]]] = {
    "saved": (4, {"zero_stage": 3}),
    "stage3": (4, {"zero_stage": 3}),
    "stage2": (2, {"zero_stage": 2}),
    "stage1": (2, {"zero_stage": 1}),
    "exported": (1, {}),
    "started": (4, {"zero_stage": 3}),
    "tensor": (2, {"zero_stage": 1, "tensor_parallel": 2}),
}
"""Ranks and engine of each group: the first one saves what three others restore, one exports what it saved,
and the last two start from the folder of that."""
STEP = 1
FILE_BYTES = 30_000_000
"""Most in a file of the exported folder: its part of a larger model's is as small."""


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


class TakenAlone:
    """The same of memory that no file stands behind, looked at every millisecond.

    Pages of mapped files are not counted: the kernel can drop them.
    """

    def __init__(self) -> None:
        self._most, self._before = 0, self._now()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def bytes(self) -> int:
        """Return it in bytes, and look no more."""
        self._ended.set()
        self._thread.join()
        return self._most - self._before

    def _look(self) -> None:
        while not self._ended.wait(0.001):
            self._most = max(self._most, self._now())

    def _now(self) -> int:
        return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) * 1024


def build(
    config: DeepSpeedConfig, shape: dict[str, Any], start: Path | None = None
) -> tuple[Engine, dict[str, int]]:
    """Return an engine, its model's elements, and what was taken until every rank had its part of them.

    The weights are those of the folder to start from, where there is one.
    """
    taken = Taken() if start is None else TakenAlone()
    chosen: ModelConfig = TransformerConfig.model_validate(shape)
    if start is not None:
        chosen = HuggingFaceConfig(path=str(start))
    with deferring() if config.defers else nullcontext() as weights:
        model = LanguageModel(chosen.build())
    chosen.initialise(model, deferred=weights)
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
    world, keys = GROUPS[name]
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with distributed.session(0):
        found = export(folder) if name == "exported" else run(name, keys, folder)
        (folder / f"{name}-{rank}.json").write_text(json.dumps(found))
        distributed.barrier()
    distributed.leave(0)


def run(name: str, keys: dict[str, Any], folder: Path) -> dict[str, int]:
    """Return what it takes to start, and to save or restore."""
    config = DeepSpeedConfig.model_validate(keys)
    # What is imported and allocated once, whatever the model.
    build(config, {**SHAPE, "hidden_size": 16, "vocab_size": 64})
    from_folder = name in ("started", "tensor")
    engine, found = build(config, SHAPE, folder / "model" if from_folder else None)
    if from_folder:
        return found
    taken = Taken()
    checkpoints = Checkpoints(folder / "checkpoints")
    if name == "saved":
        checkpoints.save(engine, STEP, {"step": STEP})
    else:
        reader = Reader(folder / "checkpoints" / f"step-{STEP:08d}")
        engine.restore(reader.read, STEP)
        found["read"] = reader.bytes_read
    found["moved"] = taken.bytes()
    return found


def export(folder: Path) -> dict[str, int]:
    """Return what it takes to export the checkpoint, the proof of it included."""
    tokenizer = BpeConfig(vocab_size=512).build([Path(__file__).read_text()])
    objective = ClmConfig().build(tokenizer, 0)
    shape = TransformerConfig.model_validate(SHAPE)
    checkpoint = folder / "checkpoints" / f"step-{STEP:08d}"
    weights.FILE_BYTES = FILE_BYTES
    small = shape.model_copy(update={"hidden_size": 16, "vocab_size": 64})
    # What is imported once, whatever the model.
    hub.verify_export(model := LanguageModel(small.build()), hub.save(model, None, folder / "small"))
    taken = TakenAlone()
    export_checkpoint(checkpoint, objective, shape, tokenizer, folder / "model")
    return {"moved": taken.bytes()}


def main(folder: Path) -> None:
    """Run the groups one after the other."""
    for name, (world, _) in GROUPS.items():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        torch.multiprocessing.start_processes(work, (name, port, folder), nprocs=world, start_method="fork")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
