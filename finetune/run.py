"""Fine-tuning, top to bottom: one run, or one for each seed, start and point of the grid."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from lumbre import distributed, watchdog
from lumbre.checkpoint import Checkpoints, differences
from lumbre.engine import Engine
from lumbre.errors import ConfigError, ExitStatus, RunFolderError
from lumbre.files import explained, write_json
from lumbre.hardware import Peak
from lumbre.run_folder import claim, record_exit, write_config
from lumbre.tracking import Artifact, RunInfo, Trackers
from lumbre.trainer import Trainer
from lumbre.watchdog.watch import watching

from .batches import EpochBatches
from .card import write_card
from .comparison import Comparison, show
from .config import FinetuneConfig
from .evaluation import TaskEvaluator
from .examples import Skips, Split, encoded, usable
from .identity import fingerprints, identity, recipe
from .methods import parameter_counts
from .predictions import write_predictions
from .selection import BestEvaluation, unknown_metric
from .tasks import Task
from .unpadding import is_unpadded, unpad
from .variants import Variant, variants

CONFIG = FinetuneConfig
RESULT_FILE = "results.json"
MODEL_FOLDER = "model"


@dataclass(frozen=True)
class Inputs:
    """What every run of a config reads."""

    task: Task
    splits: Mapping[str, Split]
    hashes: Mapping[str, str]
    """Hashes of the model folder and the encoded examples."""

    @property
    def measured_on(self) -> str:
        """The split that results are told of: test, or validation where there is none."""
        return "test" if "test" in self.splits else "validation"


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    status: ExitStatus
    step: int
    row: dict[str, Any]
    """Model, seed and metrics; empty where the run was stopped."""


def main(config: FinetuneConfig) -> ExitStatus:
    """Run every variant that has not been run, in turn, and report them together."""
    runs = variants(config)
    config.method.check()
    patience = config.train.watchdog
    with (
        watching(patience, config.folder),
        distributed.session(
            config.seed,
            timeout_seconds=patience.collective_timeout_seconds,
            rendezvous_seconds=patience.rendezvous_seconds,
        ),
        claim(config.folder) as folder,
    ):
        inputs = read(config)
        task, results = inputs.task, []
        for number, variant in enumerate(runs, start=1):
            of_how_many = f"run {number} of {len(runs)}: " if len(runs) > 1 else ""
            point = "".join(f", {key} {value}" for key, value in variant.point.items())
            say(f"{of_how_many}{variant.start}, seed {variant.config.seed}{point}")
            outcome = _run_or_recall(variant, inputs)
            if outcome.status != ExitStatus.DONE:
                where = f"stopped on a signal in {variant.config.folder}"
                record_exit(folder, outcome.status, where, outcome.step)
                return outcome.status
            metric, split = task.metrics[0], outcome.row["split"]
            say(f"{variant.config.folder}: complete, {split} {metric} {outcome.row[metric]:.3f}")
            named = {"run": variant.config.name} if len(runs) > 1 else {}
            results.append({**outcome.row, **named})
        comparison = Comparison(task.metrics, results)
        if distributed.world().is_main:
            if len(runs) > 1:
                write_config(folder, config)
                write_json(folder / RESULT_FILE, comparison.table())
            show(comparison)
        # Ranks end together: a launcher takes one that is long behind the others for lost.
        distributed.barrier()
        record_exit(folder, ExitStatus.DONE, "done", outcome.step)
    return ExitStatus.DONE


def read(config: FinetuneConfig) -> Inputs:
    """Read and encode the examples, and say which were left out."""
    watchdog.enter("reading the examples")
    examples, skips = config.data.build(), Skips()
    policy = config.data.on_bad_example
    records = usable(config.task, examples, policy, skips)
    state = config.task.learn({split: [one for _, one in pairs] for split, pairs in records.items()})
    task = config.task.build(config.model.path, state)
    known = (*task.metrics, "loss")
    if config.selection.metric not in (None, *known):
        raise ConfigError([unknown_metric(str(config.selection.metric), known)])
    splits = encoded(task, records, policy, skips)
    for line in skips.lines():
        say(line)
    is_main = distributed.world().is_main
    hashes = distributed.from_main(fingerprints(config.model.path, splits) if is_main else {})
    return Inputs(task, splits, hashes)


def _run_or_recall(variant: Variant, inputs: Inputs) -> Outcome:
    """Return a finished run's result from its folder, or run it.

    Raises RunFolderError on every rank where the folder holds the result of other settings.
    """
    config = variant.config
    steps = config.train.resolved(len(inputs.splits["train"].rows), config.batch_sizes[0]).steps
    wanted = recipe(config, inputs.hashes, steps)
    found, fault = distributed.from_main(
        recall(config.folder, wanted) if distributed.world().is_main else (None, "")
    )
    if fault:
        raise RunFolderError(fault)
    if found is not None:
        return Outcome(ExitStatus.DONE, steps, found)
    outcome = train(variant, inputs)
    if outcome.status == ExitStatus.DONE and distributed.world().is_main:
        result = Comparison(inputs.task.metrics, [outcome.row]).table()
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


def train(variant: Variant, inputs: Inputs) -> Outcome:
    """Fine-tune one variant, or go on with it, and measure it."""
    import torch

    config, folder, splits = variant.config, variant.config.folder, inputs.splits
    if distributed.world().is_main:
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
    # What is chosen on development data is each run's own.
    task = copy.copy(inputs.task)
    task.state = dict(task.state)
    global_batch, micro_batch = config.batch_sizes
    length = config.train.resolved(len(splits["train"].rows), global_batch)
    watchdog.enter("building the model")
    torch.manual_seed(config.seed)
    start = task.build_model(
        config.model.path,
        from_scratch=config.model.from_scratch,
        dropout=config.model.dropout,
        loading=config.method.loading(),
    )
    if distributed.device().type == "cpu" and not config.engine.compile:
        unpad(start.model)
    model = config.method.apply(start.model, start.head)
    trained, whole = parameter_counts(model)
    if start.new and not config.model.from_scratch:
        say(f"the folder has no such weights, and they are made new: {', '.join(start.new)}")
    if trained < whole:
        say(f"{trained:,} of {whole:,} parameters train")
    watchdog.enter("building the engine")
    engine = config.engine.build(model, config.optimizer, micro_batch)
    evaluator = TaskEvaluator(task, splits["validation"], config.eval_batch_size, calibrates=True)
    selection = BestEvaluation(config.selection, task.metrics[0], folder)
    batches = partial(EpochBatches, task, splits["train"].rows, config.seed, global_batch, micro_batch)
    trainer = Trainer(
        config=length,
        seed=config.seed,
        optimizer=config.optimizer,
        schedule=config.schedule,
        engine=engine,
        learner=task,
        batches=batches,
        evaluator=evaluator,
        checkpoints=Checkpoints(folder / "checkpoints", config.checkpoint),
        identity=lambda steps: identity(config, inputs.hashes),
        trackers=partial(_trackers, variant, length.steps),
        samples=lambda steps: steps * global_batch,
        flops=None,
        peak=Peak(float("inf"), "not measured: there is no formula for the FLOPs"),
        selection=selection,
    )
    watchdog.enter("restoring the checkpoint")
    trainer.restore()
    say(batches(0).padding(length.steps).told(unpadded=is_unpadded(model)))
    # Not earlier: a run that is refused leaves the folder as it was.
    write_config(variant.asked.folder, variant.asked)
    write_config(folder, config)
    measured: dict[str, dict[str, float]] = {}

    def conclude(trackers: Trackers) -> None:
        changed = selection.restore_best(engine, trainer.step)
        weights = engine.state_dict()
        measured.update(measure(task, engine, splits, evaluator, config, anew=changed))
        if weights is not None:
            save_model(config, task, weights, measured[inputs.measured_on], folder)
            metadata = {
                f"{inputs.measured_on}/{key}": one for key, one in measured[inputs.measured_on].items()
            }
            trackers.artifact(Artifact(folder / MODEL_FOLDER, "model", metadata=metadata))

    status = trainer.fit(conclude)
    if status != ExitStatus.DONE:
        return Outcome(status, trainer.step, {})
    row = {
        "model": variant.start,
        "seed": config.seed,
        **({"point": dict(variant.point)} if variant.point else {}),
        "split": inputs.measured_on,
        "step": selection.kept_step(trainer.step),
        **measured[inputs.measured_on],
        "validation": measured["validation"],
    }
    return Outcome(status, trainer.step, row)


def measure(
    task: Task,
    engine: Engine,
    splits: Mapping[str, Split],
    evaluator: TaskEvaluator,
    config: FinetuneConfig,
    *,
    anew: bool,
) -> dict[str, dict[str, float]]:
    """Return the metrics of every split that is not trained on, and write its predictions.

    `evaluator` is the validation split's, which is measured again where its last look was at other weights.
    """
    import torch

    measured = {}
    with torch.no_grad(), engine.autocast():
        engine.forward().eval()
        if anew or evaluator.metrics is None:
            evaluator.evaluate(engine)
        for split, one in splits.items():
            if split == "train":
                continue
            if split != "validation":
                evaluator = TaskEvaluator(task, one, config.eval_batch_size)
                evaluator.evaluate(engine)
            assert evaluator.metrics is not None
            measured[split] = evaluator.metrics
            if distributed.world().is_main:
                write_predictions(
                    task, one.examples, evaluator.predictions, config.folder / f"predictions-{split}.jsonl"
                )
    return measured


def save_model(
    config: FinetuneConfig,
    task: Task,
    weights: Mapping[str, Any],
    metrics: Mapping[str, float],
    folder: Path,
) -> None:
    """Write the fine-tuned model as a Hugging Face folder, float32, with its tokenizer, task and card."""
    import torch
    from safetensors import SafetensorError

    torch.manual_seed(config.seed)
    start = task.build_model(
        config.model.path, from_scratch=config.model.from_scratch, dropout=config.model.dropout
    )
    target = folder / MODEL_FOLDER
    try:
        with explained(target):
            model = config.method.finished(start.model, start.head, weights, folder)
            model.save_pretrained(target)  # type: ignore[operator]
            task.save(target)
            write_card(target, config, task, metrics)
    except SafetensorError as error:
        remedy = "free some space, then run the same command again"
        raise RunFolderError(f"{target}: the weights cannot be written: {error}; {remedy}") from error


def _trackers(variant: Variant, steps: int, start_step: int) -> Trackers:
    config = variant.config
    tree = config.model_dump(mode="json", serialize_as_any=True)
    run = RunInfo(variant.title, config.folder, tree, steps, start_step, "finetune")
    trackers = Trackers.start(run, config.tracking)
    trackers.artifact(Artifact(Path(config.model.path), "model", is_input=True))
    return trackers


def say(text: str) -> None:
    """Tell the user, once for all ranks."""
    if distributed.world().is_main:
        Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(text)
