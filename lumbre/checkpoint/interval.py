"""How long to train between checkpoints: a save costs time, and so does what a failure undoes.

With M the mean time between failures and d the time that a save costs, sqrt(2 d M) is best to first order
(Young, 1974, doi:10.1145/361147.361115); Daly (2006, doi:10.1016/j.future.2004.11.016, equation 37) has the
next terms.
"""

from math import sqrt

SECONDS_A_DAY = 86_400.0


def best_interval(cost: float, between_failures: float) -> float:
    """Return the seconds of training between two saves that lose the least time, by Daly's equation 37.

    `cost` is what one save costs and `between_failures` the mean time between failures, both in seconds.
    """
    if cost >= 2 * between_failures:
        return between_failures
    ratio = cost / (2 * between_failures)
    return sqrt(2 * cost * between_failures) * (1 + sqrt(ratio) / 3 + ratio / 9) - cost
