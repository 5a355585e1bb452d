"""Which checkpoints stay on disk: the latest, every n-th, the best."""

from collections.abc import Collection, Mapping

from lumbre.checkpoint.config import CheckpointConfig


def doomed(
    steps: Collection[int],
    metrics: Mapping[int, float],
    damaged: Collection[int],
    newest: int,
    config: CheckpointConfig,
) -> list[int]:
    """Return the steps whose checkpoints go, now that `newest` is whole, the oldest first.

    `metrics` has the value of the metric that `keep_best` names, for the checkpoints that were measured.
    A damaged one goes, and counts for nothing; what is later than the newest, which a run that was set back
    will come to again, stays.
    """
    whole = sorted(step for step in steps if step <= newest and step not in damaged)
    kept = set(whole[-config.keep :]) | {newest}
    if config.keep_every is not None:
        kept |= {step for step in whole if step % config.keep_every == 0}
    if config.keep_best is not None:
        sign = config.keep_best.sign
        measured = [step for step in whole if step in metrics]
        # Of equals the later one has learnt for longer.
        kept |= set(
            sorted(measured, key=lambda step: (sign * metrics[step], step))[-config.keep_best.count :]
        )
    return [step for step in sorted(steps) if step <= newest and step not in kept]
