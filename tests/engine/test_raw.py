"""Raw DeepSpeed keys: Lumbre knows those that the installed DeepSpeed reads."""

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from lumbre.engine import DeepSpeedConfig, raw

SOURCES = Path(str(find_spec("deepspeed").origin)).parent  # type: ignore[union-attr]
"""Read as text: to import it takes seconds."""


def test_the_keys_of_zero_are_those_of_deepspeeds_own_config() -> None:
    tree = ast.parse((SOURCES / "runtime/zero/config.py").read_text())
    (config,) = (
        one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == "DeepSpeedZeroConfig"
    )
    found = set()
    for field in config.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            call = field.value
            keywords = call.keywords if isinstance(call, ast.Call) else []
            aliases = [
                one.value.value
                for one in keywords
                if one.arg == "alias" and isinstance(one.value, ast.Constant)
            ]
            found.add(aliases[0] if aliases else field.target.id)
    assert set(raw.ZERO_KEYS) == found


def test_every_other_key_is_named_in_deepspeeds_sources() -> None:
    text = "".join(file.read_text() for file in SOURCES.rglob("*.py"))
    assert [key for key in raw.KEYS if f'"{key}"' not in text and f"'{key}'" not in text] == []


def test_a_sound_config_has_no_problem() -> None:
    """Numbers, how an offload that is asked for goes about it, groups of other names."""
    zero = {"reduce_bucket_size": 5e8, "overlap_comm": True, "offload_optimizer": {"pin_memory": False}}
    keys = {"zero_optimization": zero, "wall_clock_breakdown": True}
    ours = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}
    assert list(raw.problems(keys, ours)) == []


@pytest.mark.parametrize(
    ("zero", "owner"),
    [
        ({"offload_optimizer": {"device": "cpu"}}, "engine.offload.optimizer"),
        ({"offload_param": {"device": "none"}}, "engine.offload.parameters"),
        ({"offload_param": {"nvme_path": "/disk"}}, "engine.offload.folder"),
        ({"cpu_offload": True}, "engine.offload.optimizer"),
        ({"stage": 3}, "engine.zero_stage"),
    ],
)
@pytest.mark.parametrize("asked", [{}, {"offload_optimizer": {"device": "cpu"}}])
def test_a_raw_key_that_says_what_a_key_of_ours_says_names_both(
    zero: dict[str, object], owner: str, asked: dict[str, object]
) -> None:
    """Whether or not the present config sets ours."""
    (problem,) = raw.problems({"zero_optimization": zero}, {"zero_optimization": {"stage": 1, **asked}})
    assert problem.key.startswith(f"zero_optimization.{next(iter(zero))}")
    assert owner in problem.fault
    assert owner in problem.remedy


def test_a_raw_key_by_which_ranks_would_learn_from_other_rows_is_refused() -> None:
    (problem,) = raw.problems({"expert_parallel": {"autoep_size": 2}}, {})
    assert problem.key == "expert_parallel"
    assert "engine.zero_stage=3" in problem.remedy


def test_the_raw_key_of_tensor_parallelism_is_ours() -> None:
    (problem,) = raw.problems({"tensor_parallel": {"autotp_size": 2}}, {})
    assert problem.key == "tensor_parallel"
    assert "engine.tensor_parallel" in problem.remedy


@pytest.mark.parametrize(
    ("group", "told"),
    [({"pin_memory": True}, "is none"), ({"ratio": 0.5}, "CPU Adam"), ("cpu", "expected a mapping")],
)
def test_what_tunes_an_offload_that_is_not_done_is_told(group: object, told: str) -> None:
    found = raw.problems({"zero_optimization": {"offload_optimizer": group}}, {})
    assert any(told in problem.fault for problem in found)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_how_a_mean_is_taken_is_refused_where_there_is_a_sum(stage: int) -> None:
    raw = {"gradient_allreduce_op": "mean", "prescale_gradients": True, "gradient_predivide_factor": 2.0}
    config = DeepSpeedConfig.model_validate({"zero_stage": stage, "deepspeed": raw})
    found = [problem.key for problem in config.problems()]
    assert found == [f"deepspeed.{key}" for key in raw][: 1 if stage == 3 else 3]
