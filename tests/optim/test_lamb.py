"""LAMB against its paper's algorithm, tensor by tensor in float64."""

import pytest
import torch
from torch import nn

from lumbre.optim import LambConfig

SHAPES = {"matrix": (5, 7), "zeros": (4, 4), "table": (3, 2, 2), "vector": (6,)}


@pytest.mark.parametrize(("beta1", "weight_decay"), [(0.9, 0.1), (0.0, 0.0)])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_lamb_is_algorithm_2(beta1: float, weight_decay: float, dtype: torch.dtype, bound: float) -> None:
    """m, v, r = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + e) + l x, x -= rate |x| / |r| r; vectors without."""
    generator = torch.Generator().manual_seed(2)
    config = LambConfig(learning_rate=0.05, weight_decay=weight_decay, beta1=beta1)
    expected = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()
    }
    expected["zeros"].zero_()
    named = {name: nn.Parameter(one.to(dtype)) for name, one in expected.items()}
    means = {name: torch.zeros_like(one) for name, one in expected.items()}
    squares = {name: torch.zeros_like(one) for name, one in expected.items()}
    optimizer = config.build(named.items())
    for step in range(1, 8):
        for name, x in expected.items():
            gradient = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            if name == "matrix" and step == 1:
                gradient.zero_()
            named[name].grad = gradient.to(dtype)
            means[name] = beta1 * means[name] + (1 - beta1) * gradient
            squares[name] = 0.999 * squares[name] + 0.001 * gradient**2
            mean, square = means[name] / (1 - beta1**step), squares[name] / (1 - 0.999**step)
            decay = 0.0 if name == "vector" else weight_decay
            update = mean / (square.sqrt() + 1e-6) + decay * x
            size, length = float(x.norm()), float(update.norm())
            ratio = size / length if size and length and name != "vector" else 1.0
            expected[name] = x - 0.05 * ratio * update
        optimizer.step()
    for name, x in expected.items():
        assert (named[name].detach() - x).abs().max() / x.abs().max() < bound, name
