"""ZeRO's sums of gradients: as DeepSpeed's to the bit, with fewer passes over them."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lumbre.engine import reduction

LIMIT = 1.0


def optimizer(loss_scale: float = 1.0) -> Any:
    """Return what DeepSpeed's own scaling reads of its optimizer, with that scaling."""
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    made = SimpleNamespace(clip_grad=LIMIT, loss_scale=loss_scale, device="cpu")
    made.unscale_and_clip_grads = partial(DeepSpeedZeroOptimizer.unscale_and_clip_grads, made)
    return made


@pytest.mark.parametrize("loss_scale", [1.0, 8.0])
@pytest.mark.parametrize("norm", [0.0, 0.3, 0.999, 1.5, 40.0, -1.0, float("inf"), float("nan")])
def test_gradients_come_out_as_deepspeed_scales_them(norm: float, loss_scale: float) -> None:
    ours = torch.randn(7, 3)
    theirs = ours.clone()
    changed = optimizer(loss_scale)
    reduction.scale_when_clipped(changed)
    changed.unscale_and_clip_grads([ours], torch.tensor(norm))
    optimizer(loss_scale).unscale_and_clip_grads([theirs], torch.tensor(norm))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_gradients_within_the_limit_are_not_gone_over() -> None:
    gone_over = []
    changed = optimizer()
    changed.unscale_and_clip_grads = lambda _, norm: gone_over.append(float(norm))
    reduction.scale_when_clipped(changed)
    for norm in 0.0, 0.5, 1.5, 0.9:
        changed.unscale_and_clip_grads([], torch.tensor(norm))
    assert gone_over == [1.5]


def test_a_bucket_is_no_larger_than_what_trains_and_is_not_summed_by_itself() -> None:
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(20)), nn.Linear(3, 100))
    model[0].requires_grad_(False)
    assert bucket(model, "cpu") == 19 * 12
    many = nn.Sequential(*(nn.Linear(7_000, 7_000, device="meta") for _ in range(12)))
    assert bucket(many, "cpu") == reduction.LARGEST_ON_CPU
    assert bucket(many, "cuda") == reduction.LARGEST_BUCKET


def bucket(model: nn.Module, device: str) -> int:
    elements = reduction.tuning(model, torch.device(device), {})["zero_optimization"]["reduce_bucket_size"]
    assert isinstance(elements, int)
    return elements


def test_what_the_user_has_reduced_to_owners_alone_is_not_sent_to_all() -> None:
    model, cpu = nn.Linear(2, 2), torch.device("cpu")
    assert reduction.tuning(model, cpu, {})["zero_optimization"]["reduce_scatter"] is False
    owners = {"zero_optimization": {"use_multi_rank_bucket_allreduce": False}}
    assert "reduce_scatter" not in reduction.tuning(model, cpu, owners)["zero_optimization"]
