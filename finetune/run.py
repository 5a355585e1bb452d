"""Fine-tuning, top to bottom: one run, or one for each seed and start, and what they came to."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from lumbre import distributed, hardware
from lumbre.checkpoint import Checkpoints
from lumbre.config import dump
from lumbre.errors import ExitStatus
from lumbre.files import write_json
from lumbre.run_folder import claim, record_exit, write_config
from lumbre.tracking import RunInfo, Trackers
from lumbre.trainer import Trainer

from .batches import EpochBatches
from .comparison import Comparison, show
from .config import FinetuneConfig
from .data import Examples
from .evaluation import TaskEvaluator
from .tasks import Task

CONFIG = FinetuneConfig
RESULT_FILE = "results.json"


@dataclass(frozen=True)
class Variant:
    """One of the runs that a config asks for."""

    start: str
    """ "pretrained" or "scratch"."""
    config: FinetuneConfig


def main(config: FinetuneConfig) -> ExitStatus:
    """Run every variant that has not been run, in turn, and report them together."""
    with distributed.session(config.seed), claim(config.folder) as folder:
        write_config(folder, config)
        examples = config.data.build()
        task = config.task.build(config.model.path, examples)
        results = []
        for variant in variants(config):
            status, result = _run_or_recall(variant, task, examples)
            if status != ExitStatus.DONE:
                record_exit(folder, status, f"stopped on a signal in {variant.config.folder}")
                return status
            results.append(result)
        if len(results) > 1:
            comparison = Comparison(task.metrics[0], results)
            if distributed.world().is_main:
                write_json(folder / RESULT_FILE, comparison.table())
                show(comparison)
        record_exit(folder, ExitStatus.DONE, "done", config.train.steps)
    return ExitStatus.DONE


def variants(config: FinetuneConfig) -> list[Variant]:
    """Return the runs that the seeds and the comparison ask for; a single one is the run folder itself."""
    starts = ["pretrained", "scratch"] if config.compare_with_scratch else ["pretrained"]
    if config.model.from_scratch:
        starts = ["scratch"]
    seeds = config.seeds or [config.seed]
    if len(seeds) * len(starts) == 1:
        return [Variant(starts[0], config.model_copy(update={"seed": seeds[0]}))]
    return [
        Variant(
            start,
            config.model_copy(
                update={
                    "name": f"{start}-seed-{seed}",
                    "runs_folder": str(config.folder),
                    "seed": seed,
                    "seeds": [],
                    "compare_with_scratch": False,
                    "model": config.model.model_copy(update={"from_scratch": start == "scratch"}),
                }
            ),
        )
        for seed in seeds
        for start in starts
    ]


def _run_or_recall(variant: Variant, task: Task, examples: Examples) -> tuple[ExitStatus, dict[str, Any]]:
    """Return a finished run's result from its folder, or run it."""
    folder = variant.config.folder
    file = folder / RESULT_FILE
    found: dict[str, Any] | None = None
    if distributed.world().is_main and file.is_file():
        saved = json.loads(file.read_bytes())
        found = saved["rows"][0] if saved["config"] == dump(variant.config) else None
    found = distributed.from_main(found)
    if found is not None:
        say(f"{folder}: complete")
        return ExitStatus.DONE, found
    status, metrics = train(variant, task, examples)
    result = {"model": variant.start, "seed": variant.config.seed, **metrics}
    if status == ExitStatus.DONE and distributed.world().is_main:
        write_json(file, {"rows": [result], "summary": "", "config": dump(variant.config)})
    return status, result


def train(variant: Variant, task: Task, examples: Examples) -> tuple[ExitStatus, dict[str, float]]:
    """Fine-tune one variant, or go on with it; return how it ended and the metrics on the test split."""
    import torch

    config, world = variant.config, distributed.world()
    folder = config.folder
    if world.is_main:
        folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    model = task.build_model(config.model.path, from_scratch=config.model.from_scratch)
    global_batch, micro_batch = config.train.batch_sizes
    engine = config.engine.build(model, config.optimizer, micro_batch)
    rows = {split: [task.encode(example) for example in records] for split, records in examples.items()}
    trainer = Trainer(
        config=config.train,
        seed=config.seed,
        optimizer=config.optimizer,
        schedule=config.schedule,
        checkpoint=config.checkpoint,
        engine=engine,
        learner=task,
        batches=partial(EpochBatches, task, rows["train"], config.seed, global_batch, micro_batch),
        evaluator=TaskEvaluator(task, rows["validation"], config.eval_batch_size),
        checkpoints=Checkpoints(folder / "checkpoints", config.checkpoint.keep),
        identity=identity(config, rows),
        trackers=partial(_trackers, config, folder),
        flops_per_sample=None,
        peak=hardware.peak(engine.device, config.engine.precision),
    )
    trainer.restore()
    write_config(folder, config)
    status = trainer.fit()
    if status != ExitStatus.DONE:
        return status, {}
    weights = engine.state_dict()
    with torch.no_grad(), engine.autocast():
        engine.forward().eval()
        metrics = TaskEvaluator(task, rows["test"], config.eval_batch_size).evaluate(engine)
    if weights is not None:
        save_model(config, task, weights, folder / "model")
    return status, metrics


def save_model(config: FinetuneConfig, task: Task, weights: dict[str, Any], folder: Path) -> None:
    """Write the fine-tuned model as a Hugging Face folder, float32, with its tokenizer."""
    model = task.build_model(config.model.path, from_scratch=True)
    model.load_state_dict(weights)
    model.save_pretrained(folder)  # type: ignore[operator]
    task.save_tokenizer(folder)


def identity(config: FinetuneConfig, rows: dict[str, list[Any]]) -> dict[str, Any]:
    """Return what a checkpoint must share with this run to be continued by it."""
    return {
        "model": config.model.model_dump(mode="json"),
        "task": config.task.model_dump(mode="json", serialize_as_any=True),
        "data": config.data.model_dump(mode="json", serialize_as_any=True),
        "data examples": {split: len(encoded) for split, encoded in rows.items()},
        "optimizer.type": config.optimizer.type,
        "train.global_batch_size": config.train.batch_sizes[0],
        "seed": config.seed,
    }


def _trackers(config: FinetuneConfig, folder: Path, start_step: int) -> Trackers:
    if not distributed.world().is_main:
        return Trackers()
    tree = config.model_dump(mode="json", serialize_as_any=True)
    run = RunInfo(config.name, folder, tree, config.train.steps, start_step, "finetune")
    return Trackers.start(run, config.tracking)


def say(text: str) -> None:
    """Tell the user, once for all ranks."""
    if distributed.world().is_main:
        Console(stderr=True, highlight=False, soft_wrap=True).print(text)
