"""Runs many pretraining runs on groups of processes that share one start-up.

    python -m tests.distributed.pretraining FOLDER CASES_JSON

Data, batches, objective, loop, checkpoints and engine are those of `lumbre pretrain`, on a little text. The
imports are done once, and each group of 1, 2 or 4 ranks is forked from them; it runs its cases one after the
other in one process group. First come the cases that start from nothing, then those that go on from the
checkpoint of another, `"from": ID`, which they are given a copy of. FOLDER/results/ID.json says what a case
came to; what is there already is not run again.
"""

import filecmp
import hashlib
import json
import math
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401  # here and below: what every rank would import by itself
import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
import torch
import yaml
from deepspeed.utils import safe_get_full_grad

import pretrain.run
from lumbre import config as configs
from lumbre import distributed
from lumbre.checkpoint import Reader
from lumbre.engine import DeepSpeedEngine, Engine
from lumbre.engine.base import trained
from lumbre.hardware import Peak
from lumbre.run_folder import claim
from lumbre.trainer import Trainer
from pretrain.config import PretrainConfig
from pretrain.data.mixture import prepare_sets

from .matrix import Case

GLOBAL_BATCH, LENGTH = 16, 16
CLIPPING = 0.5
RUN: dict[str, Any] = {
    "seed": 3,
    "tokenizer": {"type": "wordpiece", "vocab_size": 512},
    "data": {
        "sources": [{"type": "text", "paths": ["corpus"], "documents": "paragraph"}],
        "seq_length": LENGTH,
        "validation_fraction": 0.1,
    },
    "optimizer": {"type": "adamw", "learning_rate": 1.0e-3, "gradient_clipping": CLIPPING},
    "train": {"global_batch_size": GLOBAL_BATCH, "log_every": 1},
    "eval_samples": 8,
}
BPE: dict[str, Any] = {"type": "bpe", "vocab_size": 512}
SMALL_T5 = {"hidden_size": 64, "head_size": 32, "intermediate_size": 96, "num_heads": 2}
MODELS: dict[str, dict[str, Any]] = {
    "bert-tiny": {"model": "bert-tiny", "objective": {"type": "mlm"}},
    "gpt-tiny": {"model": "gpt-tiny", "objective": {"type": "clm"}, "tokenizer": BPE},
    "llama-tiny": {"model": "llama-tiny", "objective": {"type": "clm"}, "tokenizer": BPE},
    "head-by-head": {
        "model": {"base": "llama-tiny", "qk_norm": True, "position": {"type": "relative"}},
        "objective": {"type": "clm"},
        "tokenizer": BPE,
    },
    "span-corruption": {
        "model": {"base": "t5-mini", **SMALL_T5, "num_layers": 1, "num_decoder_layers": 1},
        "objective": {"type": "span_corruption"},
        "tokenizer": {**BPE, "vocab_size": 640, "sentinels": 32},
    },
    "replaced-token": {"model": "bert-tiny", "objective": {"type": "rtd", "generator_size": 0.5}},
    "wide-replaced-token": {
        "model": {"base": "bert-tiny", "hidden_size": 256, "num_heads": 4, "num_layers": 1},
        "objective": {"type": "rtd", "generator_size": 0.5},
    },
    "next-sentence": {
        "model": "bert-tiny",
        "objective": {"type": "next_sentence"},
        "data": {**RUN["data"], "packing": {"type": "pad"}},
    },
}
"""What the models of matrix.py are in a run's config."""


class Watched(Trainer):
    """The loop, with an eye on the first step's gradient and on what a checkpoint gives back."""

    found: dict[str, Any]
    """What the case that runs has come to."""

    def restore(self) -> int:
        """Restore, and note where the engine is not what the checkpoint holds, to the bit."""
        start = super().restore()
        if start:
            self.found["faults"] += unlike(self.engine, Reader(checkpoint(self.checkpoints.folder, start)))
        self._keep_first_gradient()
        self.found["start"] = start
        return start

    def fit(self, *arguments: Any) -> Any:
        """Fit, and note where ranks that should have the same weights do not, to the bit."""
        status = super().fit(*arguments)
        self.found["faults"] += differing(self.engine)
        return status

    def _keep_first_gradient(self) -> None:
        step = self.engine.step

        def first(*arguments: Any) -> Any:
            self.engine.step = step  # type: ignore[method-assign]
            self.found["gradient"] = gradient(self.engine)
            return step(*arguments)

        self.engine.step = first  # type: ignore[method-assign]


