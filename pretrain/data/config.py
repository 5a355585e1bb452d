"""What a run is trained on: a corpus or a mixture of several, and how documents become rows."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from lumbre.errors import Problem

from .packing import ConcatenateConfig, PackingConfig
from .plan import StageConfig, weights_of
from .preparation.raw import CorpusConfig

Exhausted = Literal["repeat", "stop"]


class SetConfig(CorpusConfig):
    """One of the sets of a mixture: a corpus, or a folder of prepared data."""

    weight: PositiveFloat | None = None
    """Its share of the samples, beside the others' weights; without one it waits for a stage to name it."""
    when_exhausted: Exhausted = "repeat"
    """What happens after its last row: it begins anew in another order, or the run ends."""


class DataConfig(CorpusConfig):
    """A corpus, or a mixture of several, and how its documents become rows."""

    mixture: dict[str, SetConfig] = Field(default_factory=dict)
    """Sets by name, in place of `sources` and what else a single corpus has."""
    seq_length: PositiveInt = 128
    """Tokens a row; chosen at run time, nothing is prepared anew for another."""
    packing: PackingConfig = Field(default_factory=ConcatenateConfig)
    """How documents become rows."""
    when_exhausted: Exhausted = "repeat"
    """What happens after the last row: the corpus begins anew in another order, or the run ends."""
    stages: list[StageConfig] = Field(default_factory=list)
    """What changes in the course of the run: row length, weights, batch."""
    loader_workers: NonNegativeInt = 0
    """Processes that make batches ahead of time; 0 makes them in a thread of the training process."""

    @property
    def sets(self) -> Mapping[str, "SetConfig | DataConfig"]:
        """The sets by name; a single corpus is the set without a name."""
        return self.mixture or {"": self}

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of each set at the start of the run."""
        if not self.mixture:
            return (1.0,)
        named = {name: one.weight for name, one in self.mixture.items() if one.weight is not None}
        return weights_of(named, list(self.mixture))

    @property
    def largest_weights(self) -> tuple[float, ...]:
        """The largest share that each set has in any stage; 0 of one that never takes part."""
        named = [self.weights]
        named += [weights_of(stage.weights, list(self.mixture)) for stage in self.stages if stage.weights]
        shares = [[weight / sum(weights) for weight in weights] for weights in named if any(weights)]
        return tuple(map(max, zip(*shares, strict=True)))

    @property
    def seq_lengths(self) -> list[int]:
        """The row length of each stage, the first one's first."""
        lengths = [self.seq_length]
        for stage in self.stages:
            lengths.append(stage.seq_length or lengths[-1])
        return lengths

    def problems(self) -> Iterator[Problem]:
        """Report a mixture that cannot be drawn from, and stages out of order."""
        if self.mixture:
            yield from self._mixture_problems()
        else:
            yield from super().problems()
        before = 0
        for index, stage in enumerate(self.stages):
            key = f"stages.{index}"
            if stage.after_step <= before:
                fault = f"{stage.after_step} does not come after {before}, where the stage before begins"
                yield Problem(f"{key}.after_step", fault, "state stages in the order of their steps")
            before = stage.after_step
            if stage.weights is None:
                continue
            if not stage.weights:
                yield Problem(f"{key}.weights", "no set takes part", "name one, or leave the key out")
            for name in stage.weights:
                if name not in self.mixture:
                    known = f"sets are {', '.join(self.mixture)}" if self.mixture else "there is no mixture"
                    yield Problem(f"{key}.weights.{name}", "no set of the mixture", known)

    def _mixture_problems(self) -> Iterator[Problem]:
        stated = [key for key in SINGLE if getattr(self, key) != _default(key)]
        for key in stated:
            yield Problem(key, "with a mixture, each set has its own", f"move it to mixture.NAME.{key}")
        for name in self.mixture:
            if not name or any(letter in name for letter in "/.\0\n"):
                fault = f"{name!r} cannot be a set's name"
                yield Problem("mixture", fault, "use letters, digits and dashes")
        if not any(self.weights):
            yield Problem("mixture", "no set has a weight", "set mixture.NAME.weight of those to begin with")
            return
        for name, share in zip(self.mixture, self.largest_weights, strict=True):
            if not share:
                fault = "has no weight, and no stage names it"
                yield Problem(f"mixture.{name}.weight", fault, "give it one, or leave the set out")


def _default(key: str) -> Any:
    return DataConfig.model_fields[key].get_default(call_default_factory=True)


SINGLE = [*CorpusConfig.model_fields, "when_exhausted"]
"""The keys that a single corpus has and a mixture's sets have each."""
