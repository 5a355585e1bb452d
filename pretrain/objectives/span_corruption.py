"""Span corruption: restore spans that were left out of a text (Raffel et al., 2019, arXiv:1910.10683)."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from .denoiser import Denoiser
from .denoising import DenoisingConfig


class SpanCorruptionConfig(DenoisingConfig):
    """Predict spans that the model reads as a sentinel each: T5's objective.

    "Thank you for inviting me to your party" is read as "Thank you <extra_id_0> me to your <extra_id_1>" and
    predicted is "<extra_id_0> for inviting <extra_id_1> party", then the end token.
    """

    type: Literal["span_corruption"] = "span_corruption"
    """The objective's name."""
    noise_density: float = Field(0.15, gt=0, lt=1)
    """Share of a document's tokens that are left out; its begin and end tokens never are."""
    mean_span_length: float = Field(3.0, ge=1)
    """Tokens per span; more in a document that would have more spans than there are sentinels."""

    @property
    def mixture(self) -> Sequence[Denoiser]:
        return [Denoiser(noise_density=self.noise_density, mean_span_length=self.mean_span_length)]
