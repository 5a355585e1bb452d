"""AdamW against torch's own step."""

import torch
from torch import nn

from lumbre.optim import AdamWConfig


def test_adamw_is_torchs_to_the_bit_whichever_parameters_have_a_gradient() -> None:
    generator = torch.Generator().manual_seed(5)
    config = AdamWConfig(learning_rate=0.03, weight_decay=0.2, beta1=0.8, beta2=0.95)
    shapes = {"matrix": (40, 50), "vector": (60,), "other": (3, 4), "never": (2, 2)}
    ours = {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}
    theirs = {name: nn.Parameter(one.detach().clone()) for name, one in ours.items()}
    optimizer = config.build(ours.items())
    reference = torch.optim.AdamW(
        config.param_groups(theirs.items()), lr=0.03, betas=(0.8, 0.95), eps=config.epsilon, fused=True
    )
    for step in range(5):
        for name, one in ours.items():
            reached = name in ("matrix", "vector") or (name == "other" and step in (2, 4))
            gradient = torch.randn(one.shape, generator=generator)
            one.grad, theirs[name].grad = (gradient.clone(), gradient) if reached else (None, None)
        for group in (*optimizer.param_groups, *reference.param_groups):
            group["lr"] = 0.03 / (1 + step)
        optimizer.step()
        reference.step()
        for name, one in ours.items():
            assert torch.equal(one, theirs[name]), (step, name)
            assert optimizer.state[one].keys() == reference.state[theirs[name]].keys()
    assert optimizer.state[ours["other"]]["step"] == 2
