"""What a Transformer is made of, field by field.

Encoders, decoders and encoder-decoders (Vaswani et al., 2017, arXiv:1706.03762) are one config.
"""

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from lumbre.config import Choice
from lumbre.errors import ConfigError, Problem
from lumbre.models.init import Init
from lumbre.models.layers import Activation, NormKind
from lumbre.models.mixture import MixtureConfig
from lumbre.models.mlp import DenseConfig, MlpConfig
from lumbre.models.position import PositionConfig

if TYPE_CHECKING:
    from lumbre.models.deferred import Deferred
    from lumbre.models.electra import Detector
    from lumbre.models.encoder_decoder import EncoderDecoder
    from lumbre.models.heads import LanguageModel
    from lumbre.models.transformer import Transformer

LayerType = Literal["global", "local"]


class ModelConfig(Choice):
    """Which model is trained, and from which weights."""

    @abstractmethod
    def architecture(self) -> "TransformerConfig":
        """Return the model field by field; raises ConfigError where it cannot be read."""

    def build(self, vocab_size: int | None = None) -> "Transformer | EncoderDecoder":
        """Return the trunk with fresh weights, a pure function of torch's seed.

        `vocab_size` is the tokenizer's, and the config's own may be larger. Raises ConfigError when neither
        is known, or the config's is too small.
        """
        from lumbre.models.encoder_decoder import EncoderDecoder
        from lumbre.models.transformer import Transformer

        config = self.architecture().sized(vocab_size)
        return EncoderDecoder(config) if config.num_decoder_layers else Transformer(config)

    def initialise(
        self, model: "LanguageModel | Detector", ending: str = "", deferred: "Deferred | None" = None
    ) -> None:
        """Put the weights that training starts from into a freshly built model; fresh ones stay.

        `ending` is that of the folder's name where an objective trains and exports several models. What is
        drawn later, by `deferred`, is read later.
        """


