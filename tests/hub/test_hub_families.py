"""Law 6: the families' own classes in transformers and our Transformer compute the same, both ways."""

from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre.hub.base import StateDictAdapter
from lumbre.hub.bert import Bert
from lumbre.hub.electra import ElectraGenerator
from lumbre.hub.llama import Llama
from lumbre.hub.qwen3 import Qwen3
from lumbre.hub.roberta import Roberta
from tests.hub.families import ADAPTERS, FAMILIES, SPECIAL, double_rotation, inputs, paired, read, to_double

families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)


@families
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_logits_are_transformers_own(family: Any, data: st.DataObject) -> None:
    pair = paired(*data.draw(family()))
    for padded in (False, True):
        batch = inputs(pair, padded)
        with torch.no_grad():
            wanted, found = (one(**batch).logits[read(batch)] for one in (pair.theirs, pair.ours))
            exact = deepcopy(pair.theirs).double()(**batch).logits[read(batch)]
        # Random weights can be such that float32 itself is no nearer.
        rounding = 4 * (wanted - exact).abs().max().item()
        assert (found - wanted).abs().max() <= max(1e-5 * max(1.0, wanted.abs().max().item()), rounding)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 3.0},
        {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 0.5, "high_freq_factor": 2.0},
        {"rope_type": "yarn", "factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "beta_fast": 4.0, "beta_slow": 0.01, "attention_factor": 1.5},
    ],
    ids="-".join,
)
@pytest.mark.parametrize("adapter", [Llama(), Qwen3()], ids=lambda adapter: adapter.model_type)
def test_stretched_positions_are_transformers_own(adapter: StateDictAdapter, rope: dict[str, Any]) -> None:
    original = {} if rope["rope_type"] == "linear" else {"original_max_position_embeddings": 8}
    made = getattr(transformers, adapter.architecture)
    config = made.config_class(
        vocab_size=40,
        hidden_size=16,
        head_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        rope_parameters={"rope_theta": 10_000.0, **rope, **original},
    )
    pair = paired(adapter, made(config))
    batch = inputs(pair, padded=False)
    with torch.no_grad():
        wanted, found = (one(**batch).logits for one in (pair.theirs, pair.ours))
    assert (found - wanted).abs().max() <= 1e-5 * max(1.0, wanted.abs().max().item())
    written = adapter.to_hf_config(pair.ours.config, None)["rope_parameters"]
    assert {key: written[key] for key in rope} == rope


@families
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_logits_and_gradients_are_transformers_own_in_float64(family: Any, data: st.DataObject) -> None:
    pair = to_double(paired(*data.draw(family())))
    batch = inputs(pair, padded=True)
    kept = read(batch)
    labels = torch.arange(kept.sum()) % pair.ours.config.vocab_size
    losses = []
    for one in (pair.theirs, pair.ours):
        with double_rotation():
            losses.append(F.cross_entropy(one(**batch).logits[kept], labels))
        losses[-1].backward()
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-9)
    gradients = deepcopy(pair.ours)
    for parameter, source in zip(gradients.parameters(), pair.ours.parameters(), strict=True):
        assert source.grad is not None
        parameter.data = source.grad
    found = pair.adapter.to_hf_state(gradients, SPECIAL)
    wanted = {name: parameter.grad for name, parameter in pair.theirs.named_parameters()}
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        scale = max(gradient.norm().item(), 1e-3)
        assert (found[name] - gradient).norm().item() <= 1e-9 * scale, name


@families
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_weights_and_config_come_back_as_they_went(family: Any, data: st.DataObject) -> None:
    adapter, theirs, ours = paired(*data.draw(family()))
    config = ours.config
    fitting = {type(other) for other in ADAPTERS if other.misfit(config) is None}
    assert type(adapter) in fitting
    assert len(fitting) == 1 or fitting <= {Bert, Roberta, ElectraGenerator}
    again = adapter.from_hf_config(adapter.to_hf_config(config, SPECIAL))
    assert again.model_dump(serialize_as_any=True) == config.model_dump(serialize_as_any=True)
    state = adapter.to_hf_state(ours, SPECIAL)
    full = theirs.state_dict()
    assert set(state) <= set(full)
    assert all(torch.equal(state[name], full[name]) for name in state)
    tied = {full[name].data_ptr() for name in set(full) - set(state)}
    assert tied <= {full[name].data_ptr() for name in state}


@families
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_what_we_write_is_what_their_class_loads(family: Any, data: st.DataObject) -> None:
    adapter, theirs, ours = pair = paired(*data.draw(family()))
    config = type(theirs.config)(**adapter.to_hf_config(ours.config, SPECIAL))
    state = adapter.to_hf_state(ours, SPECIAL)
    loaded, info = type(theirs).from_pretrained(
        None, config=config, state_dict=state, output_loading_info=True
    )
    assert not any(info[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    batch = inputs(pair, padded=True)
    with torch.no_grad():
        wanted, found = (one(**batch).logits[read(batch)] for one in (theirs, loaded.eval()))
    assert torch.equal(wanted, found)
