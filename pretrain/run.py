"""Pretraining, top to bottom: prepare the data, train or resume, export."""

from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from lumbre import distributed, hardware
from lumbre.checkpoint import Checkpoints
from lumbre.errors import ExitStatus
from lumbre.hub import HuggingFaceConfig
from lumbre.models import LanguageModel, TransformerConfig, flops_per_sample
from lumbre.run_folder import claim, record_exit, write_config
from lumbre.tokenizer import Tokenizer
from lumbre.tracking import RunInfo, Trackers
from lumbre.trainer import Trainer

from .config import PretrainConfig
from .data.loader import Loader
from .data.prepare import prepare as prepare_data
from .data.shards import PreparedData
from .evaluation import LossEvaluator
from .export import write_model
from .objectives import Objective
from .samples import training_samples, validation_samples

CONFIG = PretrainConfig


def prepare(config: PretrainConfig) -> ExitStatus:
    """Tokenize the corpus into shards, if that has not been done."""
    prepared = prepare_data(config.data, config.tokenizer)
    say(f"data: {prepared.folder}")
    return ExitStatus.DONE


def main(config: PretrainConfig) -> ExitStatus:
    """Prepare the data, train from scratch or from where the run folder left off, and export the model."""
    prepared = prepare_data(config.data, config.tokenizer)
    with distributed.session(config.seed), claim(config.folder) as folder:
        status, step = pretrain(config, prepared, folder)
        record_exit(folder, status, "done" if status == ExitStatus.DONE else "stopped on a signal", step)
    return status


def pretrain(config: PretrainConfig, prepared: PreparedData, folder: Path) -> tuple[ExitStatus, int]:
    """Train inside a session and a claimed folder; return how it ended and at which step."""
    world = distributed.world()
    tokenizer = prepared.tokenizer()
    objective = config.objective.build(tokenizer, config.seed)
    training = training_samples(prepared, config.data, objective, config.seed)
    validation, rows = validation_samples(prepared, config.data, objective)
    model = build_model(config, tokenizer, objective)
    shape = model.config
    global_batch, micro_batch = config.train.batch_sizes
    engine = config.engine.build(model, config.optimizer, micro_batch)
    run = partial(_run_info, config, folder)
    trainer = Trainer(
        config=config.train,
        seed=config.seed,
        optimizer=config.optimizer,
        schedule=config.schedule,
        checkpoint=config.checkpoint,
        engine=engine,
        learner=objective,
        batches=lambda start: Loader(
            training,
            global_batch_size=global_batch,
            micro_batch_size=micro_batch,
            rank=world.rank,
            world_size=world.size,
            start_step=start,
            stop_step=config.train.steps,
        ),
        evaluator=LossEvaluator(objective, validation, min(rows, config.eval_samples), micro_batch),
        checkpoints=Checkpoints(folder / "checkpoints", config.checkpoint.keep),
        identity=identity(config, shape, prepared),
        trackers=lambda start: Trackers.start(run(start), config.tracking) if world.is_main else Trackers(),
        flops_per_sample=flops_per_sample(shape, *objective.lengths(config.data.seq_length)),
        peak=hardware.peak(engine.device, config.engine.precision),
    )
    complete = trainer.restore() >= config.train.steps and (folder / "model").is_dir()
    if complete:
        say(f"{folder}: complete at step {config.train.steps}; set another name, or more train.steps")
        return ExitStatus.DONE, config.train.steps
    write_config(folder, config)
    status = trainer.fit()
    if status == ExitStatus.DONE:
        write_model(engine.state_dict(), shape, tokenizer, folder / "model")
    # Ranks end together: a launcher takes one that is long behind the others for lost.
    distributed.barrier()
    return status, trainer.step


def build_model(config: PretrainConfig, tokenizer: Tokenizer, objective: Objective) -> LanguageModel:
    """Return the model with the weights that training starts from, its vocabulary the tokenizer's."""
    model = objective.attach_head(config.model.build(tokenizer.vocab_size))
    config.model.initialise(model)
    if isinstance(config.model, HuggingFaceConfig) and (asked := config.model.left_out()):
        listed = ", ".join(f"{key} {value:g}" for key, value in asked.items())
        say(f"{config.model.path}: {listed}: left out, pretraining here has no dropout")
    return model


def identity(config: PretrainConfig, model: TransformerConfig, prepared: PreparedData) -> dict[str, Any]:
    """Return what a checkpoint must share with this run to be continued by it."""
    return {
        "model": model.model_dump(mode="json", serialize_as_any=True),
        "tokenizer": prepared.manifest.tokenizer_fingerprint,
        "data": prepared.fingerprint,
        "data.seq_length": config.data.seq_length,
        "data.packing": config.data.packing.model_dump(mode="json", serialize_as_any=True),
        "objective": config.objective.model_dump(mode="json", serialize_as_any=True),
        "optimizer.type": config.optimizer.type,
        "train.global_batch_size": config.train.batch_sizes[0],
        "seed": config.seed,
    }


def _run_info(config: PretrainConfig, folder: Path, start_step: int) -> RunInfo:
    tree = config.model_dump(mode="json", serialize_as_any=True)
    return RunInfo(config.name, folder, tree, config.train.steps, start_step, "pretrain")


def say(text: str) -> None:
    """Tell the user, once for all ranks."""
    if distributed.world().is_main:
        Console(stderr=True, highlight=False, soft_wrap=True).print(text)