def gradient(engine: Engine) -> torch.Tensor:
    """Return the whole gradient before clipping as one vector in float64; every rank calls."""
    parts = []
    for name, parameter in trained(engine.module):
        whole = safe_get_full_grad(parameter)
        assert whole is not None, name
        if isinstance(engine, DeepSpeedEngine):
            whole = engine.gathered(name, whole)
        parts.append(whole.detach().double().flatten())
    return torch.cat(parts)


def unlike(engine: Engine, saved: Reader) -> list[str]:
    """Return what of weights and optimizer state is not the checkpoint's, or is there twice or not at all."""
    faults = []
    covered: dict[str, int] = {}
    for fragment in engine.fragments():
        covered[fragment.name] = covered.get(fragment.name, 0) + fragment.numel
        for kind, tensor in fragment.tensors.items():
            places = torch.arange(fragment.start, fragment.start + fragment.numel)
            if fragment.share is not None:
                places = fragment.share.places(fragment.start, fragment.start + fragment.numel)
            expected = saved.read(kind, fragment.name, 0, torch.Size(fragment.shape).numel())[places]
            if not torch.equal(tensor.detach().cpu().flatten(), expected):
                faults.append(f"{kind} of {fragment.name} is not the checkpoint's")
    for name, shape in saved.shapes.items():
        (total,) = distributed.sum_over_ranks([covered.get(name, 0)])
        if total != torch.Size(shape).numel():
            faults.append(f"the ranks hold {total:.0f} elements of {name}")
    return [fault for of_rank in distributed.gather_objects(faults) for fault in of_rank]


def differing(engine: Engine) -> list[str]:
    """Return which weights that every rank has whole are not the same on all of them."""
    digests = {}
    for name, parameter in trained(engine.module):
        if parameter.numel() and not getattr(parameter, "tensor_model_parallel", False):
            digests[name] = hashlib.sha256(parameter.detach().float().cpu().numpy().tobytes()).hexdigest()
    everyone = distributed.gather_objects(digests)
    return [f"{name} differs between ranks" for name in digests if len({one[name] for one in everyone}) > 1]


