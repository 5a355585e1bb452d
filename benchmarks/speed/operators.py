"""What torch's profiler sees of a step: operators, how often and how long each ran, and FLOPs it knows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Operator:
    """What an operator came to, without those that it called."""

    calls: float
    seconds: float
    """Of a CUDA device where there is one, else of the CPU."""
    flops: float
    """0 where the profiler has no formula."""


class Profiler:
    """Profiles each step by itself, so that nothing between steps is seen."""

    def __init__(self, device: torch.device) -> None:
        self.is_on = False
        self.of_steps: list[dict[str, Operator]] = []
        self._activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            self._activities.append(ProfilerActivity.CUDA)
        self._profile: profile | None = None

    def begin(self) -> None:
        """Watch the step that follows, where steps are being profiled."""
        if self.is_on:
            self._profile = profile(activities=self._activities, with_flops=True)
            self._profile.start()

    def end(self) -> None:
        """Take what the step has done."""
        if self._profile is not None:
            self._profile.stop()
            self.of_steps.append(operators(self._profile))
            self._profile = None


def operators(seen: profile) -> dict[str, Operator]:
    """Return the operators of a finished profile by name."""
    on_cpu = ProfilerActivity.CUDA not in seen.activities
    return {
        event.key: Operator(
            event.count,
            (event.self_cpu_time_total if on_cpu else event.self_device_time_total) / 1e6,
            event.flops,
        )
        for event in seen.key_averages()
        # Kernels are listed once more, by names of their own.
        if event.device_type == torch.autograd.DeviceType.CPU
    }


def mean_step(
    seconds: Sequence[float], of_steps: Sequence[Mapping[str, Operator]]
) -> tuple[float, dict[str, Operator]]:
    """Return the seconds and the operators of a mean step, of the half of them around the median's time."""
    order = sorted(range(len(seconds)), key=seconds.__getitem__)
    quarter = len(order) // 4
    chosen = order[quarter : len(order) - quarter]
    total: dict[str, Operator] = {}
    for step in chosen:
        for name, one in of_steps[step].items():
            so_far = total.get(name, Operator(0, 0, 0))
            total[name] = Operator(
                so_far.calls + one.calls, so_far.seconds + one.seconds, so_far.flops + one.flops
            )
    count = len(chosen)
    return sum(seconds[step] for step in chosen) / count, {
        name: Operator(one.calls / count, one.seconds / count, one.flops / count)
        for name, one in total.items()
    }
