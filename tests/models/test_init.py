"""Fresh weights have the spread that each paper gives them."""

from typing import Any, get_args

import pytest
import torch
import transformers
from torch import Tensor, nn

from lumbre.models.attention import Attention
from lumbre.models.init import Init, init_weights, scale_residual_init
from lumbre.models.mixture import MixtureConfig, MixtureOfExperts
from lumbre.models.mlp import Mlp
from lumbre.models.position import RelativeConfig

STD = 0.03
D, N, K, H, I = 128, 16, 8, 32, 192  # noqa: E741
CUT_AT_TWO = 0.87962566
"""Standard deviation of a unit normal without what lies beyond 2."""


class Model(nn.Module):
    """Every kind of part that a trunk and a head have, by the names they have there."""

    def __init__(self, kv_heads: int = K) -> None:
        super().__init__()
        self.embedding = nn.Embedding(600, D)
        self.position = RelativeConfig(num_buckets=256, max_distance=400).build(D, N, H, False)
        self.blocks = nn.ModuleList([nn.Module()])
        block: Any = self.blocks[0]
        block.attention = Attention(D, N, kv_heads, H, True)
        block.cross_attention = Attention(D, N, kv_heads, H, True, cross=True)
        block.mlp = Mlp(D, I, "gelu", True, True)
        block.experts = MixtureOfExperts(D, I, "gelu", True, True, MixtureConfig(num_experts=3))
        block.norm = nn.LayerNorm(D)
        self.head = nn.Module()
        self.head.decoder = nn.Linear(D, 600)


