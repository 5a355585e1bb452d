"""How many processes a run goes on with when some are gone, its global batch the same."""

from lumbre.errors import LaunchError

from .base import CheckError, Run
from .check import check


def most_that_fit(run: Run, left: int, fewest: int | None) -> int:
    """Return the largest number of processes, `left` or less, that the run's own program accepts.

    Raises LaunchError where none from `fewest` on does, with the program's reason against `left`.
    """
    if fewest is None or left < fewest:
        asked = (
            "all are needed: set min_ranks to go on with fewer" if fewest is None else f"min_ranks: {fewest}"
        )
        raise LaunchError(f"processes left: {left}; {asked}")
    reason = ""
    for count in range(left, fewest - 1, -1):
        try:
            check(run.job, count, quiet=True)
        except CheckError as error:
            reason = reason or str(error).strip()
        else:
            return count
    raise LaunchError(f"{run.name} cannot go on with {fewest} to {left} processes:\n{reason}")


def refuse_open_batch(run: Run) -> None:
    """Raise LaunchError where another number of processes would make the run another one."""
    if run.job.is_training and run.global_batch_size is None:
        raise LaunchError(
            f"{run.name}: train.micro_batch_size and train.accumulation_steps alone make the global batch "
            "grow with the processes, which min_ranks lets change; state train.global_batch_size and "
            "train.micro_batch_size"
        )
