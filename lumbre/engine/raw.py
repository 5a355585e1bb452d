"""Raw DeepSpeed JSON keys: which there are, whose they are, and which exclude each other.

DeepSpeed passes over a key that it does not know, and imports for seconds before it looks at the others.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from lumbre.config.base import suggest
from lumbre.errors import Problem

OWNERS = {
    "train_micro_batch_size_per_gpu": "train.micro_batch_size",
    "train_batch_size": "train.global_batch_size",
    "gradient_accumulation_steps": "train.accumulation_steps",
    "gradient_clipping": "optimizer.gradient_clipping",
    "optimizer": "optimizer",
    "scheduler": "schedule",
    "bf16": "engine.precision",
    "fp16": "engine.precision",
    "torch_autocast": "engine.precision",
    "communication_data_type": "engine.precision",
    "data_types": "engine.precision",
    "zero_optimization": "engine.zero_stage",
    "sequence_parallel_size": "engine.sequence_parallel",
    "tensor_parallel": "engine.tensor_parallel",
    "zero_optimization.offload_optimizer": "engine.offload.optimizer",
    "zero_optimization.offload_optimizer.nvme_path": "engine.offload.folder",
    "zero_optimization.offload_param": "engine.offload.parameters",
    "zero_optimization.offload_param.nvme_path": "engine.offload.folder",
    "zero_optimization.cpu_offload": "engine.offload.optimizer",
    "zero_optimization.cpu_offload_param": "engine.offload.parameters",
    "zero_force_ds_cpu_optimizer": "engine.offload.optimizer",
}
"""Our key that sets each of DeepSpeed's."""
WHOLE = (
    *("train_batch_size", "optimizer", "scheduler", "fp16", "bf16", "torch_autocast"),
    *("sequence_parallel_size", "tensor_parallel"),
    *("zero_optimization.offload_optimizer.device", "zero_optimization.offload_optimizer.nvme_path"),
    *("zero_optimization.offload_param.device", "zero_optimization.offload_param.nvme_path"),
    *("zero_optimization.cpu_offload", "zero_optimization.cpu_offload_param", "zero_force_ds_cpu_optimizer"),
)
"""Raw keys that are ours whether or not the present config sets them."""
APART = ("expert_parallel",)
"""Raw keys by which ranks would share samples and weights in ways that data and checkpoints do not know."""
REDUCTION = "gradient_allreduce_op"
MEAN = ("prescale_gradients", "gradient_predivide_factor")
"""Raw keys that say how a mean over ranks is taken: DeepSpeed passes over them where it takes the sum."""
ZERO = "zero_optimization"
ZERO_KEYS = (
    *("stage", "contiguous_gradients", "reduce_scatter", "reduce_bucket_size", "allgather_partitions"),
    *("allgather_bucket_size", "overlap_comm", "load_from_fp32_weights", "elastic_checkpoint"),
    *("offload_param", "offload_optimizer", "sub_group_size", "round_robin_gradients", "zenflow"),
    *("use_multi_rank_bucket_allreduce", "compute_grad_norm", "ignore_unused_parameters", "legacy_stage1"),
    *("stage3_max_live_parameters", "stage3_max_reuse_distance", "stage3_prefetch_bucket_size"),
    *("stage3_param_persistence_threshold", "stage3_model_persistence_threshold"),
    *("stage3_gather_16bit_weights_on_model_save", "stage3_gather_fp16_weights_on_model_save"),
    *("stage3_module_granularity_threshold", "stage3_use_all_reduce_for_fetch_params"),
    *("stage3_allgather_sequential", "cpu_offload", "cpu_offload_param", "cpu_offload_use_pin_memory"),
    *("zero_hpz_partition_size", "zero_quantized_weights", "zero_quantized_nontrainable_weights"),
    *("zero_quantized_gradients", "memory_efficient_linear", "pipeline_loading_checkpoint"),
    *("override_module_apply", "log_trace_cache_warnings", "enable_sanity_checks", "leaf_module"),
    *("parameter_alignment", "save_muon_momentum_buffer_in_memory"),
)
"""The keys below zero_optimization of DeepSpeed 0.19."""
KEYS = (
    *(key for key in OWNERS if "." not in key),
    *("steps_per_print", "dump_state", "disable_python_gc", "disable_allgather", "prescale_gradients"),
    *("gradient_predivide_factor", "gradient_allreduce_op", "zero_allow_untested_optimizer", "log_level"),
    *("managed_gradient_accumulation", "wall_clock_breakdown", "memory_breakdown"),
    *("dataloader_drop_last", "use_data_before_expert_parallelism", "checkpoint"),
    *("seq_parallel_communication_data_type", "activation_checkpointing", "flops_profiler", "autotuning"),
    *("aio", "timers", "comms_logger", "tensorboard", "wandb", "csv_monitor", "comet", "compile", "pipeline"),
    *("hybrid_engine", "data_efficiency", "weight_quantization", "expert_parallel"),
    *("checkpoint_serialization", "datastates_ckpt", "vocabulary_size"),
)
"""The top-level keys of DeepSpeed 0.19."""
CPU_ADAM = ("ratio", "super_offload", "cpuadam_cores_perc")
"""Keys below offload_optimizer that only DeepSpeed's own CPU Adam reads."""


