"""Law 5, for every position encoding, encoder and decoder, float32 and bfloat16."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lumbre.models import LanguageModel, PositionConfig, TransformerConfig
from lumbre.models.attention import Pattern
from lumbre.models.attention.dense import dense

VOCABULARY = 61
POSITIONS: dict[str, dict[str, Any]] = {"learned": {"max_length": 1200}}

every_model = pytest.mark.parametrize(
    ("kind", "causal", "dtype"),
    [
        (kind, causal, dtype)
        for kind in sorted(PositionConfig.members)
        for causal in (False, True)
        for dtype in (torch.float32, torch.bfloat16)
    ],
)


def build(kind: str, causal: bool, dtype: torch.dtype, **more: Any) -> LanguageModel:
    torch.manual_seed(1)
    keys = {"causal": causal, "hidden_size": 24, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2}
    keys |= {"position": {"type": kind, **POSITIONS.get(kind, {})}, "init_std": 0.3, "norm": "rmsnorm"}
    config = TransformerConfig.model_validate({**keys, **more})
    return LanguageModel(config.build(VOCABULARY)).to(dtype)


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


@every_model
@torch.no_grad()
def test_packed_documents_do_not_see_each_other(kind: str, causal: bool, dtype: torch.dtype) -> None:
    model = build(kind, causal, dtype)
    # Long enough for SDPA's kernels to go through a row in several blocks, some of them wholly masked.
    spans = (300, 400, 350) if dtype is torch.float32 else (5, 9, 4)
    ids = torch.arange(1, 4).repeat_interleave(torch.tensor(spans))
    document_ids = torch.cat([ids, torch.zeros(3)]).int()[None].repeat(2, 1)
    input_ids = tokens(*document_ids.shape)
    for edited in (0, 1, 2, 3):
        others = tokens(*document_ids.shape, seed=1)
        changed = torch.where(document_ids == edited, others, input_ids)
        before = model(input_ids, document_ids=document_ids).logits
        after = model(changed, document_ids=document_ids).logits
        assert before.isfinite().all()
        assert before.dtype == dtype
        neighbours = (document_ids != edited) & (document_ids != 0)
        assert torch.equal(before[neighbours], after[neighbours])
        assert not torch.equal(before[document_ids == edited], after[document_ids == edited])


@every_model
@torch.no_grad()
def test_a_packed_document_is_as_it_is_alone(kind: str, causal: bool, dtype: torch.dtype) -> None:
    model = build(kind, causal, dtype).double()
    first, second = tokens(1, 7), tokens(1, 12, seed=1)
    document_ids = torch.tensor([[1] * 7 + [2] * 12], dtype=torch.int32)
    packed = model(torch.cat([first, second], dim=1), document_ids=document_ids).logits
    alone = torch.cat([model(first).logits, model(second).logits], dim=1)
    torch.testing.assert_close(packed, alone, rtol=1e-9, atol=1e-9)


@every_model
@torch.no_grad()
def test_causal_model_never_sees_the_future_and_an_encoder_does(
    kind: str, causal: bool, dtype: torch.dtype
) -> None:
    model = build(kind, causal, dtype)
    input_ids = tokens(2, 16)
    changed = input_ids.clone()
    changed[:, 9:] = tokens(2, 7, seed=1)
    before, after = model(input_ids).logits, model(changed).logits
    assert torch.equal(before[:, :9], after[:, :9]) == causal


every_decoder = pytest.mark.parametrize("kind", sorted(PositionConfig.members))


@every_decoder
@torch.no_grad()
def test_a_prefix_is_seen_both_ways_and_the_rest_never_sees_the_future(kind: str) -> None:
    model = build(kind, True, torch.float32)
    prefix = torch.arange(16)[None].expand(2, -1) < 6
    input_ids = tokens(2, 16)
    before = model(input_ids, prefix_mask=prefix).logits
    for edited in range(16):
        changed = input_ids.clone()
        changed[:, edited] = (changed[:, edited] + 1) % VOCABULARY
        after = model(changed, prefix_mask=prefix).logits
        same = (before == after).all(2).all(0)
        first = 0 if edited < 6 else edited
        assert same[:first].all()
        assert not same[first:].any()


@every_decoder
@torch.no_grad()
def test_packed_prefixes_do_not_see_each_other(kind: str) -> None:
    """Nor does padding that claims to be of a prefix change anything."""
    model = build(kind, True, torch.float32)
    lengths, cuts = (300, 400, 350), (120, 399, 1)
    document_ids = torch.tensor([[1] * 300 + [2] * 400 + [3] * 350 + [0] * 5], dtype=torch.int32)
    prefix = torch.cat([torch.arange(n) < cut for n, cut in zip(lengths, cuts, strict=True)])
    prefix = torch.cat([prefix, torch.ones(5, dtype=torch.bool)])[None]
    input_ids = tokens(1, 1055)
    before = model(input_ids, document_ids=document_ids, prefix_mask=prefix).logits
    for edited in (0, 1, 2, 3):
        changed = torch.where(document_ids == edited, tokens(1, 1055, seed=1), input_ids)
        after = model(changed, document_ids=document_ids, prefix_mask=prefix).logits
        neighbours = (document_ids != edited) & (document_ids != 0)
        assert torch.equal(before[neighbours], after[neighbours])
    one = torch.tensor([[1] * 9 + [0] * 3], dtype=torch.int32)
    claims = torch.tensor([[True] * 4 + [False] * 5 + [True] * 3])
    padded = model.double()(tokens(1, 12), document_ids=one, prefix_mask=claims).logits[:, :9]
    alone = model(tokens(1, 12)[:, :9], prefix_mask=claims[:, :9]).logits
    torch.testing.assert_close(padded, alone, rtol=1e-10, atol=1e-10)


@every_decoder
@torch.no_grad()
def test_a_prefix_of_nothing_is_causal_and_one_of_everything_is_an_encoder(kind: str) -> None:
    decoder, encoder = (build(kind, causal, torch.float64) for causal in (True, False))
    encoder.load_state_dict(decoder.state_dict())
    input_ids, every = tokens(2, 16), torch.ones(2, 16, dtype=torch.bool)
    nothing = decoder(input_ids, prefix_mask=~every).logits
    torch.testing.assert_close(nothing, decoder(input_ids).logits, rtol=1e-12, atol=1e-12)
    everything = decoder(input_ids, prefix_mask=every).logits
    if kind != "relative":  # its buckets of a decoder lie on one side
        torch.testing.assert_close(everything, encoder(input_ids).logits, rtol=1e-12, atol=1e-12)
    assert torch.equal(encoder(input_ids, prefix_mask=~every).logits, encoder(input_ids).logits)


@every_model
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_changes_nothing(kind: str, causal: bool, dtype: torch.dtype, side: str) -> None:
    model = build(kind, causal, dtype)
    mask = torch.ones(3, 14, dtype=torch.int64)
    mask[0, :4] = 0
    mask[1, :] = 0
    mask = mask if side == "left" else mask.flip(1)
    input_ids = tokens(3, 14)
    changed = torch.where(mask == 0, tokens(3, 14, seed=1), input_ids)
    before, after = model(input_ids, mask).logits, model(changed, mask).logits
    assert before.isfinite().all()
    assert torch.equal(before[mask != 0], after[mask != 0])
    wide = model.double()
    position_ids = (mask.cumsum(1) - 1).clamp(min=0)
    padded = wide(input_ids, mask, position_ids=position_ids).logits[0][mask[0] != 0]
    torch.testing.assert_close(padded, wide(input_ids[:1, mask[0] != 0]).logits[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_stay_finite_where_a_row_is_all_padding(causal: bool) -> None:
    model = build("rotary", causal, torch.float32)
    mask = torch.tensor([[0] * 8, [0] * 3 + [1] * 5])
    model(tokens(2, 8), mask).logits[mask != 0].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_one_document_needs_no_mask_and_gets_the_same_logits(causal: bool) -> None:
    model = build("rotary", causal, torch.float64)
    input_ids = tokens(2, 10)
    plain = model(input_ids).logits
    one = model(input_ids, document_ids=torch.full((2, 10), 3, dtype=torch.int32)).logits
    assert torch.equal(plain, one)
    padded = torch.ones(2, 10, dtype=torch.int32)
    padded[0, 6:] = 0
    half = model(input_ids, document_ids=padded).logits
    torch.testing.assert_close(half[1], plain[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(half[0, :6], model(input_ids[:, :6]).logits[0], rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_grouped_queries_are_full_heads_with_shared_keys_and_values() -> None:
    grouped = build("alibi", True, torch.float64)
    full = build("alibi", True, torch.float64, num_kv_heads=4)
    state = grouped.state_dict()
    for name in [name for name in state if name.endswith("qkv.weight")]:
        q, k, v = state[name].split([24, 12, 12])
        k, v = (x.view(2, 6, 24).repeat_interleave(2, dim=0).reshape(24, 24) for x in (k, v))
        state[name] = torch.cat([q, k, v])
    for name in [name for name in state if name.endswith("qkv.bias")]:
        state[name] = torch.zeros(72, dtype=torch.float64)
    full.load_state_dict(state)
    input_ids = tokens(2, 11)
    torch.testing.assert_close(full(input_ids).logits, grouped(input_ids).logits, rtol=1e-10, atol=1e-10)


@given(
    causal=st.booleans(),
    window=st.none() | st.integers(0, 5),
    documents=st.lists(st.lists(st.integers(0, 3), min_size=7, max_size=7), min_size=1, max_size=3),
)
def test_a_token_that_attends_to_its_own_row_always_sees_a_key(
    causal: bool, window: int | None, documents: list[list[int]]
) -> None:
    """So that the softmax need not look for rows without one; queries of another row may have none."""
    documents_BT = torch.tensor(documents)
    pattern = Pattern(causal, window, documents_BT, documents_BT)
    allowed = pattern.allowed(7, 7, documents_BT.device)
    assert allowed is None or allowed.any(-1).all()
    assert not dense(pattern, torch.zeros(len(documents), 7, 4), 7).empty


def test_a_query_that_sees_no_key_gets_zeros() -> None:
    pattern = Pattern(False, None, torch.tensor([[1, 2]]), torch.tensor([[1, 1, 3]]))
    q, k, v = (torch.randn(1, length, 2, 4) for length in (2, 3, 3))
    y = dense(pattern, torch.zeros(1, 2, 8), 3)(q, k, v, None)
    assert y.isfinite().all()
    assert y[:, 0].any()
    assert not y[:, 1].any()
