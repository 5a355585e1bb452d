"""What every class of model type `lumbre` shares: our trunk, run the way that transformers calls its models.

Shapes: B batch, T time, S an encoder's time, D hidden.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPast, Seq2SeqModelOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import can_return_tuple

from lumbre.hub.classes.config import LumbreConfig
from lumbre.models import EncoderDecoder, Memory, Transformer
from lumbre.models.transformer import Block


class LumbrePreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    """A trunk under our own names (`trunk.*`), to which subclasses add a head."""

    config_class = LumbreConfig
    base_model_prefix = "trunk"
    supports_gradient_checkpointing = True
    gradient_checkpointing = False
    _supports_sdpa = True
    _no_split_modules = (Block.__name__,)

    trunk: Transformer | EncoderDecoder

    def __init__(self, config: LumbreConfig) -> None:
        super().__init__(config)
        self.trunk = config.architecture().build()
        self._tied_weights_keys = {}
        if isinstance(self.trunk, EncoderDecoder):
            self._tied_weights_keys["trunk.decoder.embedding.weight"] = self.embedding_name
        self.keep_init(self.trunk)

    def keep_init(self, module: nn.Module) -> None:
        """Let transformers draw no weights again that our own modules have drawn."""
        for parameter in module.parameters():
            if not parameter.is_meta:
                cast(Any, parameter)._is_hf_initialized = True

    @property
    def embedding_name(self) -> str:
        """The token embedding's name in the state."""
        stack = "trunk.encoder" if isinstance(self.trunk, EncoderDecoder) else "trunk"
        return f"{stack}.embedding.weight"

    @property
    def stacks(self) -> tuple[Transformer, ...]:
        """The trunk, or the encoder and the decoder that it is made of."""
        if isinstance(self.trunk, EncoderDecoder):
            return self.trunk.encoder, self.trunk.decoder
        return (self.trunk,)

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the token embedding, which two stacks share."""
        return self.trunk.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the token embedding."""
        for stack in self.stacks:
            stack.embedding = value

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """Return the encoder as `generate` calls it; without one, the model itself."""
        return Encoder(self.trunk.encoder) if isinstance(self.trunk, EncoderDecoder) else self

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = None, every_n_layers: int = 1
    ) -> None:
        if every_n_layers != 1:
            raise ValueError(
                f"every_n_layers is {every_n_layers}, and only 1, every block, is supported here"
            )
        for stack in self.stacks:
            stack.recompute = 1 if enable else "none"
        self.gradient_checkpointing = enable

    def run(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        **others: Any,
    ) -> BaseModelOutputWithPast:
        """Run a trunk of one stack."""
        assert isinstance(self.trunk, Transformer)
        _refuse_attentions(others)
        if past_key_values is None and self.config.is_decoder and self._caches(use_cache):
            past_key_values = DynamicCache(config=self.config)
        with _recorded(self.trunk, self._records(output_hidden_states)) as states:
            x_BTD = run_stack(
                self.trunk,
                input_ids,
                attention_mask,
                position_ids,
                token_type_ids,
                inputs_embeds,
                cache=past_key_values,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=x_BTD, past_key_values=past_key_values, hidden_states=_states(states, x_BTD)
        )

    def run_both(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: EncoderDecoderCache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        **others: Any,
    ) -> Seq2SeqModelOutput:
        """Run a trunk of two stacks; `encoder_outputs` stand for the encoder's run."""
        assert isinstance(self.trunk, EncoderDecoder)
        _refuse_attentions(others)
        records = self._records(output_hidden_states)
        if encoder_outputs is None:
            encoder = cast(Encoder, self.get_encoder())
            encoder_outputs = encoder(
                input_ids, attention_mask, inputs_embeds=inputs_embeds, output_hidden_states=records
            )
        if past_key_values is None and self._caches(use_cache):
            past_key_values = EncoderDecoderCache(
                DynamicCache(config=self.config), DynamicCache(config=self.config)
            )
        own, cross = None, None
        if past_key_values is not None:
            own, cross = past_key_values.self_attention_cache, past_key_values.cross_attention_cache
        x_BSD = encoder_outputs[0]
        documents_BS = None if attention_mask is None else (attention_mask != 0).int()
        with _recorded(self.trunk.decoder, records) as states:
            x_BTD = run_stack(
                self.trunk.decoder,
                decoder_input_ids,
                decoder_attention_mask,
                inputs_embeds=decoder_inputs_embeds,
                cache=own,
                memory=Memory(x_BSD, documents_BS, cross),
            )
        return Seq2SeqModelOutput(
            last_hidden_state=x_BTD,
            past_key_values=past_key_values,
            decoder_hidden_states=_states(states, x_BTD),
            encoder_last_hidden_state=x_BSD,
            encoder_hidden_states=getattr(encoder_outputs, "hidden_states", None),
        )

    def shifted(self, tokens_BT: Tensor) -> Tensor:
        """Return what a decoder beside an encoder reads to give these tokens: the start token, then they."""
        start = self.config.decoder_start_token_id
        if start is None:
            raise ValueError("config.decoder_start_token_id is not set; set it, or give decoder_input_ids")
        padding = start if self.config.pad_token_id is None else self.config.pad_token_id
        before_BT = tokens_BT[:, :-1].masked_fill(tokens_BT[:, :-1] < 0, padding)
        return torch.cat([before_BT.new_full((len(tokens_BT), 1), start), before_BT], dim=1)

    def _caches(self, use_cache: bool | None) -> bool:
        return not self.training if use_cache is None else use_cache

    def _records(self, output_hidden_states: bool | None) -> bool:
        asked = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return bool(asked)


