"""One rank of a group of processes that runs many training cases, one after the other, in one start-up.

Run by torchrun (or alone): worker.py FOLDER CASES_JSON, on CUDA devices where it sees them
(CUDA_VISIBLE_DEVICES), else on the CPU. Each case trains a tiny encoder for some steps on batches with random
target counts, the same global batches on any layout. A case may start from a checkpoint of another case,
`"from": [RUN, STEP]`, on an engine that has trained before, `"used": true`, train some weights alone,
`"method": CONFIG`, and lower blocks slower, `"layer_decay": FACTOR`, or by another optimizer,
`"optimizer": KEYS`. The loss of some samples may be NaN, `"spoiled": [SAMPLE, ...]`, which
`"non_finite": CONFIG` deals with, `"save_every": N` saves more often, `"left_out": [STEP, ...]` has a
watch leave a batch out of steps, which are done again with the usual one, and with `"exports": true` the
weights are exported in the end, first to where rank 0 cannot write.
Rank 0 writes
FOLDER/results-WORLD.json, for each case its losses and gradient norms from the step that it started at, what
it ran on and whether what was frozen has stayed, and FOLDER/ID.pt, the final weights of what trained.
"""

import json
import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._dynamo.utils import counters

from finetune.methods import MethodConfig
from lumbre import distributed
from lumbre.checkpoint import CheckpointConfig, Checkpoints
from lumbre.engine import AccelerateConfig, DeepSpeedConfig, Engine, EngineConfig
from lumbre.errors import LumbreError
from lumbre.hardware import Peak
from lumbre.models import TransformerConfig
from lumbre.models.deferred import deferring
from lumbre.optim import LinearConfig, OptimizerConfig
from lumbre.tokenizer import WordPieceConfig
from lumbre.tracking import Row, Trackers, event
from lumbre.trainer import Batch, LossOutput, NonFiniteConfig, Term, TrainConfig, Trainer
from pretrain.data.parts import part
from pretrain.export import export_weights
from pretrain.objectives import NextSentenceConfig, Objective, ObjectiveConfig, ReplacedTokenConfig
from pretrain.objectives.clm import Clm

GLOBAL_BATCH, LENGTH, VOCABULARY = 8, 12, 61
STEPS, SAVE_EVERY = 12, 6
OPTIMIZER = {"type": "adamw", "learning_rate": 3e-3, "weight_decay": 0.1, "gradient_clipping": 0.5}
SEED = 3
ENGINE_KEYS = ("precision", "activation_checkpointing", "compile", "attention_kernel", "sequence_parallel")
DEEPSPEED_KEYS = ("offload", "deepspeed")
SHAPE = TransformerConfig.model_validate(
    {
        "causal": False,
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 2,
        "position": {"type": "learned", "max_length": LENGTH},
        "norm_position": "post",
        "embedding_norm": True,
        "head_transform": True,
        "head_bias": True,
    }
)


MORE: dict[str, dict[str, object]] = {
    "encoder": {},
    "mixture": {"mlp": {"type": "mixture_of_experts", "num_experts": 3, "shared_experts": 1}},
    "encoder-decoder": {"num_decoder_layers": 2, "position": {"type": "relative"}},
    "pairs": {"token_types": 2},
    "electra": {},
    "four-heads": {"num_heads": 4, "num_kv_heads": 2},
    "wide": {"hidden_size": 518, "vocab_size": 1200},
}
"""The models that a case may name, by what differs from SHAPE."""

OBJECTIVES: dict[str, ObjectiveConfig] = {
    "pairs": NextSentenceConfig(),
    "electra": ReplacedTokenConfig(generator_size=0.5),
}
"""What those train that have heads of their own."""


class Learner(Clm):
    """The objective; an encoder-decoder reads the batch on both sides."""

    def loss(self, model: nn.Module, batch: Batch) -> LossOutput:
        if not self.paired:
            output = super().loss(model, batch)
            if not self.spoiled.isdisjoint(batch["sample"].tolist()):
                return LossOutput(
                    {name: Term(term.sum * math.nan, term.count) for name, term in output.terms.items()}
                )
            return output
        output = model(
            batch["input_ids"],
            document_ids=batch["document_ids"],
            decoder_input_ids=batch["decoder_input_ids"],
            decoder_document_ids=batch["document_ids"],
            labels=batch["labels"],
        )
        return LossOutput({"loss": Term(output.loss, self.counts(batch)["loss"])})

    paired = False
    spoiled: frozenset[int] = frozenset()


def learner_of(name: str) -> Objective:
    """Return what a model is trained by."""
    if name in OBJECTIVES:
        return OBJECTIVES[name].build(WordPieceConfig(vocab_size=512).build(["some words"]), SEED)
    learner = Learner()
    learner.paired = "num_decoder_layers" in MORE[name]
    return learner


