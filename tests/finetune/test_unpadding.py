"""Encoders without padding: the same logits and gradients, whatever the lengths; nothing of it is saved."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    CamembertConfig,
    ElectraConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from finetune.unpadding import ENCODERS, is_unpadded, unpad

CONFIGS = (BertConfig, RobertaConfig, XLMRobertaConfig, CamembertConfig, ElectraConfig)
HEADS = (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoModelForQuestionAnswering,
)


def made(kind: Any, head: Any, implementation: str = "sdpa") -> nn.Module:
    """Return a small random model in float64, without dropout."""
    torch.manual_seed(0)
    wide = {"embedding_size": 16} if kind is ElectraConfig else {}
    config = kind(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=48,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **wide,
    )
    model = head.from_config(config, attn_implementation=implementation).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def batch(lengths: list[int], left: bool = False) -> dict[str, torch.Tensor]:
    """Return random rows of these lengths, padded."""
    time = torch.arange(max(lengths))
    mask = (time < torch.tensor(lengths)[:, None]).long()
    mask = mask.flip(1) if left else mask
    ids = torch.randint(5, 60, mask.shape, generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids.where(mask.bool(), torch.tensor(1)), "attention_mask": mask}


def measured(
    model: nn.Module, rows: dict[str, torch.Tensor]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return the outputs where there are tokens, and the gradients of a function of them."""
    model.zero_grad()
    there = rows["attention_mask"].bool()
    outputs = [
        tensor[there] if tensor.shape[:2] == there.shape else tensor for tensor in model(**rows).to_tuple()
    ]
    torch.stack([output.sin().sum() for output in outputs]).sum().backward()
    return outputs, [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.model_type)
def test_every_family_and_head_computes_the_same(kind: Any, head: Any) -> None:
    padded = made(kind, head)
    unpadded = unpad(copy.deepcopy(padded))
    assert (is_unpadded(padded), is_unpadded(unpadded)) == (False, True)
    rows = batch([7, 30, 1, 12, 12, 3, 21])
    for one, two in zip(measured(padded, rows), measured(unpadded, rows), strict=True):
        assert len(one) == len(two) > 0
        for wanted, found in zip(one, two, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-11)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=9), st.booleans(), st.sampled_from(["sdpa", "eager"])
)
def test_any_lengths_and_padding_on_either_side(lengths: list[int], left: bool, implementation: str) -> None:
    padded = made(BertConfig, AutoModelForTokenClassification, implementation)
    unpadded = unpad(copy.deepcopy(padded))
    rows = batch(lengths, left)
    there = rows["attention_mask"].bool()
    with torch.no_grad():
        wanted, found = (model(**rows).logits[there] for model in (padded, unpadded))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-11)


def test_the_blocks_see_the_tokens_and_no_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of as many positions as there are tokens."""
    model: Any = unpad(made(BertConfig, AutoModelForSequenceClassification))
    seen = []
    model.bert.encoder.layer[0].intermediate.register_forward_hook(
        lambda module, given, output: seen.append(tuple(output.shape[:2]))
    )
    model(**batch([7, 30, 1]))
    model(**batch([5, 5]))
    assert seen == [(1, 38), (2, 5)]


def test_a_saved_model_knows_nothing_of_it(tmp_path: Path) -> None:
    model: Any = unpad(made(BertConfig, AutoModelForSequenceClassification))
    model.save_pretrained(tmp_path)
    assert "lumbre" not in json.dumps(json.loads((tmp_path / "config.json").read_text()))
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float64)
    rows = batch([7, 30, 1])
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(**rows).logits, model.eval()(**rows).logits)


def test_activations_may_be_computed_again() -> None:
    """What engine.activation_checkpointing turns on."""
    model: Any = unpad(made(BertConfig, AutoModelForSequenceClassification)).train()
    rows = batch([7, 30, 1])
    plain = measured(model, rows)
    model.activation_checkpointing_enable({"use_reentrant": False})
    for one, two in zip(plain, measured(model, rows), strict=True):
        for wanted, found in zip(one, two, strict=True):
            torch.testing.assert_close(found, wanted)


def test_the_families_named_are_those_of_transformers() -> None:
    found = {type(module).__name__ for kind in CONFIGS for module in made(kind, AutoModel).modules()}
    assert set(ENCODERS) <= found
