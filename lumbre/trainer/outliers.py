"""Documents whose loss stands far out of what is usual, found in the very step that would learn from them.

The loss per target of a document is taken for a center plus what is the document's own plus what is each
target's own: the one-way random-effects model (Searle, Casella and McCulloch, 1992, "Variance Components",
3.6), fitted by moments within each step and pooled over the last ones. All that it needs are sums, so that
ranks agree on it by one of theirs.

Shapes: M targets, P pieces (the part of one document in one row), N sets of data.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from lumbre import distributed

WINDOW = 64
"""Steps that tell what is usual."""
FEWEST = 32
"""Steps before any document is told from it."""
DEVIATIONS = 6.0
"""How many standard deviations above the center a piece stands out."""
LEAST_RISE = 0.33
"""And by what share of the center, for a model that as yet finds all documents alike."""
MOST = 0.25
"""A larger share of a step's pieces is no few documents but a jump of the model or a change of the data."""


@dataclass(frozen=True)
class Pieces:
    """What a rank's micro batches say of pieces."""

    sample_P: np.ndarray
    """Index of the row in the global stream."""
    number_P: np.ndarray
    """Which document of the row, from 1."""
    source_P: np.ndarray
    """Number of the set."""
    sums_P3: np.ndarray
    """How many targets, the sum of their losses, and the sum of the squares."""

    @property
    def means(self) -> np.ndarray:
        """The loss per target [P]."""
        means_P: np.ndarray = self.sums_P3[:, 1] / self.sums_P3[:, 0]
        return means_P


class Moments(NamedTuple):
    """Sums over the pieces of one set in one step."""

    pieces: float
    targets: float
    loss: float
    squares: float
    """Of each target's loss."""
    squared_sums: float
    """Of each piece's loss, by its targets."""
    squared_targets: float


class _Usual(NamedTuple):
    center: float
    between: float
    """Variance of what is a document's own."""
    within: float
    """Variance of what is a target's own."""

    def limit(self, targets_P: np.ndarray, center: float) -> np.ndarray:
        """Return the loss per target above which a piece of so many targets stands out of a center."""
        deviation_P = np.sqrt(self.between + self.within / targets_P)
        return center + np.maximum(DEVIATIONS * deviation_P, LEAST_RISE * center)


class UsualLosses:
    """What losses are usual in each set; the same on every rank, and after a resume."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._windows: list[deque[Moments]] = [deque(maxlen=WINDOW) for _ in names]
        self._fresh: list[Moments] = []

    def standing_out(self, pieces: Pieces) -> tuple[np.ndarray, bool]:
        """Return which of this rank's pieces of a step stand out, and whether any rank's may; all call."""
        usual = [_usual(window) if len(window) >= FEWEST else None for window in self._windows]
        out_P = self._out(pieces, usual, [one.center if one else 0.0 for one in usual])
        fresh_N6, told_N6 = np.split(
            np.array(distributed.sum_over_ranks(self._moments(pieces, out_P).flatten().tolist())), 2
        )
        fresh_N6, told_N6 = (
            sums.reshape(len(self._names), len(Moments._fields)) for sums in (fresh_N6, told_N6)
        )
        self._fresh = [Moments(*sums) for sums in fresh_N6.tolist()]
        if not told_N6[:, 0].any():
            return out_P, False
        # Against the rest of its own step as well: where all losses rise, no document is the cause.
        rest_N6 = fresh_N6 - told_N6
        rest_N = rest_N6[:, 2] / np.maximum(rest_N6[:, 1], 1.0)
        few_N = told_N6[:, 0] <= np.maximum(1, MOST * fresh_N6[:, 0])
        centers = [max(one.center, rest) if one else 0.0 for one, rest in zip(usual, rest_N, strict=True)]
        out_P &= self._out(pieces, usual, centers) & few_N[pieces.source_P]
        return out_P, True

    def take_up(self) -> None:
        """Let the last step count for what is usual."""
        for window, moments in zip(self._windows, self._fresh, strict=True):
            if moments.pieces:
                window.append(moments)

    def center(self, source: int) -> float:
        """Return the usual loss per target of a set."""
        return _usual(self._windows[source]).center

    def state(self) -> dict[str, list[list[float]]]:
        """Return what a checkpoint carries of it."""
        return {
            name: [list(moments) for moments in window]
            for name, window in zip(self._names, self._windows, strict=True)
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, of the sets that are still there."""
        for name, window in zip(self._names, self._windows, strict=True):
            window.clear()
            window.extend(Moments(*moments) for moments in state.get(name, ()))

    def _out(self, pieces: Pieces, usual: Sequence[_Usual | None], centers: Sequence[float]) -> np.ndarray:
        out_P = np.zeros(len(pieces.source_P), dtype=bool)
        for source, (one, center) in enumerate(zip(usual, centers, strict=True)):
            if one is not None:
                own_P = pieces.source_P == source
                out_P[own_P] = pieces.means[own_P] > one.limit(pieces.sums_P3[own_P, 0], center)
        return out_P

    def _moments(self, pieces: Pieces, out_P: np.ndarray) -> np.ndarray:
        """Return [2, N, 6]: the moments of each set's pieces, and of those among them that stand out."""
        targets_P, loss_P, squares_P = pieces.sums_P3.T
        each_P6 = np.stack(
            [np.ones_like(targets_P), targets_P, loss_P, squares_P, loss_P**2 / targets_P, targets_P**2],
            axis=1,
        )
        sums = np.zeros((2, len(self._names), each_P6.shape[1]))
        np.add.at(sums[0], pieces.source_P, each_P6)
        np.add.at(sums[1], pieces.source_P[out_P], each_P6[out_P])
        return sums


def pieces_of(
    targets_BT: torch.Tensor,
    documents_BT: torch.Tensor,
    losses_M: torch.Tensor,
    sample_B: torch.Tensor,
    source_B: torch.Tensor,
) -> tuple[np.ndarray, torch.Tensor]:
    """Return [P, 3] sample, document and set of each piece with targets, and its sums [P, 3].

    The sums are on the device of the losses, which is not waited for.
    """
    stride = int(documents_BT.max()) + 1
    keys_BT = torch.arange(len(documents_BT))[:, None] * stride + documents_BT
    # numpy's indexing by a mask takes a fraction of torch's time.
    keys_M = torch.from_numpy(keys_BT.numpy()[targets_BT.numpy()])
    targets_K = torch.bincount(keys_M, minlength=len(documents_BT) * stride)
    keys_P = targets_K.nonzero()[:, 0]
    rows_P = keys_P // stride
    names_P3 = torch.stack([sample_B[rows_P], keys_P % stride, source_B[rows_P]], dim=1).numpy()
    losses_M, device = losses_M.detach().float(), losses_M.device
    keys_M, keys_P, targets_K = (keys.to(device, non_blocking=True) for keys in (keys_M, keys_P, targets_K))
    sums = [losses_M.new_zeros(len(targets_K)).index_add_(0, keys_M, one) for one in (losses_M, losses_M**2)]
    return names_P3, torch.stack([targets_K.float(), *sums], dim=1)[keys_P]


def _usual(window: Sequence[Moments]) -> _Usual:
    pieces, targets, loss, squares, squared_sums, squared_targets = np.array(window).T
    centers = np.sort(loss / targets)
    within = max(0.0, (squares - squared_sums).sum() / max(1.0, (targets - pieces).sum()))
    among = squared_sums - loss**2 / targets - (pieces - 1) * within
    between = among.sum() / max(1.0, (targets - squared_targets / targets).sum())
    return _Usual(float(centers[len(centers) // 2]), max(0.0, float(between)), float(within))
