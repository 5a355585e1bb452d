"""UL2: a mixture of denoisers, each announced by a token of its own (Tay et al., 2022, arXiv:2205.05131)."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from .denoiser import Denoiser
from .denoising import DenoisingConfig


def published() -> list[Denoiser]:
    """Return the seven denoisers of the paper's table 1, equally often.

    R has short spans and few of them, X long spans or many, S the end of the document.
    """
    extreme = ((3, 0.5), (8, 0.5), (64, 0.15), (64, 0.5))
    return [
        *(Denoiser(mean_span_length=length, noise_density=0.15, mode="[R]") for length in (3, 8)),
        *(Denoiser(mean_span_length=length, noise_density=share, mode="[X]") for length, share in extreme),
        Denoiser(mean_span_length=None, noise_density=0.25, mode="[S]"),
    ]


class Ul2Config(DenoisingConfig):
    """Predict spans, many spans, long spans or the end of a document, and be told by a token which it is."""

    type: Literal["ul2"] = "ul2"
    """The objective's name."""
    denoisers: list[Denoiser] = Field(default_factory=published, min_length=1)
    """Those of which each document gets one."""

    @property
    def mixture(self) -> Sequence[Denoiser]:
        return self.denoisers
