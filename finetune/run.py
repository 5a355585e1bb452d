"""Fine-tuning, top to bottom: one run, or one for each seed and start, and what they came to."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from lumbre import distributed
from lumbre.checkpoint import Checkpoints, differences
from lumbre.errors import ExitStatus, RunFolderError
from lumbre.files import explained, write_json
from lumbre.hardware import Peak
from lumbre.run_folder import claim, record_exit, write_config
from lumbre.tracking import RunInfo, Trackers
from lumbre.trainer import Trainer

from .batches import EpochBatches
from .comparison import Comparison, show
from .config import FinetuneConfig
from .evaluation import TaskEvaluator
from .identity import Rows, fingerprints, identity, recipe
from .tasks import Task

CONFIG = FinetuneConfig
RESULT_FILE = "results.json"
MODEL_FOLDER = "model"


@dataclass(frozen=True)
class Variant:
    """One of the runs that a config asks for."""

    start: str
    """ "pretrained" or "scratch"."""
    config: FinetuneConfig
    asked: FinetuneConfig
    """The config that asks for this run, perhaps among others."""

    @property
    def title(self) -> str:
        """The run's name among the runs of every other config."""
        alone = self.config.folder == self.asked.folder
        return self.config.name if alone else f"{self.asked.name}/{self.config.name}"


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    status: ExitStatus
    step: int
    row: dict[str, Any]
    """Model, seed and metrics on the test split; empty where the run was stopped."""


def main(config: FinetuneConfig) -> ExitStatus:
    """Run every variant that has not been run, in turn, and report them together."""
    with distributed.session(config.seed), claim(config.folder) as folder:
        examples = config.data.build()
        task = config.task.build(config.model.path, examples)
        rows = {split: [task.encode(example) for example in records] for split, records in examples.items()}
        is_main = distributed.world().is_main
        inputs = distributed.from_main(fingerprints(config.model.path, rows) if is_main else {})
        runs, results = variants(config), []
        for number, variant in enumerate(runs, start=1):
            of_how_many = f"run {number} of {len(runs)}: " if len(runs) > 1 else ""
            say(f"{of_how_many}{variant.start}, seed {variant.config.seed}")
            outcome = _run_or_recall(variant, task, rows, inputs)
            if outcome.status != ExitStatus.DONE:
                where = f"stopped on a signal in {variant.config.folder}"
                record_exit(folder, outcome.status, where, outcome.step)
                return outcome.status
            metric = task.metrics[0]
            say(f"{variant.config.folder}: complete, test {metric} {outcome.row[metric]:.3f}")
            results.append(outcome.row)
        comparison = Comparison(task.metrics[0], results)
        if is_main:
            if len(runs) > 1:
                write_config(folder, config)
                write_json(folder / RESULT_FILE, comparison.table())
            show(comparison)
        # Ranks end together: a launcher takes one that is long behind the others for lost.
        distributed.barrier()
        record_exit(folder, ExitStatus.DONE, "done", config.train.steps)
    return ExitStatus.DONE


def variants(config: FinetuneConfig) -> list[Variant]:
    """Return the runs that the seeds and the comparison ask for; a single one is the run folder itself."""
    starts = ["pretrained", "scratch"] if config.compare_with_scratch else ["pretrained"]
    if config.model.from_scratch:
        starts = ["scratch"]
    seeds = config.seeds or [config.seed]
    if len(seeds) * len(starts) == 1:
        return [Variant(starts[0], config.model_copy(update={"seed": seeds[0]}), config)]
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
            config,
        )
        for seed in seeds
        for start in starts
    ]


