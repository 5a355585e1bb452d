"""Documents whose loss stands far out of what is usual, found in the very step that would learn from them.

The loss per target of a document is taken for a center plus what is the document's own plus what is each
target's own: the one-way random-effects model (Searle, Casella and McCulloch, 1992, "Variance Components",
3.6), fitted by moments within each step and pooled over the last ones. All that it needs are sums, so that
ranks agree on it by one of theirs. A target's loss is skewed as a gamma variable is, so that the mean of few
has a longer tail than a normal one's: the sub-gamma bound (Boucheron, Lugosi and Massart, 2013,
"Concentration Inequalities", 2.4).

Shapes: P pieces, N sets of data, W steps; F is of `Moments` or `Fit`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lumbre import distributed
from lumbre.trainer.pieces import Pieces

WINDOW = 64
"""Steps that tell how far losses usually are from their center."""
RECENT = 8
"""And those that tell the center, which falls fast at first: steps before any document is told from it."""
DEVIATIONS = 6.0
"""How many standard deviations above the center a piece stands out."""
LEAST_RISE = 0.33
"""And by what share of the center, for a model that as yet finds all documents alike."""
MOST = 0.25
"""A larger share of a step's pieces is no few documents but a jump of the model or a change of the data."""


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

    def fit(self) -> "Fit":
        """Return what of the fit is the step's."""
        center = self.loss / self.targets
        return Fit(
            center,
            within=self.squares - self.squared_sums,
            within_freedom=self.targets - self.pieces,
            between=self.squared_sums - self.loss * center,
            between_freedom=self.targets - self.squared_targets / self.targets,
            others=self.pieces - 1.0,
        )


class Fit(NamedTuple):
    """A step's part of the fit by moments: all but the center add up over steps."""

    center: float
    within: float
    """Squares within pieces, and below what a unit of the variance within is expected to bring to them."""
    within_freedom: float
    between: float
    """Squares between pieces, and below what units of the variances between and within bring to them."""
    between_freedom: float
    others: float


class _Usual(NamedTuple):
    center: float
    between: float
    """Variance of what is a document's own."""
    within: float
    """Variance of what is a target's own."""


_UNKNOWN = _Usual(np.inf, 0.0, 0.0)
_TOLD = 3
"""The first of the moments, which say how many pieces stand out, and their loss."""


class UsualLosses:
    """What losses are usual in each set; the same on every rank, and after a resume."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._numbers_N1 = np.arange(len(names))[:, None]
        self._none_told = [0.0] * (_TOLD * len(names))
        self._windows = [np.zeros((0, len(Fit._fields))) for _ in names]
        self._usual_N3 = np.array([_UNKNOWN] * len(names))
        self._fresh: list[Moments] = []

    def standing_out(self, pieces: Pieces) -> tuple[np.ndarray, bool]:
        """Return which of this rank's pieces of a step stand out, and whether any rank's may; all call."""
        source_P = pieces.places.source_P
        targets_P, loss_P, _ = pieces.sums_P3.T
        means_P = loss_P / targets_P
        moments_FP = np.empty((len(Moments._fields), len(means_P)))
        moments_FP[0] = 1.0
        moments_FP[1:4] = pieces.sums_P3.T
        np.multiply(loss_P, means_P, out=moments_FP[4])
        np.multiply(targets_P, targets_P, out=moments_FP[5])
        own_NP = source_P == self._numbers_N1
        center_N, between_N, within_N = self._usual_N3.T
        within_P = within_N[source_P] / targets_P
        margin_P = DEVIATIONS * np.sqrt(between_N[source_P] + within_P)
        margin_P += DEVIATIONS**2 / 2 * within_P / center_N[source_P]
        out_P = means_P > _limit(center_N[source_P], margin_P)
        own_NF = own_NP @ moments_FP.T
        told = ((own_NP & out_P) @ moments_FP[:_TOLD].T).ravel().tolist() if out_P.any() else self._none_told
        sums = distributed.sum_over_ranks(own_NF.ravel().tolist() + told)
        size = len(Moments._fields)
        self._fresh = [Moments(*sums[at : at + size]) for at in range(0, own_NF.size, size)]
        if not any(sums[own_NF.size :: _TOLD]):
            return out_P, False
        told_N3 = np.array(sums[own_NF.size :]).reshape(-1, _TOLD)
        # Against the rest of its own step as well: where all losses rise, no document is the cause.
        fresh_N3 = np.array([one[:_TOLD] for one in self._fresh])
        rest_N3 = fresh_N3 - told_N3
        rest_N = rest_N3[:, 2] / np.maximum(rest_N3[:, 1], 1.0)
        few_N = told_N3[:, 0] <= np.maximum(1, MOST * fresh_N3[:, 0])
        out_P &= means_P > _limit(np.maximum(center_N, rest_N)[source_P], margin_P)
        return out_P & few_N[source_P], True

    def take_up(self) -> None:
        """Let the last step count for what is usual."""
        for source, fresh in enumerate(self._fresh):
            if fresh.pieces:
                self._learn(source, np.concatenate([self._windows[source], [fresh.fit()]]))

    def center(self, source: int) -> float:
        """Return the usual loss per target of a set."""
        return float(self._usual_N3[source, 0])

    def state(self) -> dict[str, list[list[float]]]:
        """Return what a checkpoint carries of it."""
        return {name: window.tolist() for name, window in zip(self._names, self._windows, strict=True)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, of the sets that are still there."""
        for source, name in enumerate(self._names):
            window = np.array(state.get(name, ()), dtype=np.float64)
            self._learn(source, window.reshape(-1, len(Fit._fields)))

    def _learn(self, source: int, window_WF: np.ndarray) -> None:
        window = self._windows[source] = window_WF[-WINDOW:]
        self._usual_N3[source] = _usual(window) if len(window) >= RECENT else _UNKNOWN


def _limit(center_P: np.ndarray, margin_P: np.ndarray) -> np.ndarray:
    """Return the loss per target above which a piece stands out."""
    limit_P: np.ndarray = center_P + np.maximum(margin_P, LEAST_RISE * center_P)
    return limit_P


def _usual(window_WF: np.ndarray) -> _Usual:
    _, within, within_freedom, between, between_freedom, others = window_WF.sum(axis=0).tolist()
    within = max(0.0, within / max(1.0, within_freedom))
    between = max(0.0, (between - others * within) / max(1.0, between_freedom))
    centers = sorted(window_WF[-RECENT:, 0].tolist())
    return _Usual(centers[len(centers) // 2], between, within)
