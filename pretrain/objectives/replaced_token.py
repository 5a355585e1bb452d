"""Replaced-token detection (ELECTRA, Clark et al., 2020, arXiv:2003.10555).

A small generator, a masked language model, restores masked tokens as it thinks best, and the model tells of
every token whether it is the text's own. Both learn at once; what the generator draws passes no gradient on.

Shapes: B batch, T tokens of a row.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, field_validator
from torch import nn

from lumbre import distributed
from lumbre.distributed import Stream
from lumbre.errors import Problem
from lumbre.models import (
    NO_TARGET,
    Detector,
    Electra,
    EncoderDecoder,
    LanguageModel,
    Transformer,
    TransformerConfig,
    electra_flops_per_sample,
    generator_config,
)
from lumbre.tokenizer import Tokenizer, TokenizerConfig
from lumbre.trainer import Batch, LossOutput, Term

from .base import ModelKind, Objective, ObjectiveConfig, Row
from .mlm import MlmConfig
from .special import lacking_roles

DRAWS = 1 << 32
"""The third counter of what decides the generator's draws; what is drawn to mask a row has smaller ones."""
DETECTION = "detection"
REPLACEMENT = {"replace_with_mask": 0.85, "replace_with_random": 0.0}
"""As google-research/electra's pretrain_helpers.py masks."""


class ReplacedTokenConfig(ObjectiveConfig):
    """Tell which tokens a small generator has replaced: ELECTRA's objective.

    The loss that is reported first is the generator's, as a masked language model's; `detection` is the
    model's own.
    """

    model_kinds: ClassVar[tuple[ModelKind, ...]] = ("encoder",)

    type: Literal["rtd"] = "rtd"
    """The objective's name."""
    mlm: MlmConfig = Field(default_factory=lambda: MlmConfig(**REPLACEMENT))
    """How rows are masked for the generator; unless told otherwise none of its tokens are random ones."""
    generator_size: float = Field(0.25, gt=0, le=1)
    """The generator's hidden_size in shares of the model's; published are 1/4 (small, large), 1/3 (base)."""
    generator_layers: float = Field(1.0, gt=0, le=1)
    """Its number of layers as a share of the model's."""
    detection_weight: NonNegativeFloat = 50.0
    """Weight of the detection's loss beside the generator's."""

    @field_validator("mlm", mode="before")
    @classmethod
    def _as_published(cls, value: Any) -> Any:
        """Let what is not said be ELECTRA's own."""
        return {**REPLACEMENT, **value} if isinstance(value, Mapping) else value

    def generator(self, model: TransformerConfig) -> TransformerConfig:
        """Return the generator for a model."""
        return generator_config(model, self.generator_size, self.generator_layers)

    def misfits(self, tokenizer: TokenizerConfig, seq_length: int) -> Iterator[Problem]:
        """Yield a tokenizer without a mask token."""
        yield from lacking_roles(self.type, ("mask",), tokenizer)

    def model_misfits(self, model: TransformerConfig) -> Iterator[Problem]:
        """Yield experts, and a generator that cannot be made."""
        if model.mixture is not None:
            yield Problem("model.mlp", "objective rtd has no balance loss for experts", "use type: dense")
        own = {problem.key for problem in model.all_problems()}
        for problem in self.generator(model).all_problems():
            if problem.key not in own:
                fault = f"the generator's {problem.key}: {problem.fault}"
                yield Problem("objective.generator_size", fault, "choose another share")

    def stacks(self, model: TransformerConfig) -> Mapping[str, TransformerConfig]:
        """Return the detector, and the generator."""
        return {**super().stacks(model), "the generator": self.generator(model)}

    def build(self, tokenizer: Tokenizer, seed: int) -> "ReplacedToken":
        """Return the objective; raises TokenizerError when there is no mask token."""
        return ReplacedToken(self, tokenizer, seed)


class ReplacedToken(Objective):
    """A masked row for the generator, a number for each of its draws, and the tokens that stood there."""

    def __init__(self, config: ReplacedTokenConfig, tokenizer: Tokenizer, seed: int) -> None:
        self._config = config
        self._mlm = config.mlm.build(tokenizer, seed)
        self._seed = seed
        self.targets_per_token = self._mlm.targets_per_token
        self.inputs = (*Objective.inputs, "uniform", "original_labels")
        self.measured = ("loss", DETECTION)

    def apply(self, row: Row, sample: int, stream: Stream = Stream.NOISE) -> Row:
        """Mask the row, and add `uniform` (float32, in [0, 1)) and `original_labels`, -100 at padding."""
        chance = distributed.random(self._seed, stream, sample, DRAWS)
        return {
            **self._mlm.apply(row, sample, stream),
            "uniform": chance.random(len(row["input_ids"]), dtype=np.float32),
            "original_labels": np.where(row["document_ids"] != 0, row["input_ids"], NO_TARGET),
        }

    def model(self, trunk: Transformer | EncoderDecoder) -> Electra:
        """Return the trunk with the detector's head, and its generator."""
        assert isinstance(trunk, Transformer)
        return Electra(trunk, self._config.generator(trunk.config))

    def exports(self, model: nn.Module) -> dict[str, LanguageModel | Detector]:
        """Return the detector, and the generator as a model of its own."""
        assert isinstance(model, Electra)
        return {"": model.detector, "-generator": model.generator}

    def flops(self, config: TransformerConfig, seq_length: int) -> float:
        """Return the training FLOPs of one sample, on both models."""
        generator = self._config.generator(config)
        return electra_flops_per_sample(config, generator, seq_length, self.targets_per_token)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of the generator's targets, and that of the tokens that are told apart."""
        asked = float((batch["original_labels"] != NO_TARGET).sum())
        return {**super().counts(batch), DETECTION: asked}

    def loss(self, model: nn.Module, batch: Batch) -> LossOutput:
        """Return the generator's cross-entropy, and the detector's binary one, in nats."""
        output = model(**{name: batch[name] for name in self.inputs})
        asked = float((batch["original_labels"] != NO_TARGET).sum())
        detection = Term(output.loss, asked, self._config.detection_weight)
        terms = {**self.terms(batch, output.generator), DETECTION: detection}
        return LossOutput(terms, output.generator.losses)
