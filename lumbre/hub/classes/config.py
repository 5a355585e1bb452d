"""The config of model type `lumbre`: our Transformer's fields, under the names that transformers asks for."""

from dataclasses import field
from typing import Any

from pydantic import ValidationError
from transformers.configuration_utils import PreTrainedConfig

from lumbre.errors import ModelError
from lumbre.models import TransformerConfig


class LumbreConfig(PreTrainedConfig):  # type: ignore[misc]
    """config.json of a `lumbre` folder; raises ModelError where `transformer` is no architecture of ours."""

    model_type = "lumbre"

    transformer: dict[str, Any] = field(default_factory=dict)
    """The architecture, field by field, as TransformerConfig dumps it."""
    pad_token_id: int | None = None
    """The token that fills a batch."""
    bos_token_id: int | None = None
    """The token that begins a text."""
    eos_token_id: int | list[int] | None = None
    """The token that ends a text."""
    decoder_start_token_id: int | None = None
    """The token that a decoder beside an encoder starts from, as T5's from padding."""

    def __post_init__(self, **kwargs: Any) -> None:
        from lumbre.hub.register import register_models

        # Here and not as transformers is imported, which would import all of it.
        register_models()
        architecture = self.architecture()
        self.transformer = architecture.model_dump(mode="json", serialize_as_any=True)
        self.is_encoder_decoder = architecture.num_decoder_layers > 0
        super().__post_init__(**kwargs)

    def architecture(self) -> TransformerConfig:
        """Return `transformer` as our config, its vocabulary known."""
        try:
            return TransformerConfig.model_validate(self.transformer).sized(None)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(["transformer", *map(str, first["loc"])])
            raise ModelError(f"config.json: {place}: {first['msg']}; export the model again") from error

    @property
    def vocab_size(self) -> int:
        """Number of token embeddings."""
        return int(self.transformer["vocab_size"])

    @vocab_size.setter
    def vocab_size(self, size: int) -> None:
        self.transformer = {**self.transformer, "vocab_size": size}

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return int(self.transformer["hidden_size"])

    @property
    def num_hidden_layers(self) -> int:
        """Blocks of the taller stack: a cache needs an entry for each."""
        return int(max(self.transformer["num_layers"], self.transformer["num_decoder_layers"]))

    @property
    def num_attention_heads(self) -> int:
        """Heads of queries."""
        return int(self.transformer["num_heads"])

    @property
    def num_key_value_heads(self) -> int:
        """Heads of keys and values."""
        return int(self.transformer["num_kv_heads"] or self.num_attention_heads)

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return int(self.transformer["head_size"] or self.hidden_size // self.num_attention_heads)

    @property
    def max_position_embeddings(self) -> int | None:
        """Longest sequence in tokens that the model is meant for; None where that is not stated."""
        stated: int | None = self.transformer["position"].get("max_length")
        return stated

    @property
    def initializer_range(self) -> float:
        """Standard deviation of fresh weights."""
        return float(self.transformer["init_std"])

    @property
    def is_decoder(self) -> bool:
        """Whether a token sees the past alone."""
        return bool(self.transformer["causal"])

    @property
    def tie_word_embeddings(self) -> bool:
        """Whether some embeddings are one: the head's and the input's, or those of two stacks."""
        return bool(self.transformer["tied_embeddings"]) or self.is_encoder_decoder
