"""THE training loop, for pretraining and fine-tuning alike: fit, train_step, evaluate.

It knows one protocol, `Learner`: what an objective and a task both are. Every loss term is a sum over
targets, divided by the term's own count over the whole global batch, so that neither accumulation nor
the number of ranks shows in the gradient.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lumbre import distributed, watchdog
from lumbre.checkpoint import Checkpoints, differences
from lumbre.engine import Engine
from lumbre.errors import CheckpointError, ExitStatus, LumbreError, TrainingError
from lumbre.hardware import Peak, peak_memory_bytes
from lumbre.optim import OptimizerConfig, ScheduleConfig
from lumbre.peers import told
from lumbre.signals import StopRequest, stop_request
from lumbre.tracking import Artifact, Row, Trackers, event
from lumbre.trainer.config import TrainConfig
from lumbre.trainer.health import Health
from lumbre.trainer.interval import Interval
from lumbre.trainer.learner import Batch, Learner, combined, on_device, total
from lumbre.trainer.non_finite import marked
from lumbre.trainer.notes import Notes, rows
from lumbre.trainer.parts import Batches, Evaluator, Probes, Selection, Watch
from lumbre.trainer.saves import Saves
from lumbre.trainer.steps import Done, Steps
from lumbre.watchdog.watch import telling
from lumbre.world import restart


@dataclass
class Trainer:
    """Everything that one run of training needs; `fit` runs it to its end."""

    config: TrainConfig
    seed: int
    """Seeds what a model draws in its forward pass (dropout), from (seed, step, micro batch, rank)."""
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    engine: Engine
    learner: Learner
    batches: Callable[[int], Batches]
    """From the number of steps done to the micro batches of the steps after it."""
    evaluator: Evaluator
    checkpoints: Checkpoints
    identity: Callable[[int], Mapping[str, Any]]
    """What a checkpoint of so many steps must share with this run to be continued: model, data, seed, ..."""
    trackers: Callable[[int], Trackers]
    """From the number of steps done to the trackers; called once, after the checkpoint is loaded."""
    samples: Callable[[int], int]
    """How many samples so many steps take."""
    flops: Callable[[int], float] | None
    """Training FLOPs of step 1, 2, ... by formula, for MFU; None where there is no formula."""
    peak: Peak
    selection: Selection | None = None
    """What the evaluations decide; None where they decide nothing."""
    probes: Sequence[Probes] = ()
    """What is looked at on a copy of the weights."""
    watch: Watch | None = None
    """What looks at each step's losses before it is applied."""
    counted: bool = True
    """Whether this rank's sums count. Of ranks that are given the same samples whole, one's do."""

    def __post_init__(self) -> None:
        self.step = 0
        """Steps done."""
        self._tokens = 0.0
        self._evaluated = 0
        self._health = Health(self.config)
        self.notes = Notes()
        self._saves = Saves(self.checkpoints, self.config.steps, self._event, self._artifact)

    def restore(self) -> int:
        """Set everything to the latest whole checkpoint, if there is one; return the steps done.

        Raises CheckpointError when the checkpoint is of another run; nothing is changed then.
        """
        folder = self.checkpoints.latest()
        if folder is None:
            return 0
        state = self.checkpoints.state(folder)
        if different := differences(state["identity"], self.identity(state["step"])):
            lines = "\n".join(f"  {key}: {how}" for key, how in different.items())
            raise CheckpointError(
                f"{folder}: is a checkpoint of another run; set another name, or the keys back:\n{lines}"
            )
        self._take_up(folder)
        return self.step

    def _take_up(self, folder: Path) -> Mapping[str, Any]:
        """Set everything to a checkpoint of this run; return its state."""
        state = self.checkpoints.restore(self.engine, folder)
        self.step, self._tokens, self._evaluated = state["step"], state["tokens"], state["evaluated"]
        self._health = Health(self.config, state)
        self._saves.restored(state)
        if self.selection is not None:
            self.selection.restore(state["selection"])
        for probes in self.probes:
            probes.restore(state.get("probes", {}).get(probes.name, {}))
        if self.watch is not None:
            self.watch.restore(state.get("watch", {}))
        return state

    def fit(self, conclude: Callable[[Trackers], None] | None = None) -> ExitStatus:
        """Train from the step that `restore` left off to the last, then `conclude` before trackers close.

        Returns DONE, or STOPPED after a signal, everything saved. Raises TrainingError when the run can no
        longer learn.
        """
        start = self.step
        self._tracks = self.trackers(start)
        for fault in self.checkpoints.damaged:
            self._event("checkpoint_skipped", start, fault)
        if again := restart():
            self._event("restarted", start, again.cause)
        if start:
            self._event("resumed", start, f"from step {start}")
        self._saves.begin(self.engine)
        self._interval = Interval()
        self.engine.forward().train()
        status = ExitStatus.BUG
        try:
            with stop_request() as stop, telling(self._tell):
                status = self._run(start, stop)
                self._saves.settle()
            if status == ExitStatus.DONE and conclude is not None:
                watchdog.enter("exporting")
                conclude(self._tracks)
        except Exception as error:
            status = error.exit_status if isinstance(error, LumbreError) else ExitStatus.BUG
            self._saves.close()
            self._tell("failed", told(error))
            raise
        except KeyboardInterrupt:
            status = ExitStatus.STOPPED
            raise
        finally:
            watchdog.enter("closing the trackers")
            self._tracks.finish(int(status))
        return status

    def _run(self, start: int, stop: StopRequest) -> ExitStatus:
        if self.config.evaluates(start) and self._evaluated != start:
            self.evaluate(start)
            if self._saves.is_best(start):
                self._save(start)
        if self._probe(start, stop):
            self._save(start, ends=True)
            return self._stopped(start)
        with closing(Steps(self.batches, start)) as steps:
            for step in range(start + 1, self.config.steps + 1):
                if self.selection is not None and self.selection.done:
                    self._finish_early()
                    break
                done = Done(stopping=False, again=True)
                while done.again:
                    with watchdog.step(step):
                        began = time.perf_counter()
                        micro_batches = steps.take(step)
                        self._interval.data_seconds += time.perf_counter() - began
                        done = self.train_step(step, micro_batches, stop)
                stopping = done.stopping and step < self.config.steps
                self.step = step
                if done.fault:
                    self._roll_back(step, done.fault)
                if self.config.evaluates(step) and not stopping:
                    self.evaluate(step)
                stopping = stopping or self._probe(step, stop)
                if self._saves.is_due(step) or stopping or done.fault:
                    self._save(step, ends=stopping or step == self.config.steps)
                if stopping:
                    return self._stopped(step)
        return ExitStatus.DONE

    def train_step(self, step: int, micro_batches: Sequence[Batch], stop: StopRequest) -> Done:
        """Do one optimizer step and log it; return what came of it."""
        watchdog.enter("counting targets")
        counts = [self.learner.counts(batch) for batch in micro_batches]
        names = list(counts[0])
        local = [sum(count[name] for count in counts) for name in names]
        local_tokens = sum(self.learner.tokens(batch) for batch in micro_batches)
        notes = self.notes.take()
        sums_count = float(self.counted)
        own = [value * sums_count for value in (*local, local_tokens)]
        own += [float(bool(stop)), float(len(notes)), *self._saves.flags()]
        *totals, tokens, stops, noted, asked, failed = distributed.sum_over_ranks(own)
        self._saves.heard(asked, failed)
        for row in rows(notes, step) if noted else ():
            self._tracks.log(row)

        began = time.perf_counter()
        found: list[Row] = []
        sums: list[list[torch.Tensor]] = [[] for _ in names]
        rank = distributed.world().rank
        for index, batch in enumerate(micro_batches):
            drawn = distributed.word(self.seed, distributed.Stream.FORWARD, step, (index << 32) + rank)
            distributed.seed_torch(drawn, self.engine.device)
            with self.engine.accumulate(last=index == len(micro_batches) - 1):
                watchdog.enter("running forward")
                with self.engine.autocast():
                    output = self.learner.loss(self.engine.forward(), on_device(batch, self.engine.device))
                terms = output.terms
                watchdog.enter("running backward")
                loss = combined(terms, dict(zip(names, totals, strict=True)))
                if self.watch is not None:
                    self.watch.take(batch, output.losses)
                    found = self.watch.judge(step) if index == len(micro_batches) - 1 else []
                    # The step is left out as one that is not finite is.
                    loss = loss * math.nan if found else loss
                self.engine.backward(marked(loss))
            for parts, name in zip(sums, names, strict=True):
                parts.append(terms[name].sum.detach())
        learning_rate = self.optimizer.learning_rate * self.schedule.factor(step, self.config.steps)
        watchdog.enter("updating the weights")
        norm = self.engine.step(learning_rate)
        self._interval.model_seconds += (seconds := time.perf_counter() - began)
        self._saves.stepped(seconds)
        if found:
            for row in found:
                self._tracks.log(row)
            return Done(stops > 0, again=True)
        self._interval.tokens += tokens
        self._interval.steps += 1
        self._interval.flops += self.flops(step) if self.flops is not None else 0.0
        self._tokens += tokens
        watchdog.enter("logging")
        over_ranks = distributed.sum_over_ranks([total(parts) * sums_count for parts in sums])
        finding = self._health.observe(over_ranks[0] / max(totals[0], 1.0), norm)
        if finding.event:
            self._event(finding.event, step, finding.message)
        if step % self.config.log_every == 0 or step in (1, self.config.steps):
            # A term without a target, as a source's may be in one step, has no loss.
            losses = {
                name: value / max(total, 1.0)
                for name, value, total in zip(names, over_ranks, totals, strict=True)
                if total or name == names[0]
            }
            self._log_row(step, losses, learning_rate, norm)
        return Done(stops > 0, finding.fault)

    def _roll_back(self, step: int, fault: str) -> None:
        """Take all from the last checkpoint and go on after `step`, past the data in between.

        Where that cannot be, a run whose weights are well goes on; else raises TrainingError.
        """
        health, hindrance = self._health, self._health.hindrance
        folder = None if hindrance else self.checkpoints.latest()
        if folder is None:
            hindrance = hindrance or "there is no checkpoint to go back to (checkpoint.every_steps)"
            if health.can_go_on:
                self._event("went_on", step, f"{fault}: {hindrance}")
                return
            raise TrainingError(
                f"step {step}: {fault}, and {hindrance}; lower optimizer.learning_rate or look at the data, "
                "then run the same command again: it goes on from the last checkpoint"
            )
        self._health = health.rolled_back(self._take_up(folder))
        message = f"{fault}: weights of step {self.step}, and the data up to step {step} is passed over"
        self._tracks.roll_back(self.step, event("rolled_back", step, message))
        self.step, self._interval = step, Interval()

    @watchdog.during("evaluating")
    def evaluate(self, step: int) -> dict[str, float]:
        """Measure with the model in evaluation mode, and log the row."""
        began = time.perf_counter()
        model = self.engine.forward()
        model.eval()
        with torch.no_grad(), self.engine.autocast():
            metrics = self.evaluator.evaluate(self.engine)
        model.train()
        measured = {f"eval/{name}": value for name, value in metrics.items()}
        self._tracks.log({**self._place(step), **measured, "time": time.time()})
        self._saves.observe(step, metrics)
        if self.selection is not None:
            self.selection.observe(self.engine, step, metrics)
        self._interval.left_out += time.perf_counter() - began
        self._evaluated = step
        return metrics

    def _finish_early(self) -> None:
        self._event("early_stop", self.step, f"the evaluations ended the run at step {self.step}")
        if not self._saves.is_saved(self.step):
            self._save(self.step, ends=True)

    @watchdog.during("probing")
    def _probe(self, step: int, stop: StopRequest) -> bool:
        """Run the probes that are due; return whether a signal cut them off."""
        due = [probes for probes in self.probes if probes.due(step)]
        began = time.perf_counter()
        for probes in due:
            for row in probes.run(self.engine, step, stop):
                self._tracks.log({**self._place(step), **row})
            if probes.due(step):
                return True
        self._interval.left_out += time.perf_counter() - began
        return False

    def _stopped(self, step: int) -> ExitStatus:
        self._event("stopped", step, f"saved at step {step}")
        return ExitStatus.STOPPED

    def _log_row(self, step: int, losses: dict[str, float], learning_rate: float, norm: float) -> None:
        # The next row's time starts here, so that what logging this one costs is in it.
        past, self._interval = self._interval, Interval()
        first, *others = losses
        pace = past.row(until=self._interval.began, peak=self.peak if self.flops is not None else None)
        self._tracks.log(
            {
                **self._place(step),
                "loss": losses[first],
                **{f"loss/{name}": losses[name] for name in others},
                "learning_rate": learning_rate,
                "grad_norm": norm,
                **pace,
                "peak_memory_bytes": peak_memory_bytes(self.engine.device),
                "time": time.time(),
            }
        )

    @watchdog.during("saving")
    def _save(self, step: int, *, ends: bool = False) -> None:
        began = time.perf_counter()
        state = {"tokens": self._tokens, "evaluated": self._evaluated, "identity": dict(self.identity(step))}
        if self.selection is not None:
            state["selection"] = self.selection.state()
        state |= self._health.state()
        if self.watch is not None:
            state["watch"] = self.watch.state()
        state["probes"] = {probes.name: probes.state() for probes in self.probes}
        self._saves.save(self.engine, step, int(self._tokens), state, ends=ends)
        self._interval.left_out += time.perf_counter() - began

    def _place(self, step: int) -> dict[str, int]:
        """Return how far the run is, by each measure that a curve can be drawn over."""
        return {"step": step, "tokens": int(self._tokens), "samples": self.samples(step)}

    def _tell(self, name: str, message: str) -> None:
        self._event(name, self.step, message)

    def _artifact(self, artifact: Artifact) -> None:
        self._tracks.artifact(artifact)

    def _event(self, name: str, step: int, message: str) -> None:
        self._tracks.log(event(name, step, message))
