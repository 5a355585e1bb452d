"""Which keys each query sees, and what is added to its scores: one description for every kernel.

Shapes: B batch, Q queries, T keys, N heads, S places where a document starts.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class Run(NamedTuple):
    """Neighbouring tokens of one document."""

    document: int
    """0 is padding."""
    start: int
    """Its first token, counted through all rows."""
    length: int


@dataclass(frozen=True)
class Pattern:
    """What one kind of layer attends to, made once per forward."""

    causal: bool
    """Whether a query sees no later key."""
    window: int | None = None
    """Farthest distance at which a query sees a key, to either side; None is no limit."""
    query_documents_BQ: Tensor | None = None
    """The document of each query, 0 for padding; None where every row is one document without padding."""
    key_documents_BT: Tensor | None = None
    """The document of each key; given with the queries'."""
    bias_BNQT: Tensor | None = None
    """Added to the scores; B may be 1."""
    past: int = 0
    """Keys before the first query: decoding goes on from them."""
    prefix_BT: Tensor | None = None
    """Of a causal pattern: which keys every query of their document sees, earlier ones too (Raffel et al.,
    2019, 3.2.1)."""

    @property
    def itself(self) -> bool:
        """Whether queries and keys are the same tokens."""
        return self.query_documents_BQ is self.key_documents_BT and self.past == 0

    def plain(self, keys: int) -> bool:
        """Return whether all that matters is whether the pattern is causal."""
        narrow = self.window is not None and self.window < keys - 1
        some = (self.query_documents_BQ, self.bias_BNQT, self.prefix_BT)
        return not narrow and all(one is None for one in some)

    def allowed(self, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """Return what is seen, a bool [B or 1, 1, Q, T], or None where everything is.

        A token sees its own document alone. Padding (document 0) sees padding, and where there is none
        among the keys, everything: no row is empty.
        """
        allowed: Tensor | None = None
        if self.query_documents_BQ is not None and self.key_documents_BT is not None:
            asks, has = self.query_documents_BQ[:, :, None], self.key_documents_BT[:, None, :]
            allowed = asks == has if self.itself else (asks == has) | (asks == 0)
            allowed = allowed[:, None]
        if self.causal or self.window is not None:
            query_Q1 = torch.arange(self.past, self.past + queries, device=device)[:, None]
            prefix = None if self.prefix_BT is None else self.prefix_BT[:, None, None]
            seen = self.near(query_Q1, torch.arange(keys, device=device), prefix)
            seen = seen if prefix is not None else seen[None, None]
            allowed = seen if allowed is None else allowed & seen
        return allowed

    def near(self, query_Q1: Tensor, key_T: Tensor, prefix: Tensor | None = None) -> Tensor:
        """Return which keys are within the window and in no query's future or of the prefix, by their places.

        `prefix` says of each key whether it is; it is broadcast against [Q, T].
        """
        ahead = query_Q1 - key_T
        seen = ahead >= 0 if self.causal else torch.ones_like(ahead, dtype=torch.bool)
        seen = seen if prefix is None else seen | prefix
        return seen if self.window is None else seen & (ahead.abs() <= self.window)

    def runs(self, rows: int, queries: int) -> list[Run] | None:
        """Return the documents in their order, padding too, row after row.

        None where one lies in several pieces of a row, or all is padding. Reads from the device twice.
        """
        documents_BQ = self.query_documents_BQ
        if documents_BQ is None:
            return [Run(1, row * queries, queries) for row in range(rows)]
        starts_BQ = torch.ones_like(documents_BQ, dtype=torch.bool)
        starts_BQ[:, 1:] = documents_BQ[:, 1:] != documents_BQ[:, :-1]
        start_S = starts_BQ.flatten().nonzero()[:, 0]
        documents = documents_BQ.flatten()[start_S].tolist()
        ends = pairwise([*start_S.tolist(), rows * queries])
        runs = [
            Run(document, start, end - start) for document, (start, end) in zip(documents, ends, strict=True)
        ]
        pieces = [(run.start // queries, run.document) for run in runs if run.document]
        return runs if 0 < len(pieces) == len(set(pieces)) else None
