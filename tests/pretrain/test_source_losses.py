"""A mixture's sources have a loss each, which adds nothing to the gradient."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre.models import NO_TARGET, LanguageModel, TransformerConfig
from lumbre.models.position import LearnedConfig
from pretrain.objectives.clm import Clm

SOURCES = ("web", "code", "books")
CONFIG = TransformerConfig(
    causal=True,
    hidden_size=8,
    num_layers=1,
    num_heads=2,
    vocab_size=23,
    position=LearnedConfig(max_length=16),
)


def case(source, share, seed=0):
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(23, (len(source), 9), generator=generator)
    labels = torch.randint(23, (len(source), 9), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) >= share] = NO_TARGET
    return {
        "input_ids": input_ids,
        "position_ids": torch.arange(9).expand_as(input_ids),
        "document_ids": torch.ones_like(input_ids, dtype=torch.int32),
        "labels": labels,
        "source": torch.tensor(source),
    }


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=6), st.sampled_from([0.0, 0.3, 1.0]), st.integers(0, 9)
)
def test_each_sources_loss_is_that_of_its_rows(source, share, seed):
    torch.manual_seed(seed)
    model = LanguageModel(CONFIG.build()).double()
    batch, plain, objective = case(source, share, seed), Clm(), Clm()
    objective.sources = SOURCES
    terms = objective.loss(model, batch).terms
    gradients = torch.autograd.grad(
        torch.stack([term.sum * term.weight for term in terms.values()]).sum(), model.parameters()
    )
    alone = plain.loss(model, batch).terms
    assert list(alone) == ["loss"]
    for one, other in zip(gradients, torch.autograd.grad(alone["loss"].sum, model.parameters()), strict=True):
        assert torch.equal(one, other)
    logits = model(batch["input_ids"]).logits
    for number, name in enumerate(SOURCES):
        rows = batch["source"] == number
        wanted = F.cross_entropy(logits[rows].flatten(0, 1), batch["labels"][rows].flatten(), reduction="sum")
        term = terms[f"source/{name}"]
        assert float(term.sum) == pytest.approx(float(wanted.detach()), abs=1e-12)
        assert term.count == int((batch["labels"][rows] != NO_TARGET).sum())
        assert objective.counts(batch)[f"source/{name}"] == term.count
