"""Law 2 for DeepSpeed-Ulysses: ranks that share rows compute what one rank computes on whole ones."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pretrain.objectives import ModelKind, ObjectiveConfig

WORKER = Path(__file__).with_name("sequence_worker.py")
Found = Mapping[str, Mapping[str, float]]

MODELS: dict[str, dict[str, Any]] = {
    "rotary": {"model": {}},
    "causal": {"model": {"causal": True}},
    "learned": {"model": {"position": {"type": "learned", "max_length": 48}, "norm_position": "post"}},
    "alibi": {"model": {"position": {"type": "alibi"}}},
    "relative": {"model": {"position": {"type": "relative"}}},
    "one key/value head": {"model": {"num_kv_heads": 1, "qk_norm": True, "norm": "rmsnorm"}},
    "two key/value heads": {"model": {"num_kv_heads": 2, "causal": True}},
    "window": {"model": {"layer_types": ["global", "local"], "window": 3}},
    "segments": {"model": {"layer_types": ["global", "local"], "window": 3}, "kernel": "segments"},
    "segments with bias": {"model": {"position": {"type": "relative"}}, "kernel": "segments"},
    "prefix": {"model": {"causal": True}, "prefix": True},
    "experts": {"model": {"mlp": {"type": "mixture_of_experts", "num_experts": 3}}},
    "encoder-decoder": {"model": {"num_decoder_layers": 2, "position": {"type": "relative"}}},
    "every block recomputed": {"model": {}, "recompute": 1},
    "products kept": {"model": {}, "recompute": "selective"},
    "whole rows of one document": {"model": {"causal": True, "position": {"type": "alibi"}}, "plain": True},
}
KINDS: dict[ModelKind, dict[str, Any]] = {
    "encoder": {"token_types": 2},
    "decoder": {"causal": True},
    "encoder-decoder": {"num_decoder_layers": 1, "position": {"type": "relative"}},
}
GENERATOR: dict[str, Any] = {"hidden_size": 256, "num_layers": 1, "num_heads": 4, "token_types": 2}
"""A model whose generator, half as wide, has two heads of its usual 64."""
OBJECTIVES: dict[str, dict[str, Any]] = {
    f"{name}, {kind}": {
        "objective": name,
        "config": {"generator_size": 0.5} if name == "rtd" else {},
        "model": GENERATOR if name == "rtd" else KINDS[kind],
    }
    for name, one in sorted(ObjectiveConfig.members.items())
    for kind in one.model_kinds  # type: ignore[attr-defined]
}
PACKED = [
    name for name, case in MODELS.items() if name not in ("encoder-decoder", "whole rows of one document")
]


def run(world: int, cases: Mapping[str, Any], folder: Path) -> Found:
    """Run the cases in a group of so many ranks."""
    file = folder / f"cases-{world}.json"
    file.write_text(json.dumps(cases))
    agent = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    done = subprocess.run(
        [sys.executable, *agent, str(WORKER), str(folder), str(file)],
        check=False,
        env={**os.environ, "PYTHONPATH": str(WORKER.parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: Found = json.loads((folder / f"results-{world}.json").read_text())
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Run every model and objective on two ranks that share rows."""
    cases = {name: {**case, "ranks": 2} for name, case in {**MODELS, **OBJECTIVES}.items()}
    return run(2, cases, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Run every model on four ranks that share rows, and on two groups of two."""
    cases = {
        f"{name}, {ranks}": {**case, "ranks": ranks} for name, case in MODELS.items() for ranks in (2, 4)
    }
    return run(4, cases, tmp_path_factory.mktemp("four"))


@pytest.mark.parametrize("model", MODELS)
def test_parts_of_rows_have_the_loss_and_gradient_of_whole_rows(two: Found, model: str) -> None:
    """Loss and gradient, as one vector, to 1e-12 in float64 (law 2)."""
    assert two[model]["loss"] < 1e-12
    assert two[model]["gradient"] < 1e-12


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_has_the_targets_loss_and_gradient_of_whole_rows(two: Found, objective: str) -> None:
    """Its rows cut as in a run, those too that do not divide; labels that a row has once count once."""
    assert two[objective]["counts"] == 0
    assert two[objective]["loss"] < 1e-12
    assert two[objective]["gradient"] < 1e-12


@pytest.mark.parametrize("model", PACKED)
def test_documents_on_several_ranks_do_not_see_each_other(two: Found, model: str) -> None:
    """Editing one moves all else by exactly nothing, by 1e-6 where there are experts (law 5)."""
    assert two[model]["edited"] > 0
    assert two[model]["others"] <= (1e-6 if model == "experts" else 0)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("model", MODELS)
def test_four_ranks_have_the_loss_and_gradient_of_one(four: Found, model: str, ranks: int) -> None:
    """All four share rows, with fewer key/value heads than ranks too, or two and two do."""
    assert four[f"{model}, {ranks}"]["loss"] < 1e-12
    assert four[f"{model}, {ranks}"]["gradient"] < 1e-12
