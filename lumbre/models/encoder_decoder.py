"""The encoder-decoder: two stacks over one embedding (Vaswani et al., 2017, arXiv:1706.03762; T5).

Shapes: B batch, S the encoder's time, T the decoder's time, D hidden.
"""

from torch import Tensor, nn

from lumbre.errors import ModelError
from lumbre.models.attention import Cache
from lumbre.models.config import TransformerConfig
from lumbre.models.transformer import Hidden, Memory, Transformer, without_padding


class EncoderDecoder(nn.Module):
    """An encoder, and a decoder whose every block attends to the encoder's output."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        whole = {"num_decoder_layers": 0}
        self.encoder = Transformer(config.model_copy(update=whole))
        self.decoder = Transformer(
            config.model_copy(update={**whole, "causal": True, "num_layers": config.num_decoder_layers}),
            cross=True,
            embedding=self.encoder.embedding,
        )

    @property
    def embedding(self) -> nn.Embedding:
        """The embedding that both stacks share."""
        return self.encoder.embedding

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        *,
        decoder_input_ids: Tensor,
        decoder_attention_mask: Tensor | None = None,
        decoder_position_ids: Tensor | None = None,
        decoder_document_ids: Tensor | None = None,
        rows_M: Tensor | None = None,
    ) -> Hidden:
        """Return the decoder's hidden states of decoder_input_ids [B, T] given input_ids [B, S].

        The inputs of each stack are the Transformer's; document n of the decoder reads document n of the
        encoder.
        """
        if document_ids is not None and decoder_document_ids is None:
            raise ModelError(
                "document_ids are given for the encoder alone, and the decoder reads by document; "
                "give decoder_document_ids too"
            )
        memory, balance = self.encode(input_ids, attention_mask, position_ids, document_ids)
        x_BTD, more = self.decoder(
            decoder_input_ids,
            decoder_attention_mask,
            decoder_position_ids,
            decoder_document_ids,
            memory=memory,
            rows_M=rows_M,
        )
        return Hidden(x_BTD, balance if more is None or balance is None else balance + more)

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        *,
        cache: Cache | None = None,
    ) -> tuple[Memory, Tensor | None]:
        """Return what the decoder reads of input_ids [B, S], and its experts' balance loss."""
        x_BSD, balance = self.encoder(input_ids, attention_mask, position_ids, document_ids)
        return Memory(x_BSD, without_padding(attention_mask, document_ids), cache), balance