def drawn(scheme: Init, **keys: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = Model(**keys)
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    init_weights(model, scheme, STD)
    return dict(model.named_parameters())


def assert_spread(name: str, weight: Tensor, std: float) -> None:
    """Within five standard errors of a mean of 0 and of this standard deviation."""
    n = weight.numel()
    assert abs(weight.mean().item()) < 5 * std / n**0.5, name
    assert weight.square().mean().sqrt().item() == pytest.approx(std, rel=5 / (2 * n) ** 0.5), name


def weights(parameters: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Each matrix, an expert's on its own."""
    kept = [(name, value) for name, value in parameters.items() if value.dim() > 1 and "bias" not in name]
    return [(name, matrix) for name, value in kept for matrix in value.view(-1, *value.shape[-2:])]


@pytest.mark.parametrize("scheme", get_args(Init))
def test_biases_are_zero_norms_stay_and_a_seed_gives_the_same_weights(scheme: Init) -> None:
    parameters = drawn(scheme)
    for name, value in parameters.items():
        if name.endswith("bias"):
            assert not value.any(), name
        elif "norm" in name:
            assert (value == 1).all(), name
        else:
            assert value.unique().numel() > value.numel() // 2, name
    again = drawn(scheme)
    assert all(torch.equal(value, again[name]) for name, value in parameters.items())


def test_normal_is_normal_everywhere() -> None:
    for name, weight in weights(drawn("normal")):
        assert_spread(name, weight, STD)
        assert weight.abs().max() > 2.5 * STD, name


def test_truncated_normal_has_nothing_beyond_two_standard_deviations() -> None:
    for name, weight in weights(drawn("truncated_normal")):
        assert_spread(name, weight, STD * CUT_AT_TWO)
        assert 1.9 * STD < weight.abs().max() <= 2 * STD, name


def test_xavier_is_glorots_uniform_and_embeddings_are_normal() -> None:
    for name, weight in weights(drawn("xavier")):
        if "embedding" in name:
            assert_spread(name, weight, D**-0.5)
        else:
            bound = (6 / sum(weight.shape)) ** 0.5
            assert_spread(name, weight, bound / 3**0.5)
            assert 0.97 * bound < weight.abs().max() <= bound, name


def test_xavier_draws_queries_keys_and_values_as_torchs_transformer() -> None:
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(N * H, N).in_proj_weight
    ours = Attention(N * H, N, N, H, True)
    init_weights(ours, "xavier", STD)
    assert ours.qkv is not None
    assert ours.qkv.weight.shape == theirs.shape
    assert ours.qkv.weight.std().item() == pytest.approx(theirs.std().item(), rel=0.01)


def test_t5_draws_every_tensor_as_transformers_does() -> None:
    torch.manual_seed(1)
    config = transformers.T5Config(
        vocab_size=600,
        d_model=D,
        num_heads=N,
        d_kv=H,
        d_ff=I,
        num_layers=1,
        num_decoder_layers=1,
        relative_attention_num_buckets=256,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    theirs = transformers.T5ForConditionalGeneration(config)
    ours = drawn("t5", kv_heads=N)
    layers = theirs.decoder.block[0].layer
    own, cross, mlp = layers[0].SelfAttention, layers[1].EncDecAttention, layers[2].DenseReluDense
    q, k, v = ours["blocks.0.attention.qkv.weight"].chunk(3)
    cross_k, cross_v = ours["blocks.0.cross_attention.key_value.weight"].chunk(2)
    gate, value = ours["blocks.0.mlp.up.weight"].chunk(2)
    pairs = {
        "embedding": (ours["embedding.weight"], theirs.shared.weight),
        "head": (ours["head.decoder.weight"], theirs.lm_head.weight),
        "relative": (ours["position.embedding.weight"], own.relative_attention_bias.weight),
        "q": (q, own.q.weight),
        "k": (k, own.k.weight),
        "v": (v, own.v.weight),
        "output": (ours["blocks.0.attention.output.weight"], own.o.weight),
        "cross q": (ours["blocks.0.cross_attention.query.weight"], cross.q.weight),
        "cross k": (cross_k, cross.k.weight),
        "cross v": (cross_v, cross.v.weight),
        "cross output": (ours["blocks.0.cross_attention.output.weight"], cross.o.weight),
        "gate": (gate, mlp.wi_0.weight),
        "value": (value, mlp.wi_1.weight),
        "down": (ours["blocks.0.mlp.down.weight"], mlp.wo.weight),
        "expert up": (ours["blocks.0.experts.up"][1], torch.cat((mlp.wi_0.weight, mlp.wi_1.weight))),
        "expert down": (ours["blocks.0.experts.down"][1], mlp.wo.weight),
    }
    for name, (mine, wanted) in pairs.items():
        assert mine.shape == wanted.shape, name
        assert mine.std().item() == pytest.approx(wanted.std().item(), rel=0.05), name


def test_t5_makes_the_queries_of_grouped_heads_alone_smaller() -> None:
    qkv = drawn("t5")["blocks.0.attention.qkv.weight"]
    assert_spread("queries", qkv[: N * H], (D * H) ** -0.5)
    assert_spread("keys and values", qkv[N * H :], D**-0.5)


def test_scaled_residual_init_keeps_the_schemes_shape() -> None:
    torch.manual_seed(0)
    model = Model()
    init_weights(model, "truncated_normal", STD)
    scale_residual_init(model.blocks, num_layers=8)
    assert model.get_parameter("blocks.0.mlp.down.weight").abs().max() <= 2 * STD / 4


def test_scaled_residual_init_shrinks_what_writes_into_the_residual_stream_alone() -> None:
    torch.manual_seed(0)
    model = Model()
    init_weights(model, "normal", STD)
    before = {name: value.clone() for name, value in model.named_parameters()}
    scale_residual_init(model.blocks, num_layers=8)
    shrunk = []
    for name, value in model.named_parameters():
        if torch.equal(value, before[name]):
            continue
        assert_spread(name, value, STD / 4)
        shrunk.append(name.removeprefix("blocks.0."))
    assert sorted(shrunk) == [
        "attention.output.weight",
        "cross_attention.output.weight",
        "experts.down",
        "mlp.down.weight",
    ]
