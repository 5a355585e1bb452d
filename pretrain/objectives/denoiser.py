"""One way to split a document into what is read and what is predicted of it: spans, or its end.

Spans are drawn as by `random_spans_noise_mask` of T5's code (Raffel et al., 2019, arXiv:1910.10683, 3.1.4):
kept and left-out parts take turns, a kept one first, and every way to cut a document so is equally likely.
The place where an end begins is uniform, as by its `random_prefix_noise_mask`.

Shapes: M tokens of a document, K spans of it, L documents.
"""

from typing import NamedTuple

import numpy as np
from pydantic import Field

from lumbre.config import Config


class Sizes(NamedTuple):
    """Tokens of documents, the most that may be drawn."""

    source_L: np.ndarray
    """Read."""
    target_L: np.ndarray
    """Predicted."""
    both_L: np.ndarray
    """Of both together."""
    expected_L: np.ndarray
    """Predicted on average."""


class Denoiser(Config):
    """A share of a document that is left out, in spans or as its end (Tay et al., 2022, arXiv:2205.05131)."""

    noise_density: float = Field(0.15, gt=0, lt=1)
    """Share of the tokens that are left out; of an end, on average."""
    mean_span_length: float | None = Field(3.0, ge=1)
    """Tokens per span; null leaves out one span, the end, which begins at a place drawn uniformly."""
    rate: float = Field(1.0, gt=0)
    """How often it is drawn, against the other denoisers."""
    mode: str | None = None
    """Special token before what is read, by which a model is told what to do; null is none."""

    def sizes(self, lengths_L: np.ndarray, sentinels: int) -> Sizes:
        """Return what `split` makes of documents of so many tokens, and a span's end token and mode."""
        mode = int(self.mode is not None)
        if self.mean_span_length is None:
            most_L = self.most(lengths_L)
            return Sizes(lengths_L - 1 + mode, most_L, lengths_L + mode, (most_L + 1) / 2)
        left_out_L, spans_L = self.spans(lengths_L, sentinels)
        source_L, target_L = lengths_L - left_out_L + spans_L + mode, left_out_L + spans_L + 1
        return Sizes(source_L, target_L, source_L + target_L, target_L)

    def split(
        self, document_M: np.ndarray, sentinels: np.ndarray, end: tuple[int, ...], chance: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what is read of a document and what is predicted.

        Of spans, the document's end token is read, and predicted is one more. An end that is left out is
        predicted as it is.
        """
        if self.mean_span_length is None:
            cut = len(document_M) - 1 - int(chance.integers(self.most(len(document_M))))
            return document_M[:cut], document_M[cut:]
        # A begin token is always kept: the first part is.
        stop = len(document_M) - int(document_M[-1] in end)
        text_M = document_M[:stop]
        left_out, spans = (int(size) for size in self.spans(len(text_M), len(sentinels)))
        kept_K = _ends(len(text_M) - left_out, spans, chance)
        stops_K = _ends(left_out, spans, chance)
        starts_K = np.append(0, stops_K[:-1])
        turns_M = np.zeros(len(text_M) + 1, dtype=np.int8)
        turns_M[kept_K + starts_K] = 1
        turns_M[kept_K + stops_K] = -1
        noise_M = turns_M[:-1].cumsum() == 1
        source = np.insert(text_M[~noise_M], kept_K, sentinels[:spans])
        target = np.insert(text_M[noise_M], starts_K, sentinels[:spans])
        return np.append(source, document_M[stop:]), np.append(target, end)

    def spans(self, length: np.ndarray | int, sentinels: int) -> tuple[np.ndarray, np.ndarray]:
        """Return how many tokens of documents of that many are left out, and in how many spans.

        There are at most as many spans as sentinels: beyond, the spans are longer and the share is the same.
        """
        assert self.mean_span_length is not None
        left_out = np.rint(length * self.noise_density).astype(np.int64)
        left_out = np.maximum(1, np.minimum(left_out, length - 1))
        spans = np.rint(left_out / self.mean_span_length).astype(np.int64)
        return left_out, np.maximum(1, np.minimum(spans, np.minimum(length - left_out, sentinels)))

    def most(self, length: np.ndarray | int) -> np.ndarray:
        """Return the longest end of documents of that many tokens: drawn is 1 to that many, all alike."""
        return np.clip(np.rint(2 * length * self.noise_density).astype(np.int64) - 1, 1, length - 1)


def _ends(length: int, parts: int, chance: np.random.Generator) -> np.ndarray:
    """Return where each of some non-empty parts of a length ends, every way to cut it equally likely."""
    cuts = np.sort(chance.choice(length - 1, parts - 1, replace=False)) + 1
    return np.append(cuts, length)
