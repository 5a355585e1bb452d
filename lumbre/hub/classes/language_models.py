"""Our language models as transformers' classes: masked, causal, and of two stacks; the last two generate.

Shapes: B batch, T time, V vocabulary.
"""

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast, MaskedLMOutput, Seq2SeqLMOutput
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils import can_return_tuple

from lumbre.errors import ModelError
from lumbre.hub.classes.base import LumbrePreTrainedModel
from lumbre.hub.classes.config import LumbreConfig
from lumbre.models.heads import Decoder, LanguageModelHead

MASKED, CAUSAL, SEQ2SEQ = "an encoder", "a decoder", "an encoder-decoder"
AUTO_CLASSES = {
    MASKED: "AutoModelForMaskedLM",
    CAUSAL: "AutoModelForCausalLM",
    SEQ2SEQ: "AutoModelForSeq2SeqLM",
}


class LumbreLanguageModel(LumbrePreTrainedModel):
    """A trunk with our language-model head (`head.*`)."""

    kind: str

    def __init__(self, config: LumbreConfig) -> None:
        found = SEQ2SEQ if config.is_encoder_decoder else CAUSAL if config.is_decoder else MASKED
        if found != self.kind:
            raise ModelError(
                f"{config.name_or_path or 'config'}: is {found}, not {self.kind}; use {AUTO_CLASSES[found]}"
            )
        super().__init__(config)
        architecture = self.trunk.config
        self.head = LanguageModelHead(architecture)
        if architecture.tied_embeddings:
            self._tied_weights_keys["head.decoder.weight"] = self.embedding_name
        self.keep_init(self.head)
        self.post_init()

    def get_output_embeddings(self) -> Decoder:
        """Return the head's decoder."""
        return self.head.decoder

    def set_output_embeddings(self, new_embeddings: Any) -> None:
        """Take the weights of another linear map."""
        decoder = self.head.decoder
        decoder.weight, decoder.bias = new_embeddings.weight, new_embeddings.bias
        decoder.out_features = new_embeddings.out_features


class LumbreForMaskedLM(LumbreLanguageModel):
    """An encoder that fills masks."""

    kind = MASKED

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **others: Any,
    ) -> MaskedLMOutput:
        """Return logits [B, T, V]; labels [B, T] stand where their tokens do, -100 where there is none."""
        output = self.run(input_ids, attention_mask, position_ids, token_type_ids, inputs_embeds, **others)
        logits_BTV = self.head(output.last_hidden_state)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits_BTV, labels, vocab_size=logits_BTV.shape[-1], **others)
        return MaskedLMOutput(loss=loss, logits=logits_BTV, hidden_states=output.hidden_states)


class LumbreForCausalLM(LumbreLanguageModel, GenerationMixin):  # type: ignore[misc]
    """A decoder that goes on from a text."""

    kind = CAUSAL

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **others: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits [B, T, V]; labels [B, T] are the tokens themselves, and are shifted here."""
        output = self.run(
            input_ids,
            attention_mask,
            position_ids,
            token_type_ids,
            inputs_embeds,
            past_key_values,
            use_cache,
            **others,
        )
        logits_BTV = self.head(slice_logits_to_keep(output.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits_BTV, labels, vocab_size=logits_BTV.shape[-1], **others)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits_BTV,
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
        )


class LumbreForSeq2SeqLM(LumbreLanguageModel, GenerationMixin):  # type: ignore[misc]
    """An encoder and a decoder that answers what the encoder has read."""

    kind = SEQ2SEQ

    def __init__(self, config: LumbreConfig) -> None:
        super().__init__(config)
        # transformers goes by the class's name, and knows none like this one.
        self.loss_type = "ForMaskedLM"

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: EncoderDecoderCache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        **others: Any,
    ) -> Seq2SeqLMOutput:
        """Return the decoder's logits [B, T, V].

        Where decoder_input_ids are left out, they are the labels [B, T] shifted by one.
        """
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        output = self.run_both(
            input_ids,
            attention_mask,
            decoder_input_ids,
            decoder_attention_mask,
            encoder_outputs,
            past_key_values,
            inputs_embeds,
            decoder_inputs_embeds,
            use_cache,
            **others,
        )
        logits_BTV = self.head(output.last_hidden_state)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits_BTV, labels, vocab_size=logits_BTV.shape[-1], **others)
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits_BTV,
            past_key_values=output.past_key_values,
            decoder_hidden_states=output.decoder_hidden_states,
            encoder_last_hidden_state=output.encoder_last_hidden_state,
            encoder_hidden_states=output.encoder_hidden_states,
        )

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """Return the labels [B, T] behind the start token, without their last."""
        return self.shifted(labels)
