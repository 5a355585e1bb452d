"""Layer-wise decay of the learning rate, against its closed form on every family's names."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lumbre.engine import AccelerateConfig
from lumbre.errors import ConfigError
from lumbre.optim import AdamWConfig
from lumbre.optim.depth import distances
from tests.finetune.methods.models import BUILDERS, build, head, loss

RATE, DECAY = 1e-3, 0.5
DISTANCES = {
    "bert": {"bert.embeddings": 4, **{f"bert.encoder.layer.{i}": 3 - i for i in range(3)}, "bert.pooler": 0},
    "gpt2": {
        "transformer.wte": 4,
        "transformer.wpe": 4,
        **{f"transformer.h.{i}": 3 - i for i in range(3)},
        "transformer.ln_f": 0,
    },
    "t5": {
        "transformer.shared": 4,
        **{f"transformer.encoder.block.{i}": 3 - i for i in range(3)},
        **{f"transformer.decoder.block.{i}": 2 - i for i in range(2)},
        "transformer.encoder.final_layer_norm": 0,
        "transformer.decoder.final_layer_norm": 0,
    },
    "modernbert": {"model.embeddings": 4, **{f"model.layers.{i}": 3 - i for i in range(3)}, "model.final": 0},
    "lumbre": {
        "trunk.embedding": 4,
        "trunk.position": 4,
        **{f"trunk.blocks.{i}": 3 - i for i in range(3)},
        "trunk.final_norm": 0,
    },
}
"""The trunks' parameters by the start of their names; a head is at 0."""


@pytest.mark.parametrize("family", BUILDERS)
def test_a_steps_size_is_the_rate_times_the_decay_to_the_distance_from_the_top(family: str) -> None:
    """Adam's first step is the rate times the gradient's sign."""
    model, heads = build(family), head(family)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = AdamWConfig(learning_rate=1.0, weight_decay=0.0, epsilon=1e-300, layer_decay=DECAY)
    engine = AccelerateConfig(precision="float64").build(model, optimizer, 1)
    engine.backward(loss(engine.forward()))
    engine.step(RATE)
    for name, parameter in engine.module.named_parameters():
        (distance,) = [
            *(distance for start, distance in DISTANCES[family].items() if name.startswith(start)),
            *([0] if name in heads else []),
        ]
        moved = float((parameter.detach() - before[name]).abs().max())
        assert moved == pytest.approx(RATE * DECAY**distance, rel=1e-9)


@pytest.mark.parametrize("family", BUILDERS)
def test_without_decay_there_are_two_groups_at_the_full_rate(family: str) -> None:
    """Matrices decay and vectors do not, each in the model's order, and no name is looked at."""
    model = build(family)
    decaying, keeping = AdamWConfig(learning_rate=1.0).param_groups(model.named_parameters())
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    assert (decaying["weight_decay"], decaying["lr_scale"]) == (0.01, 1.0)
    assert (keeping["weight_decay"], keeping["lr_scale"]) == (0.0, 1.0)
    assert list(map(id, decaying["params"])) == list(map(id, matrices))
    assert list(map(id, keeping["params"])) == list(map(id, vectors))


@given(st.floats(0.01, 1.0), st.integers(0, 20))
def test_every_parameter_that_trains_is_in_one_group(decay: float, frozen: int) -> None:
    """Frozen blocks count for the distance of those that train."""
    named = {f"h.{i}.{kind}": torch.nn.Parameter(torch.zeros(2)) for i in range(10) for kind in ("a", "b")}
    for parameter in list(named.values())[:frozen]:
        parameter.requires_grad_(False)
    groups = AdamWConfig(learning_rate=1.0, layer_decay=decay).param_groups(named.items())
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(scales) == 20 - frozen
    for name, parameter in list(named.items())[frozen:]:
        assert scales[id(parameter)] == decay ** (10 - int(name.split(".")[1]))


@pytest.mark.parametrize(
    ("name", "distance"),
    [
        ("model.decoder.embed_positions.weight", 4),
        ("model.encoder.layernorm_embedding.weight", 4),
        ("model.shared.weight", 4),
        ("base_model.model.model.encoder.layers.0.q.lora_A.default.weight", 3),
        ("lm_head.weight", 0),
        ("gpt_neox.embed_in.weight", 4),
        ("embed_out.weight", 0),
        ("trunk.embedding_norm.bias", 4),
    ],
)
def test_names_of_other_families_are_placed(name: str, distance: int) -> None:
    """An encoder of three blocks and a decoder of two, and whatever else is called like parts of them."""
    prefix = "base_model.model." if name.startswith("base_model.") else ""
    blocks = [f"{prefix}model.encoder.layers.{i}.q.weight" for i in range(3)]
    blocks += [f"{prefix}model.decoder.layers.{i}.q.weight" for i in range(2)]
    assert distances([*blocks, name])[name] == distance


def test_a_decay_over_blocks_that_are_not_there_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"optimizer.layer_decay: the model's parameters are not named after"
    ):
        AdamWConfig(learning_rate=1.0, layer_decay=0.9).param_groups(torch.nn.Linear(2, 2).named_parameters())
