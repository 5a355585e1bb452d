"""Activation checkpointing changes memory alone."""

from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from lumbre.models import LanguageModel, Transformer, TransformerConfig

EVERY = pytest.mark.parametrize("recompute", ["selective", 1, 2, 4])


def build(**more: Any) -> LanguageModel:
    torch.manual_seed(0)
    keys = {"causal": True, "hidden_size": 32, "num_layers": 4, "num_heads": 4, "init_std": 0.2}
    keys |= {"position": {"type": "rotary"}, "layer_types": ["global", "local"], "window": 5}
    return LanguageModel(TransformerConfig.model_validate({**keys, **more}).build(50))


def step(model: LanguageModel, recompute: Any) -> tuple[torch.Tensor, list[torch.Tensor], int]:
    """Return loss, gradients and the bytes that the trunk's forward keeps for the backward."""
    for part in model.modules():
        if isinstance(part, Transformer):
            part.recompute = recompute
    model.zero_grad()
    kept: dict[int, int] = {}
    weights = {parameter.data_ptr() for parameter in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    input_ids = torch.randint(50, (4, 40), generator=torch.Generator().manual_seed(0))
    documents = torch.tensor([[1] * 15 + [2] * 20 + [0] * 5] * 4, dtype=torch.int32)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(input_ids, document_ids=documents, labels=input_ids)
    loss = output.loss if output.balance is None else output.loss + output.balance
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()], sum(kept.values())


@EVERY
@pytest.mark.parametrize("keys", [{}, {"mlp": {"type": "mixture_of_experts", "num_experts": 3}}], ids=str)
def test_loss_and_gradients_are_bit_identical(recompute: Any, keys: dict[str, Any]) -> None:
    model = build(**keys)
    loss, gradients, _ = step(model, "none")
    again, others, _ = step(model, recompute)
    assert torch.equal(loss, again)
    assert all(torch.equal(one, other) for one, other in zip(gradients, others, strict=True))


def test_whole_blocks_keep_less_than_selective_and_selective_less_than_none() -> None:
    model = build()
    none, selective, every, half = (step(model, one)[2] for one in ("none", "selective", 1, 2))
    assert half < every < none / 4
    assert selective < none


@EVERY
def test_evaluation_recomputes_nothing(recompute: Any) -> None:
    model = build().eval()
    for part in model.modules():
        if isinstance(part, Transformer):
            part.recompute = recompute
    calls: list[int] = []
    model.trunk.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    model(torch.randint(50, (1, 8))).logits.sum().backward()
    assert len(calls) == 1
