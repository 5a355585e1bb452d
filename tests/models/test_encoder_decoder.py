"""The encoder-decoder against torch's own Transformer, and its laws."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre.errors import ModelError
from lumbre.models import EncoderDecoder, LanguageModel, PositionConfig, TransformerConfig

VOCABULARY = 41
POSITIONS: dict[str, dict[str, Any]] = {"learned": {"max_length": 40}}
every_position = pytest.mark.parametrize("kind", sorted(PositionConfig.members))


def build(kind: str = "sinusoidal", **more: Any) -> LanguageModel:
    torch.manual_seed(1)
    keys = {"causal": False, "hidden_size": 24, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4}
    keys |= {"position": {"type": kind, **POSITIONS.get(kind, {})}, "init_std": 0.3}
    return LanguageModel(TransformerConfig.model_validate({**keys, **more}).build(VOCABULARY)).double()


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def copy_layer(ours: Any, theirs: Any) -> None:
    pairs = [(ours.attention, theirs.self_attn, ours.attention_norm, theirs.norm1)]
    last = theirs.norm2
    if ours.cross_attention is not None:
        pairs.append((ours.cross_attention, theirs.multihead_attn, ours.cross_attention_norm, theirs.norm2))
        last = theirs.norm3
    for mine, other, norm, other_norm in pairs:
        for kind in ("weight", "bias"):
            inner = getattr(other, f"in_proj_{kind}")
            if mine.qkv is not None:
                getattr(mine.qkv, kind).copy_(inner)
            else:
                getattr(mine.query, kind).copy_(inner[: mine.num_heads * mine.head_size])
                getattr(mine.key_value, kind).copy_(inner[mine.num_heads * mine.head_size :])
            getattr(mine.output, kind).copy_(getattr(other.out_proj, kind))
            getattr(norm, kind).copy_(getattr(other_norm, kind))
    parts = ((ours.mlp.up, theirs.linear1), (ours.mlp.down, theirs.linear2), (ours.mlp_norm, last))
    for mine, other in parts:
        for kind in ("weight", "bias"):
            getattr(mine, kind).copy_(getattr(other, kind))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@settings(max_examples=8, deadline=None)
@given(
    heads=st.integers(1, 3),
    depth=st.integers(1, 3),
    decoder_depth=st.integers(1, 3),
    pre_norm=st.booleans(),
    activation=st.sampled_from(["relu", "gelu"]),
)
def test_hidden_states_and_gradients_are_those_of_torchs_transformer(
    heads: int, depth: int, decoder_depth: int, pre_norm: bool, activation: str
) -> None:
    model = build(
        hidden_size=8 * heads,
        num_heads=heads,
        num_layers=depth,
        num_decoder_layers=decoder_depth,
        intermediate_size=20,
        norm_position="pre" if pre_norm else "post",
        final_norm=True,
        activation=activation,
    )
    theirs = torch.nn.Transformer(
        8 * heads, heads, depth, decoder_depth, 20, 0.0, activation, batch_first=True, norm_first=pre_norm
    ).double()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        for mine, other in ((model.trunk.encoder, theirs.encoder), (model.trunk.decoder, theirs.decoder)):
            for block, layer in zip(mine.blocks, other.layers, strict=True):
                copy_layer(block, layer)
            mine.final_norm.load_state_dict(other.norm.state_dict())
    sources, targets = tokens(2, 9), tokens(2, 6, seed=1)
    padding = torch.zeros(2, 9, dtype=torch.bool)
    padding[1, 5:] = True
    found = model(sources, (~padding).long(), decoder_input_ids=targets).last_hidden_state
    embed = model.trunk.encoder
    x, y = (
        embed.position.embed(embed.embedding(ids), torch.arange(ids.shape[1])[None])
        for ids in (sources, targets)
    )
    future = torch.ones(6, 6, dtype=torch.bool).triu(1)
    wanted = theirs(
        x,
        y,
        tgt_mask=future,
        src_key_padding_mask=padding,
        memory_key_padding_mask=padding,
        tgt_is_causal=True,
    )
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    weights = torch.randn(found.shape, dtype=torch.float64)
    shared = model.trunk.embedding.weight
    (mine,) = torch.autograd.grad((found * weights).sum(), shared, retain_graph=True)
    (other,) = torch.autograd.grad((wanted * weights).sum(), shared)
    torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


def test_both_stacks_and_the_head_share_one_embedding() -> None:
    model = build()
    assert isinstance(model.trunk, EncoderDecoder)
    shared = model.trunk.encoder.embedding.weight
    assert shared is model.trunk.decoder.embedding.weight is model.head.decoder.weight
    assert sum(parameter is shared for parameter in model.parameters()) == 1


@every_position
@torch.no_grad()
def test_packed_documents_read_their_own_source_alone(kind: str) -> None:
    model = build(kind)
    sources, targets = tokens(1, 12), tokens(1, 9, seed=1)
    documents = torch.tensor([[1] * 5 + [2] * 4 + [0] * 3], dtype=torch.int32)
    outputs = torch.tensor([[1] * 3 + [2] * 4 + [0] * 2], dtype=torch.int32)

    def logits(ids: torch.Tensor, decoder_ids: torch.Tensor) -> torch.Tensor:
        packed = {"document_ids": documents, "decoder_document_ids": outputs}
        found: torch.Tensor = model(ids, decoder_input_ids=decoder_ids, **packed).logits
        return found

    packed = logits(sources, targets)
    assert packed.isfinite().all()
    for document in (1, 2):
        alone = model(
            sources[documents == document][None], decoder_input_ids=targets[outputs == document][None]
        )
        torch.testing.assert_close(packed[outputs == document], alone.logits[0], rtol=1e-9, atol=1e-9)
        other = torch.where(documents == document, tokens(1, 12, seed=2), sources)
        again = logits(other, targets)
        assert torch.equal(again[outputs == 3 - document], packed[outputs == 3 - document])
        assert not torch.equal(again[outputs == document], packed[outputs == document])


@every_position
@torch.no_grad()
def test_the_decoder_sees_its_past_and_the_whole_source(kind: str) -> None:
    model = build(kind)
    sources, targets = tokens(1, 8), tokens(1, 6, seed=1)
    before = model(sources, decoder_input_ids=targets).logits
    changed = torch.cat([targets[:, :4], (targets[:, 4:] + 1) % VOCABULARY], dim=1)
    after = model(sources, decoder_input_ids=changed).logits
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4:], after[:, 4:])
    last = torch.cat([sources[:, :7], (sources[:, 7:] + 1) % VOCABULARY], dim=1)
    assert (model(last, decoder_input_ids=targets).logits != before).any(-1).all()


@torch.no_grad()
def test_padding_of_the_source_changes_nothing() -> None:
    model = build("relative")
    sources, targets = tokens(2, 8), tokens(2, 6, seed=1)
    mask = torch.ones(2, 8, dtype=torch.int64)
    mask[0, 5:] = 0
    padded = model(sources, mask, decoder_input_ids=targets).logits
    alone = model(sources[:1, :5], decoder_input_ids=targets[:1]).logits
    torch.testing.assert_close(padded[:1], alone, rtol=1e-9, atol=1e-9)


def test_documents_of_the_source_alone_are_refused() -> None:
    with pytest.raises(ModelError, match="give decoder_document_ids too"):
        build()(tokens(1, 4), document_ids=torch.tensor([[1, 1, 2, 2]]), decoder_input_ids=tokens(1, 3))
