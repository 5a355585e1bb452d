"""What a tracker is, and the fan-out that gives each row of a run to all of them."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

from lumbre import distributed
from lumbre.config import Choice
from lumbre.errors import UserError
from lumbre.tracking.artifact import Artifact, ArtifactTracker
from lumbre.tracking.console import console_tracker
from lumbre.tracking.jsonl import METRICS_FILE, JsonlTracker, cut_back
from lumbre.tracking.rows import Row, event
from lumbre.tracking.system import NodeWatch


@dataclass(frozen=True)
class RunInfo:
    """What a tracker knows of the run whose rows it gets."""

    name: str
    folder: Path
    config: dict[str, Any]
    """The resolved config, nested."""
    total_steps: int
    start_step: int = 0
    """The step restored on resume; the first row comes after it."""
    job: str = "pretrain"


class Tracker(Protocol):
    """Takes rows in order of their steps."""

    name: str

    def log(self, row: Row) -> None:
        """Take one row."""

    def finish(self, exit_status: int) -> None:
        """Send what is left and close; `exit_status` is the one that the program will end with."""


@runtime_checkable
class RewindingTracker(Protocol):
    """A tracker that has more to do than to go on when a run goes back to an earlier step."""

    def roll_back(self, step: int, event: Row) -> None:
        """Drop what came after `step`; `event`, which tells of it, is the first row after that."""


@runtime_checkable
class RemoteTracker(Protocol):
    """A tracker that sends rows elsewhere."""

    @property
    def unreachable(self) -> str:
        """Why rows are kept here for now, though sending them was wanted; "" where they are sent."""


class TrackerConfig(Choice):
    """A tracker beside metrics.jsonl and the console."""

    @property
    def node_seconds(self) -> float | None:
        """Seconds between looks at every node that the tracker asks for; None where it asks for none."""
        return None

    def build(self, run: RunInfo) -> Tracker:
        """Open the tracker for a run; raises UserError where the user asked for what cannot be had."""
        raise NotImplementedError


class Trackers:
    """All trackers of a run as one, for any thread; a rank that is not the main one has no rows to give.

    A tracker that fails is switched off and the run goes on, with an event that says so. A UserError,
    such as a read-only disk under metrics.jsonl, is the run's own affair and passes through.
    """

    name = "trackers"

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self._trackers = list(trackers)
        self._lock = threading.RLock()

    @classmethod
    def start(cls, run: RunInfo, configs: Sequence[TrackerConfig] = ()) -> Self:
        """Cut metrics.jsonl back to the step the run starts from, and open every tracker.

        Every rank calls: the main one tracks, and one of each node watches it where a tracker asks for that.
        """
        world, trackers = distributed.world(), cls()
        looks = [config.node_seconds for config in configs if config.node_seconds is not None]
        if looks and world.local_rank == 0:
            trackers._trackers.append(NodeWatch(run.folder, min(looks)))
        if not world.is_main:
            return trackers
        file = run.folder / METRICS_FILE
        cut_back(file, run.start_step)
        trackers._trackers += [
            JsonlTracker(file, trackers.log),
            console_tracker(run.name, run.total_steps, run.start_step),
        ]
        for config in configs:
            try:
                tracker = config.build(run)
            except UserError:
                raise
            except Exception as error:
                trackers._report(str(getattr(config, "type", config)), error, run.start_step)
            else:
                trackers._trackers.append(tracker)
                if isinstance(tracker, RemoteTracker) and (reason := tracker.unreachable):
                    trackers.log(event("tracker_offline", run.start_step, f"{tracker.name}: {reason}"))
        return trackers

    def log(self, row: Row) -> None:
        """Give a row to every tracker."""
        with self._lock:
            for tracker in list(self._trackers):
                self._try(tracker, partial(tracker.log, row), row.get("step", 0))

    def roll_back(self, step: int, event: Row) -> None:
        """Drop the rows after `step`, and tell of it by `event`.

        Trackers take the event before, as the last that happened to what is dropped; one that cannot take
        rows back begins anew, with those that are left.
        """
        self.log(event)
        with self._lock:
            # metrics.jsonl, which others read, after them.
            for tracker in reversed(list(self._trackers)):
                if isinstance(tracker, RewindingTracker):
                    self._try(tracker, partial(tracker.roll_back, step, event), step)

    def artifact(self, artifact: Artifact) -> None:
        """Give what the run reads or has written to the trackers that keep such."""
        with self._lock:
            for tracker in self._trackers:
                if isinstance(tracker, ArtifactTracker):
                    tracker.artifact(artifact)

    def finish(self, exit_status: int) -> None:
        """Close every tracker, metrics.jsonl last of those with rows."""
        with self._lock:
            while self._trackers:
                tracker = self._trackers[-1]
                try:
                    tracker.finish(exit_status)
                except UserError:
                    raise
                except Exception as error:
                    self._trackers.remove(tracker)
                    self._report(tracker.name, error, 0)
                else:
                    self._trackers.remove(tracker)

    def _try(self, tracker: Tracker, action: Callable[[], None], step: int) -> None:
        try:
            action()
        except UserError:
            raise
        except Exception as error:
            self._trackers.remove(tracker)
            self._report(tracker.name, error, step)

    def _report(self, name: str, error: Exception, step: int) -> None:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        self.log(
            event("tracker_off", step, f"{name} failed and is switched off, the run goes on: {lines[0]}")
        )