def global_batch(step: int) -> Batch:
    """Return the step's whole batch: random tokens, one or two documents a row, random targets.

    Beside them is what heads of their own are asked: pairs, and all tokens but a row's last.
    """
    generator = torch.Generator().manual_seed(1000 + step)
    ids = torch.randint(0, VOCABULARY, (GLOBAL_BATCH, LENGTH), generator=generator)
    target = torch.rand((GLOBAL_BATCH, LENGTH), generator=generator) < torch.rand(
        (GLOBAL_BATCH, 1), generator=generator
    )
    cut = torch.randint(0, LENGTH, (GLOBAL_BATCH, 1), generator=generator)
    time = torch.arange(LENGTH)
    second = time >= cut
    return {
        "input_ids": ids,
        "decoder_input_ids": ids.flip(1),
        "position_ids": torch.where(second, time - cut, time),
        "document_ids": (second + 1).int(),
        "labels": torch.where(target, ids, -100),
        "sample": torch.arange(GLOBAL_BATCH) + step * GLOBAL_BATCH,
        "token_type_ids": second.long(),
        "pair_labels": torch.randint(0, 2, (GLOBAL_BATCH,), generator=generator),
        "uniform": torch.rand((GLOBAL_BATCH, LENGTH), generator=generator),
        "original_labels": torch.where(time < LENGTH - 1, ids, -100),
    }


class Batches:
    """This rank's micro batches of the steps after `start`."""

    def __init__(
        self, start: int, micro: int, sequence_parallel: int = 1, watch: "Watch | None" = None
    ) -> None:
        self._start, self._micro, self._watch = start, micro, watch
        world = distributed.world()
        self._group, self._within = world.group(sequence_parallel), world.within_group(sequence_parallel)

    def __iter__(self) -> Iterator[Sequence[Batch]]:
        share = GLOBAL_BATCH // self._group.count
        step = self._start
        while True:
            step += 1
            left_out = self._watch is not None and step in self._watch.bad
            whole = global_batch(-step if left_out else step)
            batch = {name: self._part(name, rows) for name, rows in whole.items()}
            offsets = range(self._group.index * share, (self._group.index + 1) * share, self._micro)
            yield [{key: value[at : at + self._micro] for key, value in batch.items()} for at in offsets]

    def _part(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.stack([part(name, row, self._within) for row in rows.numpy()]))

    def close(self) -> None:
        """Nothing runs."""


