"""What CUDA devices alone serve is refused elsewhere by name, with a remedy, where a run starts."""

from typing import Any
from unittest import mock

import pytest
import torch

from lumbre.engine import AccelerateConfig, DeepSpeedConfig, EngineConfig, cuda
from lumbre.errors import ConfigError

CUDA = torch.device("cuda", 0)
KEYS: dict[str, dict[str, Any]] = {
    "float8": {"float8": "rowwise", "precision": "bfloat16"},
    "cuda_graphs": {"cuda_graphs": True, "compile": True},
    "liger": {"liger": True},
}
EVERY = pytest.mark.parametrize("key", KEYS)


def lacking(asked: dict[str, Any], *, packages: bool, capability: tuple[int, int]) -> str:
    """Return what is told on a machine with such a CUDA device."""
    with (
        mock.patch.object(cuda, "find_spec", return_value=object() if packages else None),
        mock.patch("torch.cuda.get_device_capability", return_value=capability),
        mock.patch("torch.cuda.get_device_name", return_value="NVIDIA A100"),
    ):
        return "\n".join(map(str, cuda.faults(AccelerateConfig.model_validate(asked).cuda_only, CUDA)))


@EVERY
def test_a_key_without_its_device_is_refused_where_a_run_starts_and_not_in_a_dry_run(key: str) -> None:
    config = AccelerateConfig.model_validate(KEYS[key])
    assert not list(config.problems())
    with (
        mock.patch("lumbre.engine.base.device", return_value=torch.device("cpu")),
        pytest.raises(ConfigError, match=rf"engine\.{key}: needs a CUDA device, and the run is on cpu; use "),
    ):
        config.check()


@EVERY
def test_a_key_without_its_package_is_refused(key: str) -> None:
    told = lacking(KEYS[key], packages=False, capability=(9, 0))
    package = {"float8": "torchao", "cuda_graphs": "triton", "liger": "liger_kernel"}[key]
    assert told.startswith(f"{key}: needs the package {package}, which is not installed; pip install 'lumbre")


@EVERY
def test_a_device_is_refused_by_its_compute_capability_for_8_bits_alone(key: str) -> None:
    assert not lacking(KEYS[key], packages=True, capability=(8, 9))
    told = lacking(KEYS[key], packages=True, capability=(8, 0))
    refusal = "float8: needs compute capability 8.9, and NVIDIA A100 has 8.0; use none"
    assert told == (refusal if key == "float8" else "")


def test_a_run_without_these_keys_looks_at_no_device() -> None:
    with mock.patch("lumbre.engine.base.device", side_effect=AssertionError):
        AccelerateConfig().check()


@pytest.mark.parametrize(
    ("kind", "keys", "told"),
    [
        (
            AccelerateConfig,
            {"float8": "rowwise"},
            "float8: products of 8 bits give bfloat16, and engine.prec",
        ),
        (
            DeepSpeedConfig,
            {**KEYS["float8"], "tensor_parallel": 2},
            "float8: maps of which ranks have a part",
        ),
        (DeepSpeedConfig, {**KEYS["float8"], "zero_stage": 3}, "float8: products of 8 bits would keep what"),
        (AccelerateConfig, {"cuda_graphs": True}, "cuda_graphs: graphs are recorded of what torch.compile"),
        (
            AccelerateConfig,
            {**KEYS["cuda_graphs"], "activation_checkpointing": 1},
            "cuda_graphs: blocks that are computed again",
        ),
        (
            DeepSpeedConfig,
            {**KEYS["cuda_graphs"], "sequence_parallel": 2},
            "cuda_graphs: with sequence_parallel ranks wait",
        ),
        (DeepSpeedConfig, {**KEYS["cuda_graphs"], "zero_stage": 3}, "cuda_graphs: graphs know parameters by"),
        (AccelerateConfig, {"liger": True, "compile": True}, "liger: with compile: true the compiler itself"),
    ],
)
def test_keys_that_exclude_each_other_are_told(
    kind: type[EngineConfig], keys: dict[str, Any], told: str
) -> None:
    problems = [str(problem) for problem in kind.model_validate(keys).problems()]
    assert any(problem.startswith(told) and "; " in problem for problem in problems)
