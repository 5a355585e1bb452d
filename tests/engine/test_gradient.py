"""Gradient norms against float64, and clipping by them."""

import pytest
import torch
from torch import nn

from lumbre.engine.gradient import LARGE, ROW, clip, norms


@pytest.mark.parametrize("numel", [0, 1, LARGE - 1, LARGE, LARGE + 1, LARGE + ROW - 1, 5_000_003])
def test_the_norm_is_exact_whatever_the_size(numel: int) -> None:
    gradient = torch.randn(numel, generator=torch.Generator().manual_seed(numel)) * 1e-3 + 1e-3
    assert float(norms([gradient])[0]) == pytest.approx(float(gradient.double().norm()), rel=1e-6)


def test_a_gradient_may_lie_in_any_order() -> None:
    gradient = torch.randn(700, 300).T
    assert float(norms([gradient])[0]) == pytest.approx(float(gradient.double().norm()), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clipping_scales_all_gradients_to_the_limit_together(dtype: torch.dtype) -> None:
    parameters = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in ((3, 5), (2000,), (4,))]
    for parameter in parameters[:2]:
        parameter.grad = torch.randn_like(parameter)
    before = [one.grad.clone() for one in parameters[:2] if one.grad is not None]
    expected = torch.cat([one.double().flatten() for one in before]).norm()
    assert clip(parameters, 2.0) == pytest.approx(float(expected), rel=1e-6)
    for parameter, old in zip(parameters, before, strict=False):
        torch.testing.assert_close(parameter.grad, old * (2.0 / expected).to(dtype), rtol=1e-5, atol=0)
    assert parameters[2].grad is None
    kept = [one.grad.clone() for one in parameters[:2] if one.grad is not None]
    clip(parameters, float("inf"))
    assert all(torch.equal(one.grad, old) for one, old in zip(parameters, kept, strict=False))


def test_a_gradient_that_is_not_finite_has_a_norm_that_is_not() -> None:
    for numel in (3000, 2 * LARGE):
        gradient = torch.ones(numel)
        gradient[7] = float("nan")
        assert not torch.isfinite(norms([gradient])[0])
        gradient[7] = float("inf")
        assert torch.isinf(norms([gradient])[0])


def test_small_and_large_gradients_keep_their_places() -> None:
    gradients = [torch.full((numel,), 2.0) for numel in (4, LARGE, 9, 4 * LARGE, 1)]
    expected = [2.0 * one.numel() ** 0.5 for one in gradients]
    assert norms(gradients).tolist() == pytest.approx(expected, rel=1e-6)
    assert norms([]).shape == (0,)


@pytest.mark.parametrize(("share", "left"), [(0.9, 0.9), (1.1, 1.0)])
def test_a_gradient_is_scaled_from_the_limit_on_and_left_below_it(share: float, left: float) -> None:
    parameter = nn.Parameter(torch.zeros(50))
    parameter.grad = torch.randn(50)
    before = parameter.grad.clone()
    clip([parameter], share * float(before.norm()))
    torch.testing.assert_close(parameter.grad, left * before, rtol=1e-5, atol=0)