class Watch:
    """Finds, once, what has to be left out of some steps; until then they have another batch."""

    def __init__(self, steps: Sequence[int]) -> None:
        self.bad = set(steps)

    def take(self, batch: Batch, losses: torch.Tensor | None) -> None:
        assert losses is not None
        assert len(losses) == int((batch["labels"] != -100).sum())

    def judge(self, step: int) -> list[Row]:
        if step not in self.bad:
            return []
        self.bad.remove(step)
        return [event("quarantined", step, "a batch")]

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing is kept."""


class Rows:
    """A tracker that keeps the rows."""

    name = "rows"

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def log(self, row: dict[str, float]) -> None:
        self.rows.append(dict(row))

    def finish(self, exit_status: int) -> None:
        """Nothing is open."""


class NoEvaluation:
    """Measures nothing."""

    def evaluate(self, engine: Engine) -> dict[str, float]:
        return {}


def engine_config(case: dict[str, object]) -> EngineConfig:
    """Return the engine that a case names."""
    keys = {"precision": "float32"} | {key: case[key] for key in ENGINE_KEYS if key in case}
    if case["engine"] == "accelerate":
        return AccelerateConfig.model_validate(keys)
    keys |= {key: case[key] for key in DEEPSPEED_KEYS if key in case}
    return DeepSpeedConfig.model_validate({**keys, "zero_stage": case["stage"]})


def use(engine: Engine, micro: int, shared_by: int) -> None:
    """Do a step that no run does, so that nothing of the engine is as it was built."""
    batch = next(iter(next(iter(Batches(STEPS, micro, shared_by)))))
    batch = {name: tensor.to(engine.device) for name, tensor in batch.items()}
    with engine.accumulate(last=True), engine.autocast():
        terms = Clm().loss(engine.forward(), batch).terms
        engine.backward(torch.stack([term.sum for term in terms.values()]).sum())
    engine.step(0.1)


def whole(parameter: Any) -> torch.Tensor:
    """Return a frozen parameter that stage 3 may have shared out over the ranks."""
    if not hasattr(parameter, "ds_tensor"):
        return parameter.detach().clone()
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters

    with GatheredParameters([parameter]):
        return parameter.detach().clone()


def exported(engine: Engine, learner: Objective, shape: TransformerConfig, folder: Path) -> list[str | None]:
    """Return what each rank is told by an export to below a file, after which one to a folder goes well."""
    tokenizer = WordPieceConfig(vocab_size=512).build(["some words"])
    told = None
    if distributed.world().is_main:
        (folder / "file").write_text("")
    try:
        export_weights(engine, learner, shape, tokenizer, folder / "file" / "model")
    except (LumbreError, OSError) as error:
        told = str(error)
    export_weights(engine, learner, shape, tokenizer, folder / "model")
    return distributed.gather_objects(told)


def run(case: dict[str, object], folder: Path) -> dict[str, object]:
    """Train one case; return what it came to."""
    torch.manual_seed(SEED)
    micro = int(str(case.get("micro", 2)))
    shared_by = int(str(case.get("sequence_parallel", 1)))
    optimizer = OptimizerConfig.model_validate(
        {**OPTIMIZER, "layer_decay": case.get("layer_decay", 1.0), **dict(case.get("optimizer", {}))}  # type: ignore[call-overload]
    )
    name = str(case.get("model", "encoder"))
    learner = learner_of(name)
    if "spoiled" in case:
        learner.spoiled = frozenset(case["spoiled"])
    keys = {**SHAPE.model_dump(mode="json", serialize_as_any=True), **MORE[name]}
    config = engine_config(case)
    with deferring() if config.defers and "method" not in case else nullcontext() as weights:
        model = learner.attach_head(TransformerConfig.model_validate(keys).build())
    # As many models of transformers have: a table that is derived and not saved.
    model.register_buffer("table", torch.arange(LENGTH), persistent=False)
    if "method" in case:
        model = MethodConfig.model_validate(case["method"]).apply(model, ())
    frozen = {name: one.clone() for name, one in model.named_parameters() if not one.requires_grad}
    engine = config.build(model, optimizer, micro, weights)
    rows = Rows()
    watch = Watch(case["left_out"]) if "left_out" in case else None
    world = distributed.world()
    if "from" in case and world.is_main:
        other, step = case["from"]  # type: ignore[misc]
        name = f"step-{step:08d}"
        shutil.copytree(folder / other / name, folder / str(case["id"]) / name)
    distributed.barrier()
    trainer = Trainer(
        config=TrainConfig(
            steps=STEPS,
            global_batch_size=GLOBAL_BATCH,
            micro_batch_size=micro,
            log_every=1,
            non_finite=NonFiniteConfig.model_validate(case.get("non_finite", {})),
        ),
        seed=SEED,
        optimizer=optimizer,
        schedule=LinearConfig(warmup=0.0, final_factor=1.0),
        engine=engine,
        learner=learner,
        batches=lambda start: Batches(start, micro, shared_by, watch),
        evaluator=NoEvaluation(),
        checkpoints=Checkpoints(
            folder / str(case["id"]),
            CheckpointConfig(every_steps=int(str(case.get("save_every", SAVE_EVERY))), keep=100),
        ),
        identity=lambda steps: {"case": "one"},
        trackers=lambda start: Trackers([rows]) if world.is_main else Trackers(),
        samples=lambda steps: GLOBAL_BATCH * steps,
        flops=lambda step: float(GLOBAL_BATCH),
        peak=Peak(1.0, "none"),
        watch=watch,
    )
    if case.get("used"):
        use(engine, micro, shared_by)
    start = trainer.restore()
    # What an earlier case has compiled would serve again, and nothing would be seen to be compiled.
    torch._dynamo.reset()
    graphs = counters["stats"]["unique_graphs"]
    trainer.fit()
    shape = TransformerConfig.model_validate(keys)
    told = exported(engine, learner, shape, folder / str(case["id"])) if case.get("exports") else []
    weights = engine.state_dict() or {}
    disk = getattr(engine, "_swap", None)
    if world.is_main:
        torch.save(weights, folder / f"{case['id']}.pt")
    left = {name: whole(one) for name, one in engine.module.named_parameters() if name in frozen}
    steps = [row for row in rows.rows if "loss" in row]
    return {
        "start": start,
        "losses": [row["loss"] for row in steps],
        "norms": [row["grad_norm"] for row in steps],
        "events": [[row["event"], row["step"], row["message"]] for row in rows.rows if "event" in row],
        "told": told,
        "kept": all(torch.equal(left[name].cpu(), tensor) for name, tensor in frozen.items()),
        "graphs": counters["stats"]["unique_graphs"] - graphs,
        "swapped": sorted({file.parts[-3] for file in disk.path.rglob("*.swp")}) if disk else [],
        "engine": type(engine).__name__,
        "world": world.size,
        "device": engine.device.type,
        "backend": torch.distributed.get_backend() if torch.distributed.is_initialized() else None,
    }


def main(folder: Path, cases: list[dict[str, object]]) -> None:
    """Run every case in one session."""
    torch.set_num_threads(1)
    results = {}
    with distributed.session(SEED) as world:
        for case in cases:
            results[str(case["id"])] = run(case, folder)
        if world.is_main:
            (folder / f"results-{world.size}.json").write_text(json.dumps(results))
        distributed.barrier()
    distributed.leave(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
