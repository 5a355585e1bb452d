"""Replaced-token detection: its rows, its losses beside transformers' own, and what it needs."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre import hub
from lumbre.distributed import Stream
from lumbre.models import NO_TARGET, Electra, TransformerConfig
from lumbre.tokenizer import BpeConfig, WordPieceConfig
from pretrain.objectives import ReplacedTokenConfig
from pretrain.objectives.base import Row
from pretrain.objectives.replaced_token import ReplacedToken

TOKENIZER = WordPieceConfig(vocab_size=512, min_frequency=1).build(["the quick brown fox jumps over " * 20])
SHAPE: dict[str, Any] = {
    "causal": False,
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "position": {"type": "learned", "max_length": 64},
    "norm_position": "post",
    "norm_epsilon": 1e-12,
    "embedding_norm": True,
    "head_transform": True,
    "head_bias": True,
    "token_types": 2,
    "init_std": 0.3,
}


def within_three_sigma(count: float, trials: int, probability: float) -> None:
    """Assert that a binomial count is no more than three standard deviations off."""
    assert abs(count - trials * probability) <= 3 * math.sqrt(trials * probability * (1 - probability))


def build(seed: int = 5, **keys: Any) -> ReplacedToken:
    return ReplacedTokenConfig.model_validate(keys).build(TOKENIZER, seed)


def row(length: int, kept: int, seed: int = 0) -> Row:
    """Return a document of ordinary tokens between [CLS] and [SEP], then padding."""
    ordinary = sorted(set(range(TOKENIZER.vocab_size)) - TOKENIZER.special_ids)
    ids = np.random.default_rng(seed).choice(ordinary, length)
    ids[0], ids[kept - 1], ids[kept:] = TOKENIZER.cls_id, TOKENIZER.sep_id, TOKENIZER.pad_id
    return {
        "input_ids": ids,
        "position_ids": np.arange(length) * (np.arange(length) < kept),
        "document_ids": (np.arange(length) < kept).astype(np.int32),
    }


def batch_of(objective: ReplacedToken, rows: int, length: int = 48) -> dict[str, torch.Tensor]:
    samples = [objective.apply(row(length, length - 3 * (at % 4), at), at) for at in range(rows)]
    return {key: torch.from_numpy(np.stack([one[key] for one in samples])) for key in samples[0]}


def test_rows_are_masked_as_published_and_hold_what_stood_there() -> None:
    """15% of ordinary tokens are targets, of which 85% are masked and none random; within 3 sigma."""
    original = row(200_000, 199_000)
    noised = build().apply(original, 0)
    target = noised["labels"] != NO_TARGET
    within_three_sigma(int(target.sum()), 198_998, 0.15)
    masked = noised["input_ids"] == TOKENIZER.mask_id
    within_three_sigma(int(masked.sum()), int(target.sum()), 0.85)
    assert np.array_equal(noised["input_ids"][~masked], original["input_ids"][~masked])
    asked = noised["original_labels"] != NO_TARGET
    assert np.array_equal(asked, original["document_ids"] != 0)
    assert np.array_equal(noised["original_labels"][asked], original["input_ids"][asked])
    uniform = noised["uniform"]
    assert uniform.dtype == np.float32
    assert 0 <= uniform.min() <= uniform.max() < 1
    for tenth in range(1, 10):
        within_three_sigma(int((uniform < tenth / 10).sum()), len(uniform), tenth / 10)


def test_what_is_not_said_of_masking_is_as_published() -> None:
    config = ReplacedTokenConfig.model_validate({"mlm": {"mask_probability": 0.25}})
    assert (config.mlm.mask_probability, config.mlm.replace_with_mask, config.mlm.replace_with_random) == (
        0.25,
        0.85,
        0.0,
    )
    assert ReplacedTokenConfig.model_validate(config.model_dump(mode="json")) == config


@settings(max_examples=20, deadline=None)
@given(sample=st.integers(0, 2**40), seed=st.integers(0, 2**63 - 1))
def test_what_is_drawn_is_a_function_of_seed_and_sample(sample: int, seed: int) -> None:
    original = row(64, 60)
    one, two = (build(seed).apply(original, sample) for _ in range(2))
    assert all(np.array_equal(one[key], two[key]) for key in one)
    for other in (
        build(seed).apply(original, sample + 1),
        build(seed ^ 1).apply(original, sample),
        build(seed).apply(original, sample, Stream.EVALUATION_NOISE),
    ):
        assert not np.array_equal(one["uniform"], other["uniform"])


def test_the_losses_are_those_of_transformers_classes_with_the_exported_weights(tmp_path: Path) -> None:
    """Reference: ElectraForMaskedLM and ElectraForPreTraining in float64, and the published sum of both."""
    torch.manual_seed(0)
    objective = build(generator_size=0.5)
    model = objective.attach_head(TransformerConfig.model_validate(SHAPE).build(TOKENIZER.vocab_size))
    assert isinstance(model, Electra)
    batch = batch_of(objective, 6)
    theirs: dict[str, Any] = {}
    for ending, part in objective.exports(model).items():
        folder = hub.save(part, None, tmp_path / f"model{ending}")
        hub.verify_export(part, folder)
        auto = transformers.AutoModelForMaskedLM if ending else transformers.AutoModelForPreTraining
        theirs[ending] = auto.from_pretrained(folder, dtype=torch.float64)
    assert type(theirs[""]).__name__ == "ElectraForPreTraining"
    assert type(theirs["-generator"]).__name__ == "ElectraForMaskedLM"
    terms = objective.loss(model.double(), batch).terms
    mask = (batch["document_ids"] != 0).long()
    generated = theirs["-generator"](batch["input_ids"], attention_mask=mask, labels=batch["labels"])
    assert terms["loss"].sum.item() / terms["loss"].count == pytest.approx(generated.loss.item(), rel=1e-9)
    target = batch["labels"] != NO_TARGET
    sums = generated.logits[target].softmax(dim=1).cumsum(dim=1)
    drawn = (sums < batch["uniform"][target].double()[:, None]).sum(dim=1)
    read = batch["input_ids"].clone()
    read[target] = drawn
    replaced = (mask != 0) & (read != batch["original_labels"])
    assert 0 < replaced.sum() < target.sum()
    found = theirs[""](read, attention_mask=mask, labels=replaced.long())
    detection = terms["detection"]
    # Theirs is rounded to float32.
    assert detection.sum.item() / detection.count == pytest.approx(found.loss.item(), rel=1e-6)
    assert detection.count == mask.sum()
    assert (terms["loss"].weight, detection.weight) == (1.0, 50.0)


def test_as_many_tokens_are_replaced_as_the_generator_gets_wrong() -> None:
    """Within 3 sigma of what its probabilities of the right tokens say."""
    torch.manual_seed(1)
    objective = build()
    model = objective.attach_head(TransformerConfig.model_validate(SHAPE).build(TOKENIZER.vocab_size))
    assert isinstance(model, Electra)
    batch = batch_of(objective, 400)
    # A head that knows the token that is there, so that some are restored.
    inputs = {name: batch[name] for name in objective.inputs}
    inputs["input_ids"] = batch["original_labels"].clamp(min=0)
    with torch.no_grad():
        model.generator.head.decoder.weight.mul_(2)
        replaced = model(**inputs).replaced_BT
        plain = {name: inputs[name] for name in ("input_ids", "position_ids", "document_ids")}
        target = batch["labels"] != NO_TARGET
        logits = model.generator(**plain).logits[target]
        right = logits.softmax(dim=1).gather(1, batch["labels"][target][:, None])[:, 0].double()
    assert not replaced[~target].any()
    wrong, spread = (1 - right).sum().item(), math.sqrt((right * (1 - right)).sum().item())
    assert 0.02 * len(right) < right.sum().item()
    assert abs(int(replaced.sum()) - wrong) < 3 * spread


def test_what_it_needs_is_told_early() -> None:
    config = ReplacedTokenConfig()
    assert not list(config.misfits(WordPieceConfig(), 128))
    (problem,) = config.misfits(BpeConfig(), 128)
    assert (problem.key, "[MASK]" in problem.fault) == ("tokenizer.type", True)
    keys = {**SHAPE, "mlp": {"type": "mixture_of_experts", "num_experts": 2}}
    (problem,) = config.model_misfits(TransformerConfig.model_validate(keys))
    assert problem.key == "model.mlp"
    assert not list(config.model_misfits(TransformerConfig.model_validate(SHAPE)))