def problems(raw: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with raw keys beside those that Lumbre sets; keys begin with the first raw one."""
    summed = (REDUCTION, *(MEAN if ours.get(REDUCTION) == "sum" else ()))
    for key in summed:
        if key in raw:
            yield Problem(key, "gradients are summed over ranks, so that layouts agree", "delete it")
    for key in _clashes({key: value for key, value in raw.items() if key != REDUCTION}, ours):
        owner = _owner(key)
        yield Problem(key, f"is set by {owner}", f"delete it, and set {owner} instead")
    for key in raw:
        if key in APART:
            fault = "ranks would share samples and weights in a way that data and checkpoints do not know"
            yield Problem(key, fault, "delete it; engine.zero_stage=3 shares the model out over ranks")
        if key not in KEYS:
            within = f"move it below {ZERO}" if key in ZERO_KEYS else _or_ignored(key, KEYS)
            yield Problem(key, "DeepSpeed has no such key", within)
    zero = raw.get(ZERO, {})
    if not isinstance(zero, Mapping):
        yield Problem(ZERO, f"expected a mapping, got {zero!r}", "write `key: value` lines below it")
        return
    for key in zero:
        if key not in ZERO_KEYS:
            yield Problem(f"{ZERO}.{key}", "DeepSpeed has no such key", _or_ignored(key, ZERO_KEYS))
    yield from _misread(raw)
    yield from _offload(zero, ours.get(ZERO, {}))


def merged(ours: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return our keys and the raw ones as one config."""
    out = dict(ours)
    for key, value in raw.items():
        out[key] = merged(out[key], value) if isinstance(value, Mapping) and key in out else value
    return out


def _owner(key: str) -> str:
    """Return our key that sets DeepSpeed's, or the group that it is in."""
    while key and key not in OWNERS:
        key = key.rpartition(".")[0]
    return OWNERS.get(key, "engine")


def _clashes(raw: Mapping[str, Any], ours: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in raw.items():
        if f"{prefix}{key}" in WHOLE:
            yield f"{prefix}{key}"
        elif isinstance(value, Mapping):
            group = ours.get(key, {})
            if isinstance(group, Mapping):
                yield from _clashes(value, group, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}"
        elif key in ours:
            yield f"{prefix}{key}"


def _or_ignored(key: str, known: tuple[str, ...]) -> str:
    near = suggest(key, known)
    return near if near.startswith("did you mean") else "delete it: it would be passed over in silence"


def _misread(raw: Mapping[str, Any], prefix: str = "") -> Iterator[Problem]:
    """Yield texts where numbers are meant, and values that Hugging Face's Trainer alone fills in."""
    for key, value in raw.items():
        if isinstance(value, Mapping):
            yield from _misread(value, f"{prefix}{key}.")
        elif value == "auto":
            fault = "auto is filled in by Hugging Face's Trainer, and DeepSpeed takes it for a text"
            yield Problem(f"{prefix}{key}", fault, "delete it for DeepSpeed's default, or give a value")
        elif isinstance(value, str):
            with suppress(ValueError):
                number = f"{float(value):g}"
                fault = f"YAML reads {value} as a text"
                yield Problem(f"{prefix}{key}", fault, f"write it with point and sign, as in {_yaml(number)}")


def _yaml(number: str) -> str:
    """Return a number as YAML 1.1 reads one: an exponent wants a point before it."""
    mantissa, e, exponent = number.partition("e")
    return f"{mantissa}.0e{exponent}" if e and "." not in mantissa else number


def _offload(zero: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is tuned of an offload that is not, or by another optimizer than ours."""
    for key in "offload_param", "offload_optimizer":
        group = zero.get(key, {})
        place, owner = f"{ZERO}.{key}", OWNERS[f"{ZERO}.{key}"]
        if not isinstance(group, Mapping):
            yield Problem(place, f"expected a mapping, got {group!r}", f"delete it, and set {owner} instead")
            continue
        tuned = [name for name in group if f"{place}.{name}" not in WHOLE]
        if tuned and key not in ours:
            fault = f"{', '.join(tuned)} would be passed over: {owner} is none"
            yield Problem(place, fault, f"set {owner}, or delete it")
        for name in CPU_ADAM if key == "offload_optimizer" else ():
            if name in group:
                fault = "is for DeepSpeed's own CPU Adam, and optimizer.type is torch's"
                yield Problem(f"{place}.{name}", fault, "delete it")
