"""What every optimizer promises the engines."""

from typing import Any

import pytest
import torch

from lumbre.engine import AccelerateConfig, Engine
from lumbre.models import LanguageModel, TransformerConfig
from lumbre.optim import OptimizerConfig

MODEL = TransformerConfig.model_validate(
    {
        "causal": True,
        "vocab_size": 31,
        "hidden_size": 8,
        "num_layers": 2,
        "num_heads": 2,
        "num_kv_heads": 1,
        "gated_mlp": True,
        "position": {"type": "rotary"},
    }
)
KEPT = "final_norm"
"""What stays frozen."""

KINDS = sorted(OptimizerConfig.members)


def engine_of(kind: str, **more: Any) -> Engine:
    torch.manual_seed(4)
    model = LanguageModel(MODEL.build())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(KEPT not in name)
    optimizer = OptimizerConfig.model_validate({"type": kind, "learning_rate": 0.01, **more})
    return AccelerateConfig(precision="float64").build(model, optimizer, 1)


RATES = {"lamb": 0.1}
"""Where it is not 0.01."""


def train(engine: Engine, steps: range, rate: float = 0.01) -> list[float]:
    losses = []
    for step in steps:
        ids = torch.randint(0, 31, (2, 6), generator=torch.Generator().manual_seed(step % 2))
        loss = engine.forward()(ids, labels=ids.roll(-1, 1)).loss
        engine.backward(loss)
        engine.step(rate)
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_from_its_fragments_to_the_bit(kind: str) -> None:
    """They hold all that the next step depends on, by the names of state_names (law 3)."""
    engine = engine_of(kind)
    train(engine, range(3))
    saved = {
        (key, fragment.name): tensor.clone()
        for fragment in engine.fragments()
        for key, tensor in fragment.tensors.items()
    }
    assert {key for key, _ in saved} == {"param", *OptimizerConfig.members[kind].state_names}
    other = engine_of(kind)
    other.restore(lambda key, name, start, stop: saved[key, name][start:stop], 3)
    assert train(other, range(3, 6)) == train(engine, range(3, 6))


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_and_leaves_what_is_frozen(kind: str) -> None:
    engine = engine_of(kind)
    before = {name: one.detach().clone() for name, one in engine.module.named_parameters()}
    losses = train(engine, range(40), RATES.get(kind, 0.01))
    assert losses[-1] < 0.7 * losses[0]
    for name, parameter in engine.module.named_parameters():
        assert torch.equal(parameter.detach(), before[name]) == (KEPT in name), name


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "lamb"])
def test_decay_is_decoupled_and_spares_vectors(kind: str) -> None:
    """Without a gradient to speak of, a matrix shrinks by rate x decay a step and a vector stays.

    LAMB's decay is in the update that is measured by the norm.
    """
    engine = engine_of(kind, weight_decay=0.5)
    before = {name: one.detach().clone() for name, one in engine.module.named_parameters()}
    for parameter in engine.module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    engine.step(0.01)
    for name, parameter in engine.module.named_parameters():
        shrunk = parameter.ndim > 1 and KEPT not in name
        torch.testing.assert_close(parameter.detach(), before[name] * (1 - 0.005 * shrunk))


@pytest.mark.parametrize("kind", KINDS)
def test_an_elementwise_optimizer_updates_parts_as_it_does_the_whole(kind: str) -> None:
    """And the others do not: where ranks have parts of matrices, these are the ones to refuse."""
    config = OptimizerConfig.members[kind].model_validate({"learning_rate": 0.1})
    assert isinstance(config, OptimizerConfig)
    generator = torch.Generator().manual_seed(7)
    start, gradient = torch.randn(2, 6, 4, generator=generator)
    moved = []
    for rows in ([6], [1, 5]):
        parts = [torch.nn.Parameter(one.clone()) for one in start.split(rows)]
        for part, own in zip(parts, gradient.split(rows), strict=True):
            part.grad = own.clone()
        config.build([(f"blocks.0.{index}", part) for index, part in enumerate(parts)]).step()
        moved.append(torch.cat([part.detach() for part in parts]))
    assert torch.allclose(*moved) == config.elementwise