class Encoder(nn.Module):
    """The encoder of two stacks, as `generate` calls it."""

    main_input_name = "input_ids"

    def __init__(self, stack: Transformer) -> None:
        super().__init__()
        self.stack = stack

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **others: Any,
    ) -> BaseModelOutput:
        """Return last_hidden_state [B, S, D]."""
        _refuse_attentions(others)
        with _recorded(self.stack, bool(output_hidden_states)) as states:
            x_BSD = run_stack(self.stack, input_ids, attention_mask, inputs_embeds=inputs_embeds)
        return BaseModelOutput(last_hidden_state=x_BSD, hidden_states=_states(states, x_BSD))


class LumbreModel(LumbrePreTrainedModel):
    """The trunk without a head: AutoModel."""

    _keys_to_ignore_on_load_unexpected = (r"^head\.",)

    def __init__(self, config: LumbreConfig) -> None:
        super().__init__(config)
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        **others: Any,
    ) -> BaseModelOutputWithPast | Seq2SeqModelOutput:
        """Return last_hidden_state [B, T, D], the decoder's where there are two stacks."""
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "inputs_embeds": inputs_embeds,
            "past_key_values": past_key_values,
            "use_cache": use_cache,
            **others,
        }
        if not self.config.is_encoder_decoder:
            return self.run(position_ids=position_ids, token_type_ids=token_type_ids, **given)
        return self.run_both(
            decoder_input_ids=decoder_input_ids, decoder_attention_mask=decoder_attention_mask, **given
        )


def run_stack(
    stack: Transformer,
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    position_ids: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
    *,
    cache: Cache | None = None,
    memory: Memory | None = None,
) -> Tensor:
    """Return the hidden states of one stack; positions are counted where attention_mask is 1.

    So a text has the same positions with padding on its left, on its right, and without. A decoder's row
    without mask and cache whose positions begin again is packed, as transformers' own decoders have it.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("a stack reads tokens or their embeddings: give one of the two")
    if attention_mask is not None and attention_mask.dim() != 2:
        raise ValueError(
            f"attention_mask has {attention_mask.dim()} dimensions, and only [batch, time] is supported "
            "here; leave cache_implementation out"
        )
    given = cast(Tensor, input_ids if inputs_embeds is None else inputs_embeds)
    if position_ids is None and attention_mask is not None:
        position_ids = (attention_mask.long().cumsum(1) - 1).clamp(min=0)[:, -given.shape[1] :]
    packed = position_ids is not None and attention_mask is None and cache is None and stack.config.causal
    hidden = stack(
        input_ids,
        attention_mask,
        position_ids,
        _documents(cast(Tensor, position_ids)) if packed else None,
        token_type_ids=token_type_ids,
        embeddings_BTD=inputs_embeds,
        memory=memory,
        cache=cache,
    )
    return cast(Tensor, hidden.x_BTD)


def _documents(positions_BT: Tensor) -> Tensor:
    """Return the document of each token, 1 .. within the row: positions that do not go on begin another."""
    begins_BT = torch.ones_like(positions_BT, dtype=torch.int32)
    begins_BT[:, 1:] = positions_BT.diff(dim=1) != 1
    return begins_BT.cumsum(1, dtype=torch.int32)


@contextmanager
def _recorded(stack: Transformer, wanted: bool) -> Iterator[list[Tensor]]:
    """Yield a list that receives each block's input, where that is wanted."""
    states: list[Tensor] = []
    hooks = []
    if wanted:
        for block in stack.blocks:
            hooks.append(block.register_forward_pre_hook(lambda _, given: states.append(given[0])))
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


def _states(states: list[Tensor], x_BTD: Tensor) -> tuple[Tensor, ...] | None:
    return (*states, x_BTD) if states else None


def _refuse_attentions(others: dict[str, Any]) -> None:
    if others.get("document_ids") is not None:
        raise ValueError("packed rows are not read here: use lumbre.hub.load, or a document a row")
    if others.get("output_attentions"):
        raise ValueError("attention weights are never held here; leave output_attentions out")
