"""Lion against its paper's algorithm."""

import torch
from torch import nn

from lumbre.optim import LionConfig


def test_lion_is_algorithm_2() -> None:
    """c = b1 m + (1 - b1) g, x -= rate (sign c + l x), m = b2 m + (1 - b2) g."""
    generator = torch.Generator().manual_seed(3)
    config = LionConfig(learning_rate=0.01, weight_decay=0.3, beta1=0.8, beta2=0.95)
    expected = {
        "matrix": torch.randn(4, 5, generator=generator, dtype=torch.float64),
        "vector": torch.randn(6, generator=generator, dtype=torch.float64),
    }
    named = {name: nn.Parameter(one.clone()) for name, one in expected.items()}
    means = {name: torch.zeros_like(one) for name, one in expected.items()}
    optimizer = config.build(named.items())
    for _ in range(6):
        for name, x in expected.items():
            gradient = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            named[name].grad = gradient.clone()
            direction = torch.sign(0.8 * means[name] + 0.2 * gradient)
            expected[name] = x - 0.01 * (direction + (0.3 if name == "matrix" else 0.0) * x)
            means[name] = 0.95 * means[name] + 0.05 * gradient
        optimizer.step()
    for name, x in expected.items():
        assert (named[name].detach() - x).abs().max() < 1e-14
