"""ELECTRA (Clark et al., 2020, arXiv:2003.10555) as transformers' ElectraForPreTraining, the discriminator,
and ElectraForMaskedLM, the generator.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from lumbre.hub.base import Entry, SpecialIds, StateDictAdapter, unmet
from lumbre.hub.bert import encoder_config, encoder_keys, encoder_parts, trunk_entries, unread
from lumbre.models import Detector, TransformerConfig
from lumbre.models.position import LearnedConfig


class ElectraGenerator(StateDictAdapter):
    """BERT whose embeddings may have a width of their own; the head's activation is gelu."""

    model_type = "electra"
    architecture = "ElectraForMaskedLM"
    auto_class = "AutoModelForMaskedLM"
    prefix = "electra."

    def misfit(self, config: TransformerConfig) -> str | None:
        """Return what is not as in ELECTRA's generator."""
        return unmet(config, LearnedConfig, {**_parts(config), "activation": "gelu"})

    def to_hf_config(self, config: TransformerConfig, special: SpecialIds | None) -> dict[str, Any]:
        """Return ElectraConfig's keys; dropout is 0, as trained."""
        return {
            **encoder_keys(config, special),
            "embedding_size": config.embedding_width,
            "max_position_embeddings": config.max_length,
        }

    def from_hf_config(self, config: Mapping[str, Any]) -> TransformerConfig:
        """Return our config; decoders and cross-attention are refused."""
        from transformers import ElectraConfig

        theirs = ElectraConfig(**config)
        ours = encoder_config("ELECTRA", theirs, theirs.max_position_embeddings)
        width = theirs.embedding_size
        return ours.model_copy(update={"embedding_size": None if width == theirs.hidden_size else width})

    def entries(self, config: TransformerConfig) -> Iterator[Entry]:
        """Yield the mapping of every tensor."""
        yield from trunk_entries(config, self.prefix)
        modules = self.heads()
        if config.embedding_width != config.hidden_size:
            modules["trunk.embedding_projection"] = f"{self.prefix}embeddings_project"
        for ours, theirs in modules.items():
            for kind in ("weight", "bias"):
                yield Entry(f"{ours}.{kind}", (f"{theirs}.{kind}",))
        if self.kind is not Detector:
            yield Entry("head.decoder.bias", ("generator_lm_head.bias",))

    def heads(self) -> dict[str, str]:
        """Return the modules of the head, ours to theirs, that are not tied."""
        theirs = "generator_predictions"
        return {"head.dense": f"{theirs}.dense", "head.norm": f"{theirs}.LayerNorm"}

    def twins(self, config: TransformerConfig) -> dict[str, str]:
        """Return the decoder's name."""
        return {"generator_lm_head.weight": f"{self.prefix}embeddings.word_embeddings.weight"}

    def clean(self, config: TransformerConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Leave out the numbers of positions."""
        return {name: one for name, one in state.items() if not name.startswith(unread(self.prefix))}


class Electra(ElectraGenerator):
    """The same trunk with the detector's head."""

    architecture = "ElectraForPreTraining"
    auto_class = "AutoModelForPreTraining"
    kind = Detector

    def misfit(self, config: TransformerConfig) -> str | None:
        """Return what is not as in ELECTRA's discriminator."""
        return unmet(config, LearnedConfig, _parts(config))

    def heads(self) -> dict[str, str]:
        """Return the modules of the head, ours to theirs."""
        theirs = "discriminator_predictions"
        return {"head.dense": f"{theirs}.dense", "head.output": f"{theirs}.dense_prediction"}

    def twins(self, config: TransformerConfig) -> dict[str, str]:
        """Return none: nothing is tied."""
        return {}


def _parts(config: TransformerConfig) -> dict[str, Any]:
    return {**encoder_parts(config), "embedding_width": config.embedding_width}