def _run_or_recall(variant: Variant, task: Task, rows: Rows, inputs: Mapping[str, str]) -> Outcome:
    """Return a finished run's result from its folder, or run it.

    Raises RunFolderError on every rank where the folder holds the result of other settings.
    """
    config = variant.config
    wanted = recipe(config, inputs)
    found, fault = distributed.from_main(
        recall(config.folder, wanted) if distributed.world().is_main else (None, "")
    )
    if fault:
        raise RunFolderError(fault)
    if found is not None:
        return Outcome(ExitStatus.DONE, config.train.steps, found)
    outcome = train(variant, task, rows, inputs)
    if outcome.status == ExitStatus.DONE and distributed.world().is_main:
        result = Comparison(task.metrics[0], [outcome.row]).table()
        write_json(config.folder / RESULT_FILE, {**result, "recipe": wanted})
    return outcome


def recall(folder: Path, wanted: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Return the row of a run that is complete, and why its folder cannot be used for the wanted recipe.

    Neither is there where the run has yet to be done, or goes on for more steps.
    """
    file = folder / RESULT_FILE
    if not (file.is_file() and (folder / MODEL_FOLDER).is_dir()):
        return None, ""
    saved = json.loads(file.read_bytes())
    found = saved.get("recipe", {})
    different = differences(found, wanted)
    if not different:
        return saved["rows"][0], ""
    if list(different) == ["train.steps"] and found["train.steps"] < wanted["train.steps"]:
        return None, ""
    lines = "\n".join(f"  {key}: {how}" for key, how in different.items())
    return None, f"{folder}: is complete with other settings; set another name, or the keys back:\n{lines}"


def train(variant: Variant, task: Task, rows: Rows, inputs: Mapping[str, str]) -> Outcome:
    """Fine-tune one variant, or go on with it, and measure it on the test split."""
    import torch

    config, folder = variant.config, variant.config.folder
    if distributed.world().is_main:
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    model = task.build_model(config.model.path, from_scratch=config.model.from_scratch)
    global_batch, micro_batch = config.train.batch_sizes
    engine = config.engine.build(model, config.optimizer, micro_batch)
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
        identity=lambda steps: identity(config, inputs),
        trackers=partial(_trackers, variant),
        samples=lambda steps: steps * global_batch,
        flops=None,
        peak=Peak(float("inf"), "not measured: there is no formula for the FLOPs"),
    )
    trainer.restore()
    # Not earlier: a run that is refused leaves the folder as it was.
    write_config(variant.asked.folder, variant.asked)
    write_config(folder, config)
    status = trainer.fit()
    if status != ExitStatus.DONE:
        return Outcome(status, trainer.step, {})
    weights = engine.state_dict()
    with torch.no_grad(), engine.autocast():
        engine.forward().eval()
        metrics = TaskEvaluator(task, rows["test"], config.eval_batch_size).evaluate(engine)
    if weights is not None:
        save_model(config, task, weights, folder / MODEL_FOLDER)
    return Outcome(status, trainer.step, {"model": variant.start, "seed": config.seed, **metrics})


def save_model(config: FinetuneConfig, task: Task, weights: dict[str, Any], folder: Path) -> None:
    """Write the fine-tuned model as a Hugging Face folder, float32, with its tokenizer."""
    from safetensors import SafetensorError

    model = task.build_model(config.model.path, from_scratch=True)
    model.load_state_dict(weights)
    try:
        with explained(folder):
            model.save_pretrained(folder)  # type: ignore[operator]
            task.save_tokenizer(folder)
    except SafetensorError as error:
        remedy = "free some space, then run the same command again"
        raise RunFolderError(f"{folder}: the weights cannot be written: {error}; {remedy}") from error


def _trackers(variant: Variant, start_step: int) -> Trackers:
    if not distributed.world().is_main:
        return Trackers()
    config = variant.config
    tree = config.model_dump(mode="json", serialize_as_any=True)
    run = RunInfo(variant.title, config.folder, tree, config.train.steps, start_step, "finetune")
    return Trackers.start(run, config.tracking)


def say(text: str) -> None:
    """Tell the user, once for all ranks."""
    if distributed.world().is_main:
        Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(text)
