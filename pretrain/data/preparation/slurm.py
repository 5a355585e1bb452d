"""Work as Slurm array jobs, through datatrove's executor."""

import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from lumbre.config import Config
from lumbre.errors import DataError

POLL_SECONDS = 5.0
NEVER = {
    "PartitionTimeLimit",
    "PartitionNodeLimit",
    "AssocMaxWallDurationPerJobLimit",
    "QOSMaxWallDurationPerJobLimit",
}
"""Reasons of Slurm's that time does not mend."""


class SlurmConfig(Config):
    """Where array jobs run; every node must see the data and this installation under the same paths."""

    partition: str
    """The partition of the jobs."""
    time: str = "24:00:00"
    """Longest time of one task."""
    workers: PositiveInt | None = None
    """How many tasks run at once; by default as many as Slurm starts."""
    memory_gb: PositiveInt = 4
    """Memory of a task."""
    sbatch: dict[str, str] = Field(default_factory=dict)
    """Further options of sbatch, without their dashes, such as account."""

    def run(self, name: str, steps: list[Any], tasks: int, logs: Path) -> None:
        """Run a pipeline of datatrove for all its tasks and wait; what is done is not done again.

        Raises DataError where Slurm takes no job, or where a job ended and left tasks undone.
        """
        from datatrove.executor import SlurmPipelineExecutor

        programs, modules = shlex.quote(str(Path(sys.executable).parent)), shlex.quote(":".join(sys.path))
        executor = SlurmPipelineExecutor(
            pipeline=steps,
            tasks=tasks,
            time=self.time,
            partition=self.partition,
            mem_per_cpu_gb=self.memory_gb,
            workers=self.workers or -1,
            job_name=name,
            qos=self.sbatch.get("qos", ""),
            env_command=f"export PATH={programs}:$PATH PYTHONPATH={modules}",
            sbatch_args={key: value for key, value in self.sbatch.items() if key != "qos"},
            logging_dir=str(logs.absolute()),
            mail_type="NONE",
        )
        try:
            executor.run()
        except (OSError, subprocess.CalledProcessError) as error:
            fault = f"{name}: Slurm takes no job: {error}"
            raise DataError(f"{fault}; check near_duplicates.slurm, or leave it out") from error
        while left := executor.get_incomplete_ranks(skip_completed=True):
            waits = _reasons(executor.job_id)
            if stuck := waits & NEVER:
                fault = f"{name}: job {executor.job_id} can never start: {', '.join(sorted(stuck))}"
                subprocess.run(["scancel", str(executor.job_id)], check=False)
                raise DataError(f"{fault}; set near_duplicates.slurm.time and partition to what fits")
            if not waits:
                left = executor.get_incomplete_ranks(skip_completed=True)
                if left:
                    fault = (
                        f"{name}: job {executor.job_id} ended, and {len(left)} of {tasks} tasks are not done"
                    )
                    raise DataError(f"{fault}; see {logs}, then run the same command again")
            time.sleep(POLL_SECONDS)


def _reasons(job: str) -> set[str]:
    """Return why the tasks of a job wait, "None" of those that run; nothing where Slurm has none left."""
    words = ("squeue", "-h", "-j", str(job), "-o", "%r")
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    return set(found.stdout.split()) if found.returncode == 0 else set()
