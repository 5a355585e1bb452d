"""Prefix language modelling (Liu et al., 2018, arXiv:1801.10198; Raffel et al., 2019, arXiv:1910.10683)."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from .denoiser import Denoiser
from .denoising import DenoisingConfig


class PrefixLmConfig(DenoisingConfig):
    """Predict a document from the place where it is cut, drawn uniformly; what comes before is seen whole."""

    type: Literal["prefix_lm"] = "prefix_lm"
    """The objective's name."""
    min_document_length: int = Field(2, ge=2)
    """Fewest tokens of a document, or of a row's piece of one, that is cut; shorter ones are read."""

    @property
    def mixture(self) -> Sequence[Denoiser]:
        return [Denoiser(noise_density=0.5, mean_span_length=None)]
