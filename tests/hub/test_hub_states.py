"""Files with a head, without one, with another, older and damaged ones: what is read and what is named."""

from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre.errors import ModelError
from lumbre.hub.base import StateDictAdapter
from lumbre.hub.bert import Bert
from lumbre.hub.gpt2 import Gpt2
from lumbre.hub.roberta import Roberta
from lumbre.hub.t5 import T5
from tests.hub.families import FAMILIES, PAD_ID, paired

families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 9}


@families
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_a_trunk_is_read_from_a_file_with_any_head_or_none(family: Any, data: st.DataObject) -> None:
    adapter, theirs, ours = paired(*data.draw(family()))
    whole = theirs.state_dict()
    wanted = adapter.from_hf_state(ours.config, whole)
    trunk = {name: tensor for name, tensor in wanted.items() if name.startswith("trunk.")}
    bare = {name: tensor for name, tensor in whole.items() if name != "lm_head.weight"}
    states = [whole, bare]
    if adapter.prefix:
        own = {name: tensor for name, tensor in whole.items() if name.startswith(adapter.prefix)}
        bare = {name.removeprefix(adapter.prefix): tensor for name, tensor in own.items()}
        states += [bare, {**own, "classifier.weight": torch.ones(2, 2)}]
    for state in states:
        found = adapter.from_hf_state(ours.config, state, head=False)
        assert found.keys() == trunk.keys()
        assert all(torch.equal(found[name], trunk[name]) for name in trunk)
    if wanted.keys() == trunk.keys():
        assert adapter.from_hf_state(ours.config, bare).keys() == trunk.keys()
    else:
        with pytest.raises(ModelError, match=r"no language-model head.*model\.new_head: true starts a"):
            adapter.from_hf_state(ours.config, bare)


@families
@settings(max_examples=2, deadline=None)
@given(data=st.data())
def test_tied_tensors_that_differ_are_refused(family: Any, data: st.DataObject) -> None:
    adapter, theirs, ours = paired(*data.draw(family()))
    twins = adapter.twins(ours.config)
    for twin, name in twins.items():
        state = theirs.state_dict()
        state[twin] = state[name] + 1
        with pytest.raises(ModelError, match=f"ties {twin} to {name}: they differ"):
            adapter.from_hf_state(ours.config, state)
    assert bool(twins) == (ours.config.tied_embeddings or isinstance(adapter, T5))


def test_a_bare_gpt2_and_older_files_are_read() -> None:
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=20, n_positions=8)
    bare = transformers.GPT2Model(config)
    state = {**bare.state_dict(), "h.0.attn.bias": torch.ones(1, 1, 8, 8)}
    ours = Gpt2().from_hf_config(config.to_dict())
    found = Gpt2().from_hf_state(ours, state)
    assert torch.equal(found["trunk.embedding.weight"], bare.wte.weight)


def test_older_berts_names_are_read_and_their_other_heads_left_out() -> None:
    theirs = transformers.BertForPreTraining(transformers.BertConfig(vocab_size=20, **SMALL))
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in theirs.state_dict().items()
    }
    found = Bert().from_hf_state(Bert().from_hf_config(theirs.config.to_dict()), state)
    assert torch.equal(found["head.norm.bias"], theirs.cls.predictions.transform.LayerNorm.bias)


@pytest.mark.parametrize(
    ("adapter", "made", "config"),
    [
        (Bert(), transformers.BertModel, transformers.BertConfig(vocab_size=20, **SMALL)),
        (
            Roberta(),
            transformers.RobertaModel,
            transformers.RobertaConfig(
                vocab_size=20, max_position_embeddings=16, pad_token_id=PAD_ID, **SMALL
            ),
        ),
    ],
    ids=["bert", "roberta"],
)
def test_a_bare_trunks_pooler_is_left_out(adapter: StateDictAdapter, made: Any, config: Any) -> None:
    bare = made(config).state_dict()
    assert "pooler.dense.weight" in bare
    found = adapter.from_hf_state(adapter.from_hf_config(config.to_dict()), bare, head=False)
    rows = found["trunk.position.embedding.weight"]
    assert torch.equal(rows, bare["embeddings.position_embeddings.weight"][-len(rows) :])


@pytest.mark.parametrize("change", ["missing", "extra", "misshapen"])
def test_a_damaged_trunk_is_named_with_and_without_a_head(change: str) -> None:
    config = transformers.RobertaConfig(vocab_size=20, max_position_embeddings=16, **SMALL)
    state = transformers.RobertaForMaskedLM(config).state_dict()
    name = "roberta.embeddings.position_embeddings.weight"
    if change == "missing":
        del state[name]
    state |= {"extra": {"roberta.new": torch.ones(2)}, "misshapen": {name: torch.ones(13, 8)}}.get(change, {})
    words = {
        "missing": f"{name} is missing",
        "extra": "roberta.new is not part of",
        "misshapen": r"\(13, 8\), \(14, 8\) is expected",
    }
    for head in (True, False):
        with pytest.raises(ModelError, match=words[change]):
            Roberta().from_hf_state(Roberta().from_hf_config(config.to_dict()), state, head=head)
