"""How a model computes on this engine: attention's kernel, parts of rows, what is recomputed or compiled."""

from typing import Any

from torch import nn

from lumbre import distributed, host_memory, products
from lumbre.engine import cuda_graphs
from lumbre.engine.base import EngineConfig
from lumbre.errors import ConfigError, Problem
from lumbre.models import Transformer
from lumbre.models.attention import SequenceParallel


def set_up(model: nn.Module, config: EngineConfig) -> None:
    """Set the model's trunks, or a model of transformers, to what the engine's config asks for.

    Raises ConfigError for what a model of transformers does not have.
    """
    products.choose(config.float32_products)
    if config.keep_freed_memory and distributed.device().type == "cpu":
        host_memory.keep_freed()
    trunks = [part for part in model.modules() if isinstance(part, Transformer)]
    sequence = _sequence_parallel(config.sequence_parallel, config.tensor_parallel)
    for trunk in trunks:
        trunk.sequence = sequence
        trunk.attention_kernel = config.attention_kernel
        trunk.recompute = config.activation_checkpointing
        if config.float8 != "none":
            from lumbre.engine.float8 import convert

            convert(trunk, config.float8)
        if config.liger:
            from lumbre.engine.liger import swap

            swap(trunk)
        if config.compile:
            from lumbre.engine.compiled import compile_trunk

            compile_trunk(trunk, _compiler_options(config), whole=config.compile == "trunk")
    if config.cuda_graphs:
        cuda_graphs.mark(model, trunks)
    if not trunks:
        _set_up_foreign(model, config)


def _compiler_options(config: EngineConfig) -> dict[str, Any] | None:
    from lumbre.engine.compiled import cpu_options

    if config.cuda_graphs:
        return cuda_graphs.OPTIONS
    return cpu_options() if distributed.device().type == "cpu" else None


def _sequence_parallel(ranks: int, apart: int) -> SequenceParallel:
    """Return this rank's part of the rows that so many ranks share, so far apart; every rank calls."""
    if ranks == 1:
        return SequenceParallel()
    place = distributed.world().within_group(ranks, apart)
    return SequenceParallel(place.index, place.count, distributed.neighbours(ranks, apart).group_name)


def _set_up_foreign(model: Any, config: EngineConfig) -> None:
    problems = []
    if config.attention_kernel != "auto":
        fault = f"{type(model).__name__} is a model of transformers, with kernels of its own"
        problems.append(Problem("engine.attention_kernel", fault, "leave it out"))
    if config.activation_checkpointing not in ("none", 1):
        fault = f"{type(model).__name__} is a model of transformers, which recomputes each block or none"
        problems.append(Problem("engine.activation_checkpointing", fault, "use none or 1"))
    if problems:
        raise ConfigError(problems)
    if config.activation_checkpointing == 1:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if config.compile:
        model.compile(options=_compiler_options(config))
