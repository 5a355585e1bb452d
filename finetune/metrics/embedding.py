"""Retrieval among the pairs of a split: how near each text's own partner is (accuracy at 1, MRR).

Shapes: N pairs, D hidden.
"""

from collections.abc import Sequence

import numpy as np

CHUNK = 1024
"""Pairs that are compared with all others at a time."""


def nearest(
    first_ND: np.ndarray, second_ND: np.ndarray, names_N: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each pair which second text is nearest to its first, and the rank of its own, from 1.

    Embeddings are normalised. Second texts of the same name are the same text: none outranks another.
    """
    _, texts_N = np.unique(np.asarray(names_N), return_inverse=True)
    found, ranks = [], []
    for start in range(0, len(first_ND), CHUNK):
        span = slice(start, start + CHUNK)
        cosines_MN = first_ND[span] @ second_ND.T
        own_M = cosines_MN[np.arange(len(cosines_MN)), np.arange(len(first_ND))[span]]
        same_MN = texts_N[span, None] == texts_N
        better_MN = (cosines_MN > own_M[:, None]) & ~same_MN
        best_M = np.where(same_MN, own_M[:, None], cosines_MN).argmax(axis=1)
        found.append(best_M)
        ranks.append(1 + better_MN.sum(axis=1))
    return np.concatenate(found), np.concatenate(ranks)


def retrieval(ranks_N: np.ndarray) -> dict[str, float]:
    """Return accuracy, the share of ranks that are 1, and mrr, the mean of their reciprocals."""
    return {"accuracy": float(np.mean(ranks_N == 1)), "mrr": float(np.mean(1 / ranks_N))}