def checkpoint(folder: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return folder / f"step-{step:08d}"


def keys(case: Case) -> Iterator[str]:
    """Yield the overrides that make the run a case's."""
    engine = case["engine"]
    yield f"name={case['id']}"
    yield f"train.steps={case['steps']}"
    yield f"checkpoint.every_steps={case['saved']}"
    shared = {key: case[key] for key in ("tensor_parallel", "sequence_parallel") if key in case}
    groups = case["ranks"] // math.prod(shared.values())
    yield f"train.micro_batch_size={GLOBAL_BATCH // (groups * case['accumulation'])}"
    yield from (f"engine.{key}={ranks}" for key, ranks in shared.items())
    if "offload" in case:
        yield f"engine.offload.optimizer={case['offload']}"
    yield f"engine.compile={str(case.get('compile', False)).lower()}"
    if "recompute" in case:
        yield f"engine.activation_checkpointing={case['recompute']}"
    yield "engine.type=accelerate" if engine == "accelerate" else "engine.type=deepspeed"
    if engine != "accelerate":
        yield f"engine.zero_stage={engine.removeprefix('zero')}"
    yield f"engine.precision={case.get('precision', 'float32')}"
    yield f"data.loader_workers={case.get('loader_workers', 0)}"


def run(case: Case) -> None:
    """Run one case to its end; the main rank writes what it came to."""
    main = distributed.world().is_main
    torch.manual_seed(RUN["seed"])
    torch.set_num_threads(case.get("threads", 1))
    config = configs.load(PretrainConfig, f"{case['model']}.yaml", list(keys(case)), room="pretrain")
    assert isinstance(config, PretrainConfig)
    if "from" in case and main:
        source = checkpoint(Path("runs") / case["from"] / "checkpoints", case["saved"])
        shutil.copytree(source, config.folder / "checkpoints" / source.name)
    distributed.barrier()
    found: dict[str, Any] = {"case": case, "faults": []}
    Watched.found = found
    sets = prepare_sets(config.data, config.tokenizer)
    with claim(config.folder) as folder:
        pretrain.run.pretrain(config, sets, folder)
    if main:
        conclude(case, found, config.folder)
    distributed.barrier()


def conclude(case: Case, found: dict[str, Any], folder: Path) -> None:
    """Write what a case came to, and leave of its run what others go on from."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found["losses"] = [row["loss"] for row in rows if "loss" in row]
    norms = [row["grad_norm"] for row in rows if "loss" in row]
    found["clipped"] = sum(norm > CLIPPING for norm in norms)
    found["evaluation"] = next(row["eval/loss"] for row in reversed(rows) if "eval/loss" in row)
    vector = found.pop("gradient")
    if "from" in case:
        found["faults"] += left_over(case, folder)
    else:
        found["norm_difference"] = abs(float(vector.norm()) / norms[0] - 1)
        torch.save(vector, Path("results") / f"{case['id']}.pt")
    for step in (case["saved"], case["steps"]) if "from" in case else (case["steps"],):
        shutil.rmtree(checkpoint(folder / "checkpoints", step))
    file = Path("results") / f"{case['id']}.json"
    file.with_suffix(".part").write_text(json.dumps(found))
    file.with_suffix(".part").rename(file)
    print(case["id"], flush=True)


def left_over(case: Case, folder: Path) -> list[str]:
    """Return what a run that went on has left beside its checkpoints, or has changed of the one it read."""
    faults = []
    runs = Path("runs") / case["from"], folder
    source, own = (checkpoint(run / "checkpoints", case["saved"]) for run in runs)
    names = {one.name for one in (folder / "checkpoints").iterdir()}
    wanted = {checkpoint(folder, step).name for step in (case["saved"], case["steps"])}
    if names != wanted:
        faults.append(f"checkpoints holds {sorted(names)}")
    compared = filecmp.cmpfiles(source, own, [one.name for one in source.iterdir()], shallow=False)
    if compared[1] or compared[2]:
        faults.append(f"changed in the checkpoint that was read: {compared[1:]}")
    of_weights = [file for file in folder.rglob("*.safetensors") if file.parent.name not in wanted]
    if of_weights:
        faults.append(f"a second copy of the weights: {of_weights[0].name}")
    return faults


def work(rank: int, world: int, port: int, cases: Sequence[Case]) -> None:
    """Be one rank of a group: run its cases in one session, and end the process."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    pretrain.run.Trainer = Watched  # type: ignore[misc]
    # Neither what a run exports nor the device's peak has to do with layouts; each takes as long as the run.
    pretrain.run.export_checkpoint = lambda *_, **__: None  # type: ignore[assignment]
    pretrain.run.hardware.peak = lambda *_: Peak(1.0, "none")
    with distributed.session(RUN["seed"]):
        for case in cases:
            run(case)
        distributed.barrier()
    distributed.leave(0)


def lay_out(folder: Path) -> None:
    """Write the corpus and a config for each model."""
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    (folder / "results").mkdir(exist_ok=True)
    for name in ("json", "logging"):
        for file in sorted(Path(__import__(name).__file__ or "").parent.glob("*.py")):
            shutil.copy(file, folder / "corpus" / f"{name}-{file.name}.txt")
    for name, model in MODELS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, **RUN, **model}))


def groups(cases: Sequence[Case]) -> Iterator[tuple[int, list[Case]]]:
    """Yield the number of ranks and the cases of each group, those that others go on from first."""
    for goes_on in (False, True):
        for world in sorted({case["ranks"] for case in cases}):
            members = [case for case in cases if ("from" in case) == goes_on and case["ranks"] == world]
            if members:
                # Stage 3 leaves torch a linear map that rounds otherwise, for all that comes after.
                yield world, sorted(members, key=lambda case: case["engine"] == "zero3")


def main(folder: Path, cases: Sequence[Case]) -> None:
    """Run every case that has no result yet."""
    lay_out(folder)
    os.chdir(folder)
    missing = [case for case in cases if not (Path("results") / f"{case['id']}.json").is_file()]
    for case in missing:
        shutil.rmtree(Path("runs") / case["id"], ignore_errors=True)
    for world, members in groups(missing):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        torch.multiprocessing.start_processes(work, (world, port, members), nprocs=world, start_method="fork")


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