class TransformerConfig(ModelConfig):
    """A stack of equal blocks, an encoder or (`causal`) a decoder; with `num_decoder_layers`, one of each."""

    type: Literal["transformer"] = "transformer"
    causal: bool
    """Whether a token sees the past alone (a decoder), or both sides (an encoder)."""
    vocab_size: PositiveInt | None = None
    """Number of token embeddings; left out, the tokenizer's size."""
    hidden_size: PositiveInt
    """Width of the residual stream."""
    embedding_size: PositiveInt | None = None
    """Width of the embeddings, which a linear map then widens or narrows (ELECTRA); left out, hidden_size."""
    num_layers: PositiveInt
    """Number of blocks."""
    num_decoder_layers: NonNegativeInt = 0
    """Blocks of a decoder that reads this encoder's output (T5, the first Transformer); 0 is one stack."""
    num_heads: PositiveInt
    """Attention heads (queries)."""
    num_kv_heads: PositiveInt | None = None
    """Heads of keys and values, each shared by num_heads / num_kv_heads queries; left out, num_heads."""
    head_size: PositiveInt | None = None
    """Width of a head; left out, hidden_size / num_heads."""
    intermediate_size: PositiveInt | None = None
    """Width inside the MLP; left out, 4 x hidden_size."""
    position: PositionConfig
    """How the model knows the order of its tokens."""
    layer_types: tuple[LayerType, ...] = Field(("global",), min_length=1)
    """What each layer attends to: everything, or what is within `window`; repeated over the layers."""
    window: PositiveInt | None = None
    """Farthest distance in tokens, to either side, at which local layers attend."""
    norm: NormKind = "layernorm"
    """LayerNorm or RMSNorm."""
    norm_position: Literal["pre", "post"] = "pre"
    """Normalise what a sublayer reads (pre), or the sum after it (post, as the first Transformers)."""
    norm_epsilon: PositiveFloat = 1e-5
    """Added to the variance before its root is taken."""
    activation: Activation = "gelu"
    """The MLP's nonlinearity; gelu is exact, gelu_tanh the approximation of GPT-2."""
    mlp: MlpConfig = DenseConfig()
    """One MLP for every token, or a mixture of experts."""
    gated_mlp: bool = False
    """Whether the activation gates a second product (SwiGLU with silu, GeGLU with gelu)."""
    bias: bool = True
    """Whether linear maps and LayerNorms have biases."""
    attention_bias: bool | None = None
    """Whether attention's linear maps have biases; left out, as `bias`."""
    qk_norm: bool = False
    """Whether each head's queries and keys are normalised before they are turned, as Qwen3's."""
    scaled_attention: bool = True
    """Whether scores are divided by the root of the head size; T5's are not."""
    token_types: NonNegativeInt = 0
    """Number of segment embeddings added to the input; BERT has 2."""
    embedding_norm: bool = False
    """Whether the sum of the embeddings is normalised before the first block."""
    first_attention_norm: bool = True
    """Whether the first block's attention has a norm of its own; ModernBERT's reads the embedding norm's."""
    final_norm: bool | None = None
    """Whether the last block's output is normalised; left out, with pre-norm yes and with post-norm no."""
    tied_embeddings: bool = True
    """Whether the head's decoder is the token embedding itself."""
    head_transform: bool = False
    """Whether the head has a linear map, activation and norm before the decoder, as BERT's."""
    head_bias: bool = False
    """Whether the head's decoder has a bias."""
    scaled_head: bool = False
    """Whether what the decoder reads is divided by the root of hidden_size, as in T5's tied head."""
    init: Init = "normal"
    """How fresh weights are drawn: normal, truncated_normal (BERT), xavier (the first Transformer), t5."""
    init_std: PositiveFloat = 0.02
    """Standard deviation of fresh weights; xavier and t5 have their own."""
    scaled_residual_init: bool = False
    """Whether maps into the residual stream start smaller by sqrt(2 x num_layers), as GPT-2's."""

    @property
    def embedding_width(self) -> int:
        """Width of the embeddings."""
        return self.embedding_size or self.hidden_size

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_kv_heads or self.num_heads

    @property
    def head_width(self) -> int:
        """Width of a head."""
        return self.head_size or self.hidden_size // self.num_heads

    @property
    def mlp_width(self) -> int:
        """Width inside the MLP."""
        return self.intermediate_size or 4 * self.hidden_size

    @property
    def has_attention_bias(self) -> bool:
        """Whether attention's linear maps have biases."""
        return self.bias if self.attention_bias is None else self.attention_bias

    @property
    def has_final_norm(self) -> bool:
        """Whether the last block's output is normalised."""
        return self.norm_position == "pre" if self.final_norm is None else self.final_norm

    @property
    def layers(self) -> tuple[LayerType, ...]:
        """What each layer attends to."""
        whole = -(-max(self.num_layers, self.num_decoder_layers) // len(self.layer_types))
        return (self.layer_types * whole)[: max(self.num_layers, self.num_decoder_layers)]

    @property
    def mixture(self) -> MixtureConfig | None:
        """The mixture of experts, where the model has one."""
        return self.mlp if isinstance(self.mlp, MixtureConfig) else None

    @property
    def max_length(self) -> int | None:
        """Longest sequence in tokens that the model takes; None where there is no limit."""
        return self.position.limit

    def problems(self) -> Iterator[Problem]:
        """Yield sizes that do not divide, with the arithmetic."""
        N, K, D = self.num_heads, self.kv_heads, self.hidden_size
        if self.head_size is None and D % N:
            fault = f"{N} heads do not divide hidden_size {D} ({D} = {N} x {D // N} + {D % N})"
            fits = _nearest_divisor(D, N)
            yield Problem("num_heads", fault, f"use num_heads {fits}, or set head_size")
            return
        if N % K:
            fault = f"{K} key/value heads do not divide {N} heads"
            yield Problem("num_kv_heads", fault, f"use {_nearest_divisor(N, K)}")
        if self.embedding_width != D and not self.head_transform:
            fault = f"the head's decoder reads {self.embedding_width} numbers, and hidden_size is {D}"
            yield Problem(
                "embedding_size", fault, "set head_transform: true, whose linear map is between them"
            )
        if self.embedding_width != D and self.num_decoder_layers:
            fault = "an encoder-decoder's embeddings are as wide as its stacks"
            yield Problem("embedding_size", fault, "leave it out")
        if not self.first_attention_norm and not (self.norm_position == "pre" and self.embedding_norm):
            fault = "without it the first attention reads what the embedding norm gives, and there is none"
            if self.norm_position == "post":
                fault = "with post-norm, attention's norm comes after it, in the first block too"
            remedy = "use true, or norm_position: pre with embedding_norm: true"
            yield Problem("first_attention_norm", fault, remedy)
        if "local" in self.layers and self.window is None:
            yield Problem("window", "layer_types has local layers, and they have no window", "set it")
        if self.window is not None and "local" not in self.layers:
            fault = "no layer of layer_types is local"
            yield Problem("window", fault, "leave it out, or use layer_types: [global, local]")
        if self.num_decoder_layers and self.causal:
            fault = "the encoder of an encoder-decoder sees both sides"
            yield Problem("causal", fault, "use false; the decoder is causal by itself")
        if self.num_decoder_layers and self.token_types:
            yield Problem("token_types", "an encoder-decoder has none", "use 0")
        yield from self.position.misfits(self.embedding_width, N, self.head_width)

    def architecture(self) -> "TransformerConfig":
        """Return this config."""
        return self

    def sized(self, vocab_size: int | None) -> "TransformerConfig":
        """Return the config with its vocabulary known, its own or the tokenizer's of that size.

        Raises ConfigError for every problem of the config.
        """
        problems = list(self.all_problems("model."))
        own = self.vocab_size
        if own is None and vocab_size is None:
            problems.append(Problem("model.vocab_size", "the size of the vocabulary is not known", "set it"))
        if own is not None and vocab_size is not None and own < vocab_size:
            fault = f"{own} embeddings are too few for the tokenizer's {vocab_size} tokens"
            problems.append(Problem("model.vocab_size", fault, "leave the key out, or train a smaller one"))
        if problems:
            raise ConfigError(problems)
        return self.model_copy(update={"vocab_size": own or vocab_size})


def _nearest_divisor(whole: int, wanted: int) -> int:
    return min(
        (part for part in range(1, whole + 1) if whole % part == 0), key=lambda part: abs(part - wanted)
    )
