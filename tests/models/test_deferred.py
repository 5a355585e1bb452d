"""A model whose weights are drawn later has the weights that it would have had."""

from collections.abc import Iterator
from functools import partial
from typing import Any, get_args

import pytest
import torch
from torch import nn

from lumbre.models import Electra, LanguageModel, PairModel, TransformerConfig, generator_config
from lumbre.models.deferred import Deferred, deferring
from lumbre.models.init import Init

MODELS: dict[str, dict[str, Any]] = {
    "encoder": {"norm_position": "post", "embedding_norm": True, "head_transform": True, "head_bias": True},
    "decoder": {
        "causal": True,
        "scaled_residual_init": True,
        "position": {"type": "learned", "max_length": 9},
    },
    "gated": {"causal": True, "norm": "rmsnorm", "gated_mlp": True, "bias": False, "tied_embeddings": False},
    "mixture": {"mlp": {"type": "mixture_of_experts", "num_experts": 3, "shared_experts": 1}},
    "encoder-decoder": {"num_decoder_layers": 2, "position": {"type": "relative"}},
    "electra": {"position": {"type": "learned", "max_length": 9}},
    "segments": {"token_types": 2, "embedding_size": 8, "head_transform": True},
}


def build(name: str, scheme: Init) -> nn.Module:
    """Return a model of a kind, with its heads."""
    keys: dict[str, Any] = {"vocab_size": 61, "hidden_size": 16, "num_layers": 2, "num_heads": 2}
    keys |= {"causal": False, "position": {"type": "rotary"}}
    config = TransformerConfig.model_validate({**keys, **MODELS[name], "init": scheme})
    trunk = config.build()
    if name == "electra":
        return Electra(trunk, generator_config(config, 0.5, 1.0))
    return PairModel(trunk) if name == "segments" else LanguageModel(trunk)


def settling(deferred: Deferred, model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters in the order in which they are ready, with weights of their own."""
    for parameter in deferred.settle(model):
        parameter.data = parameter.data.clone()
        yield parameter


def settled(deferred: Deferred, model: nn.Module) -> list[nn.Parameter]:
    """Return them all."""
    return list(settling(deferred, model))


@pytest.mark.parametrize("scheme", get_args(Init))
@pytest.mark.parametrize("name", MODELS)
def test_weights_drawn_later_are_the_same_weights(name: str, scheme: Init) -> None:
    torch.manual_seed(0)
    plain, after = build(name, scheme), torch.rand(3)
    torch.manual_seed(0)
    with deferring() as deferred:
        model = build(name, scheme)
    before = {key: id(one) for key, one in model.named_parameters()}
    assert all(one.is_meta for one in model.parameters())
    ready = settled(deferred, model)
    assert {id(one) for one in ready} == set(before.values())
    assert {key: id(one) for key, one in model.named_parameters()} == before
    assert torch.equal(torch.rand(3), after)
    expected, found = plain.state_dict(), model.state_dict()
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key


def test_one_parameter_at_a_time_has_memory() -> None:
    """What has been taken is let go, and what comes is not there yet."""
    with deferring() as deferred:
        model = build("decoder", "normal")
    for parameter in deferred.settle(model):
        there = [one for one in model.parameters() if not one.is_meta and one.numel()]
        assert [id(one) for one in there] == [id(parameter)]
        parameter.data = torch.empty(0)


def test_a_model_that_reads_its_weights_has_to_be_built_as_usual() -> None:
    def tied(layer: nn.Linear, other: nn.Linear) -> None:
        layer.weight.copy_(other.weight)

    with torch.no_grad(), deferring():
        layer = nn.Linear(3, 3)
        with pytest.raises(RuntimeError, match="reads weights that are drawn later"):
            layer.weight.sum()
        with pytest.raises(RuntimeError, match="cannot be set from others"):
            tied(layer, nn.Linear(3, 3))
        with pytest.raises(RuntimeError, match=r"only weights made by torch\.empty"):
            nn.init.normal_(torch.zeros(3))


def test_random_numbers_in_between_are_found() -> None:
    with deferring() as deferred:
        model = build("encoder", "normal")
    torch.rand(1)
    with pytest.raises(AssertionError, match="in between"):
        settled(deferred, model)


@pytest.mark.parametrize("name", MODELS)
def test_weights_that_are_replaced_are_read_when_they_are_due_and_leave_the_others_as_they_were(
    name: str,
) -> None:
    """Some drawn, some not, some tied: as if they had been copied into a model built as usual."""
    torch.manual_seed(1)
    other = build(name, "normal").state_dict()
    torch.manual_seed(0)
    plain = build(name, "normal")
    chosen = [key for key, _ in plain.named_parameters()][::2]
    with torch.no_grad():
        for key in chosen:
            plain.get_parameter(key).copy_(other[key])
    after = torch.rand(3)
    torch.manual_seed(0)
    with deferring() as deferred:
        model = build(name, "normal")
    asked: list[str] = []

    def read(key: str) -> torch.Tensor:
        asked.append(key)
        return other[key]

    for key in chosen:
        deferred.replace(model.state_dict()[key], partial(read, key))
    assert not asked
    for ready, _ in enumerate(settling(deferred, model), 1):
        # Each when its turn comes: none lies in memory before.
        assert len(asked) <= ready
    assert sorted(asked) == sorted(chosen)
    assert torch.equal(torch.rand(3), after)
    for key, parameter in plain.named_parameters():
        assert torch.equal(model.get_parameter(key), parameter), key
