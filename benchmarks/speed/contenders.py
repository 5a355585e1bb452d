"""Who takes part: what each is trained by, and the process that trains it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.speed.gate import MARK
from benchmarks.speed.shapes import Family, Shape, run_config

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Contender:
    """One way to train a shape."""

    side: str
    """The module that trains it is MODULES[side]."""
    compile: bool = False
    engine: Mapping[str, Any] = field(default_factory=dict)
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Keys of our config by section, in place of what the setting says."""
    padded: bool = False
    """Whether each document has a row of its own."""

    def takes(self, family: Family, has_nanogpt: bool) -> bool:
        """Whether it can train models of a family."""
        if self.side == "nanogpt":
            return family == "gpt" and has_nanogpt
        return not self.padded or family == "bert"


MODULES = {
    "lumbre": "benchmarks.speed.ours",
    "hf": "benchmarks.peers.hf_pretraining",
    "nanogpt": "benchmarks.peers.nanogpt",
}
ZERO = {"type": "deepspeed", "zero_stage": 1}
CONTENDERS: dict[str, Contender] = {
    "lumbre": Contender("lumbre", engine={"type": "accelerate"}),
    "lumbre-compiled": Contender("lumbre", True, {"type": "accelerate", "compile": True}),
    "lumbre-trunk": Contender("lumbre", True, {"type": "accelerate", "compile": "trunk"}),
    "deepspeed": Contender("lumbre", engine=ZERO),
    "deepspeed-compiled": Contender("lumbre", True, {**ZERO, "compile": True}),
    "hf": Contender("hf"),
    "hf-compiled": Contender("hf", True),
    "hf-padded": Contender("hf", padded=True),
    "nanogpt": Contender("nanogpt"),
    "nanogpt-compiled": Contender("nanogpt", True),
}


@dataclass(frozen=True)
class Setting:
    """What all contenders have in common."""

    shape: Shape
    batch: int
    length: int
    precision: str
    threads: int
    on_cpu: bool
    """Whether GPUs are hidden."""
    texts: tuple[str, ...]
    nanogpt: str
    """A checkout, "" without one."""
    ranks: int
    """Of our side."""
    products: str = "auto"
    """What multiplies matrices on our side."""

    def config(self, contender: Contender, folder: Path) -> dict[str, Any]:
        """Return the config of our run."""
        ranks = self.ranks if contender.side == "lumbre" else 1
        config = run_config(
            self.shape,
            batch=self.batch // ranks,
            length=self.length,
            engine={**contender.engine, "precision": self.precision, "float32_products": self.products},
            texts=list(self.texts),
            folder=str(folder),
        )
        for section, keys in contender.sections.items():
            config[section] = {**config[section], **keys}
        return config


class Session:
    """A process that trains one contender, a round at a time."""

    def __init__(
        self,
        name: str,
        setting: Setting,
        given: Mapping[str, Any],
        folder: Path,
        *,
        under: Sequence[str] = (),
        contender: Contender | None = None,
    ) -> None:
        """`given` is what a peer needs to know of the data and the model; the folder has them.

        `under` is a command that runs the process, such as an instrument; `contender` is one that the table
        of them does not have.
        """
        contender = contender or CONTENDERS[name]
        own = folder / name
        own.mkdir(exist_ok=True)
        self._ranks = setting.ranks if contender.side == "lumbre" else 1
        self._log = own / "log.txt"
        job = {
            **given,
            "family": setting.shape.family,
            "batch": setting.batch,
            "length": setting.length,
            "precision": setting.precision,
            "compile": contender.compile,
            "padded": contender.padded,
            "nanogpt": setting.nanogpt,
            "config": str(own / "run.yaml"),
            "counted": bool(under),
        }
        config = {**setting.config(contender, folder), "name": name}
        (own / "run.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        (own / "job.json").write_text(json.dumps(job))
        agent = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self._ranks}"]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [
                    *under,
                    sys.executable,
                    *(agent if self._ranks > 1 else []),
                    *("-m", MODULES[contender.side], str(own / "job.json")),
                ],
                cwd=ROOT,
                env=_environment(setting, self._ranks),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    @property
    def process_id(self) -> int:
        """Of the process, or of that which starts the ranks."""
        return self._process.pid

    def run(
        self, steps: int, *, parts: bool = False, products: bool = True, profile: bool = False
    ) -> dict[str, Any]:
        """Do so many steps; return what the gate measured, all ranks' tokens together.

        Without `products` no matrix product is timed before each step; with `profile` torch's profiler
        watches each step.

        Raises RuntimeError with the end of its log where the process has died.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            command = {"steps": steps, "parts": parts, "products": products, "profile": profile}
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
            while line and not line.startswith(MARK):
                line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(self._log.read_text()[-4000:])
        found: dict[str, Any] = json.loads(line.removeprefix(MARK))
        return {**found, "tokens": [self._ranks * tokens for tokens in found["tokens"]]}

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def _environment(setting: Setting, ranks: int) -> dict[str, str]:
    """Return the environment: the same threads for all, and those that spin as `lumbre` has them."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(max(1, setting.threads // ranks)),
        "GOMP_SPINCOUNT": "10000",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": str(ROOT),
    }
    if setting.on_cpu:
        environment |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    return environment
