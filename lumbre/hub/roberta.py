"""RoBERTa (Liu et al., 2019, arXiv:1907.11692) as transformers' RobertaForMaskedLM.

Its positions begin at the padding's id + 1: the rows of its table before that are no token's.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lumbre.errors import ModelError
from lumbre.hub.base import Entry, Named, SpecialIds, StateDictAdapter, check_shape, checked, pad_id, unmet
from lumbre.hub.bert import encoder_config, encoder_keys, encoder_parts, trunk_entries, unread
from lumbre.models import TransformerConfig
from lumbre.models.position import LearnedConfig

POSITIONS = "roberta.embeddings.position_embeddings.weight"
PAD_ID = 1
"""Where no tokenizer says otherwise, the published models'."""


class Roberta(StateDictAdapter):
    """BERT without segments, as positions count what is not padding; the head's activation is gelu."""

    model_type = "roberta"
    architecture = "RobertaForMaskedLM"
    auto_class = "AutoModelForMaskedLM"
    prefix = "roberta."

    def misfit(self, config: TransformerConfig) -> str | None:
        """Return what is not as in RoBERTa."""
        return unmet(config, LearnedConfig, {**encoder_parts(config), "token_types": 1, "activation": "gelu"})

    def to_hf_config(self, config: TransformerConfig, special: SpecialIds | None) -> dict[str, Any]:
        """Return RobertaConfig's keys; dropout is 0, as trained."""
        assert config.max_length is not None
        pad = pad_id(special, PAD_ID)
        length = config.max_length + pad + 1
        return {**encoder_keys(config, special), "pad_token_id": pad, "max_position_embeddings": length}

    def from_hf_config(self, config: Mapping[str, Any]) -> TransformerConfig:
        """Return our config; decoders, cross-attention and other activations are refused."""
        from transformers import RobertaConfig

        theirs = RobertaConfig(**config)
        checked("RoBERTa", theirs, {"hidden_act": "gelu"})
        if theirs.pad_token_id is None:
            raise ModelError(
                "config.json of RoBERTa: pad_token_id is null, and positions begin behind it; set it"
            )
        return encoder_config("RoBERTa", theirs, theirs.max_position_embeddings - theirs.pad_token_id - 1)

    def entries(self, config: TransformerConfig) -> Iterator[Entry]:
        """Yield the mapping of every tensor; of the positions' table, the rows that tokens have."""
        yield from trunk_entries(config, self.prefix)
        for kind in ("weight", "bias"):
            yield Entry(f"head.dense.{kind}", (f"lm_head.dense.{kind}",))
            yield Entry(f"head.norm.{kind}", (f"lm_head.layer_norm.{kind}",))
        yield Entry("head.decoder.bias", ("lm_head.bias",))

    def twins(self, config: TransformerConfig) -> dict[str, str]:
        """Return the decoder's names."""
        return {
            "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
            "lm_head.decoder.bias": "lm_head.bias",
        }

    def clean(self, config: TransformerConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Leave out the pooler, and the positions before the first token's."""
        kept = {name: tensor for name, tensor in state.items() if not name.startswith(unread(self.prefix))}
        if POSITIONS in kept and config.max_length is not None:
            kept[POSITIONS] = kept[POSITIONS][-config.max_length :]
        return kept

    def check(self, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
        """Refuse a table of positions that is not as long as config.json says: its end would be cut off."""
        from transformers import RobertaConfig

        theirs = RobertaConfig(**config)
        for name in (POSITIONS, POSITIONS.removeprefix(self.prefix)):
            if name in state:
                check_shape(name, (theirs.max_position_embeddings, theirs.hidden_size), state[name])

    def theirs(self, entry: Entry, tensor: Tensor, special: SpecialIds | None) -> Iterator[Named]:
        """Yield what holds one of our tensors, with zeros for the positions before the first token's."""
        for name, own in super().theirs(entry, tensor, special):
            before = pad_id(special, PAD_ID) + 1 if name == POSITIONS else 0
            yield name, torch.cat([own.new_zeros(before, own.shape[1]), own]) if before else own
