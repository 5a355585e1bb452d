"""A loss that is not finite has a gradient that is not; every other one is left as it is."""

import math

import pytest
import torch

from lumbre.trainer.non_finite import marked


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-40, 3.25, -7.0, torch.finfo(torch.float32).max])
def test_a_finite_loss_and_its_gradient_are_left_as_they_are(value: float) -> None:
    weight = torch.tensor(value, requires_grad=True)
    loss = marked(weight * 1.0)
    loss.backward()
    assert torch.equal(loss, weight)
    assert weight.grad == 1.0


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_loss_that_is_not_finite_marks_its_gradient(value: float) -> None:
    weight = torch.tensor(value, requires_grad=True)
    marked(weight * 1.0).backward()
    assert weight.grad is not None
    assert weight.grad.isnan()
