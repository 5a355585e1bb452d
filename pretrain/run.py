"""Pretraining, top to bottom: prepare the data, train or resume, export."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any

from rich.console import Console

from lumbre import distributed, hardware, watchdog
from lumbre.checkpoint import Checkpoints
from lumbre.errors import CheckpointError, ExitStatus
from lumbre.hub import HuggingFaceConfig
from lumbre.models import Electra, LanguageModel, TransformerConfig
from lumbre.models.deferred import Deferred, deferring
from lumbre.run_folder import claim, record_exit, write_config
from lumbre.tracking import Artifact, RunInfo, Trackers
from lumbre.trainer import Trainer
from lumbre.watchdog.watch import watching

from .config import PretrainConfig
from .data.loader import Loader
from .data.mixture import prepare_sets
from .data.parts import parts
from .data.plan import Plan, Stage
from .downstream import Downstream
from .evaluation import LossEvaluator
from .export import export_checkpoint, export_weights
from .generations import Generations
from .objectives import Objective
from .quarantine import FILE as QUARANTINE
from .quarantine import Quarantine
from .samples import GlobalStream, Sets, validation_sets
from .suspects import Suspects

CONFIG = PretrainConfig


def prepare(config: PretrainConfig) -> ExitStatus:
    """Tokenize the corpus into shards, if that has not been done."""
    for name, prepared in prepare_sets(config.data, config.tokenizer).items():
        say(f"{name or 'data'}: {prepared.folder}")
    return ExitStatus.DONE


def main(config: PretrainConfig) -> ExitStatus:
    """Prepare the data, train from scratch or from where the run folder left off, and export the model."""
    config.engine.check()
    patience = config.train.watchdog
    with watching(patience, config.folder):
        with watchdog.during("preparing data"):
            sets = prepare_sets(config.data, config.tokenizer)
        with (
            distributed.session(
                config.seed,
                timeout_seconds=patience.collective_timeout_seconds,
                rendezvous_seconds=patience.rendezvous_seconds,
            ),
            claim(config.folder) as folder,
        ):
            status, step = pretrain(config, sets, folder)
            record_exit(folder, status, "done" if status == ExitStatus.DONE else "stopped on a signal", step)
    return status


def pretrain(config: PretrainConfig, sets: Sets, folder: Path) -> tuple[ExitStatus, int]:
    """Train inside a session and a claimed folder; return how it ended and at which step."""
    group, world, alike = config.engine.group, distributed.world(), config.engine.tensor_parallel
    within = world.within_group(config.engine.sequence_parallel, apart=alike)
    watchdog.enter("building the model")
    tokenizer = next(iter(sets.values())).tokenizer()
    objective = config.objective.build(tokenizer, config.seed)
    objective.sources = tuple(config.data.mixture)
    plan = config.plan
    quarantine = Quarantine(folder / QUARANTINE, sets)
    stream = GlobalStream(sets, config.data, plan, objective, config.seed, quarantine)
    validation = validation_sets(sets, config.data, plan, objective, config.eval_samples)
    steps = stream.steps(config.train.steps, config.data)
    with deferring() if config.engine.defers else nullcontext() as weights:
        model = objective.attach_head(config.model.build(tokenizer.vocab_size))
    start(config, model, objective, weights)
    shape = model.config
    watchdog.enter("building the engine")
    engine = config.engine.build(model, config.optimizer, plan.stages[0].micro_batch_size, weights)

    def export(to: Path) -> None:
        export_weights(engine, objective, shape, tokenizer, to)

    def conclude(trackers: Trackers) -> None:
        last = checkpoints.latest()
        if last is None or checkpoints.state(last)["step"] != trainer.step:
            raise CheckpointError(
                f"{folder / 'checkpoints'}: what was just written of step {trainer.step} is gone or "
                "damaged; look at the disk and run the same command again"
            )
        if distributed.world().is_main:
            export_checkpoint(last, objective, shape, tokenizer, folder / "model")
        for ending in objective.exports(model):
            place = folder / f"model{ending}"
            trackers.artifact(Artifact(place, "model", metadata={"steps": steps}))

    checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint)
    probes = Downstream(config.downstream, config.train.downstream_every, steps, folder, export)
    looks = [Generations(config.samples, steps, folder, export)] if config.samples is not None else []
    trainer = Trainer(
        config=config.train.model_copy(update={"steps": steps}),
        seed=config.seed,
        optimizer=config.optimizer,
        schedule=config.schedule,
        engine=engine,
        learner=objective,
        batches=lambda start: Loader(
            parts(stream, within),
            plan,
            rank=group.index,
            world_size=group.count,
            start_step=start,
            stop_step=steps,
            workers=config.data.loader_workers,
            tell=partial(trainer.notes.add, "loader_worker_restarted"),
        ),
        evaluator=LossEvaluator(objective, validation, plan.stages[-1].micro_batch_size, group, within),
        checkpoints=checkpoints,
        identity=partial(identity, config, shape, sets),
        trackers=partial(_trackers, config, folder, sets, steps),
        samples=lambda step: plan.step(step).first,
        flops=flops_by_step(shape, objective, plan),
        peak=hardware.peak(engine.device, config.engine.precision),
        probes=[probes, *looks],
        watch=Suspects(stream, quarantine, list(sets), active=config.train.spikes == "quarantine"),
        counted=world.within_group(alike).index == 0,
    )
    watchdog.enter("restoring the checkpoint")
    complete = trainer.restore() >= steps and (folder / "model").is_dir()
    if complete:
        more = "more train.steps" if steps == config.train.steps else "more data"
        say(f"{folder}: complete at step {steps}; set another name, or {more}")
        return ExitStatus.DONE, steps
    write_config(folder, config)
    status = trainer.fit(conclude)
    # Ranks end together: a launcher takes one that is long behind the others for lost.
    distributed.barrier()
    return status, trainer.step


def start(
    config: PretrainConfig, model: LanguageModel | Electra, objective: Objective, deferred: Deferred | None
) -> None:
    """Give a fresh model the weights that training starts from, where a folder has them."""
    for ending, part in objective.exports(model).items():
        config.model.initialise(part, ending, deferred)
    if isinstance(config.model, HuggingFaceConfig) and (asked := config.model.left_out()):
        listed = ", ".join(f"{key} {value:g}" for key, value in asked.items())
        say(f"{config.model.path}: {listed}: left out, pretraining here has no dropout")


def flops_by_step(shape: TransformerConfig, objective: Objective, plan: Plan) -> Callable[[int], float]:
    """Return the training FLOPs of step 1, 2, ... by formula."""
    of_sample = cache(partial(objective.flops, shape))

    def of_step(step: int) -> float:
        stage = plan.stage_of_step(step - 1)
        return stage.global_batch_size * of_sample(stage.seq_length)

    return of_step


def identity(config: PretrainConfig, model: TransformerConfig, sets: Sets, steps_done: int) -> dict[str, Any]:
    """Return what a checkpoint of so many steps must share with this run to be continued by it.

    What has not begun by then is free to change: later stages, and sets that only they take.
    """
    begun = config.plan.begun(steps_done)
    names = [name for index, name in enumerate(sets) if any(stage.weights[index] for stage in begun)]
    return {
        "model": model.model_dump(mode="json", serialize_as_any=True),
        "tokenizer": next(iter(sets.values())).manifest.tokenizer_fingerprint,
        "data": {name or "corpus": sets[name].fingerprint for name in names},
        **_stage_identity(begun[0], list(sets)),
        "data.stages": {
            str(number): {"after_step": stage.after_step, **_stage_identity(stage, list(sets))}
            for number, stage in enumerate(begun[1:])
        },
        "data.packing": config.data.packing.model_dump(mode="json", serialize_as_any=True),
        "objective": config.objective.model_dump(mode="json", serialize_as_any=True),
        "optimizer.type": config.optimizer.type,
        "seed": config.seed,
    }


def _stage_identity(stage: Stage, names: list[str]) -> dict[str, Any]:
    shares = zip(names, stage.interleave.shares, strict=True)
    return {
        "data.seq_length": stage.seq_length,
        "train.global_batch_size": stage.global_batch_size,
        "data.weights": {name: str(share) for name, share in shares if name and share},
    }


def _trackers(config: PretrainConfig, folder: Path, sets: Sets, steps: int, start_step: int) -> Trackers:
    tree = config.model_dump(mode="json", serialize_as_any=True)
    trackers = Trackers.start(
        RunInfo(config.name, folder, tree, steps, start_step, "pretrain"), config.tracking
    )
    for name, prepared in sets.items():
        title = f"{name or 'data'}-{prepared.fingerprint}"
        metadata = {"tokenizer": prepared.manifest.tokenizer_fingerprint, "fingerprint": prepared.fingerprint}
        trackers.artifact(Artifact(prepared.folder, "dataset", is_input=True, title=title, metadata=metadata))
    return trackers


def say(text: str) -> None:
    """Tell the user, once for all ranks."""
    if distributed.world().is_main:
        Console(stderr=True, highlight=False, soft_wrap=True).print(text)
