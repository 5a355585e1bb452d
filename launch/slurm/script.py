"""The batch script of one link of the chain: pure text, quoted for bash."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..agent import agent
from ..base import Job, Launch, Run, Task

if TYPE_CHECKING:
    from .config import SlurmConfig

STOP_TIMEOUT = 3600
"""Seconds that a node waits for the others' end, and an agent for its workers'; Slurm's limits come first."""
NAME = re.compile(r"[^A-Za-z0-9._+-]+")

HEAD = """\
#!/bin/bash
# Written and submitted by `lumbre launch`; its folder is where sbatch was called.
"""

START = """
step=
stopping=
# Slurm asks before the time limit, `lumbre launch cancel` at any time: the run saves and ends with 75.
trap 'stopping=1; [[ -z $step ]] || kill -USR1 "$step"' USR1
trap : TERM # reaches the job's steps by itself
say() {{ echo "launch: $*" >&2; }}
restarts=${{SLURM_RESTART_COUNT:-0}}
say "job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, restart $restarts"

"""

CHECK = """
each=(--export=ALL --ntasks-per-node=1 --cpus-per-task={cpus} --kill-on-bad-exit=0 --wait={wait})
mkdir -p -- "${{folders[@]}}"
nodes_see() {{ timeout 300 srun "${{each[@]}}" ls -d -- "${{folders[@]}}"{python} >/dev/null; }}
nodes_see
status=$?
if ((status == 2)); then
  say "the nodes named above lack these paths: a launch needs folders that all nodes share"
  exit 2
fi
"""

RENDEZVOUS = """
# Ports of jobs on the same node begin at different numbers, below those that the system gives out itself.
port=$((12000 + SLURM_JOB_ID * 7 % 20000))
while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do ((port += 1)); done
rendezvous=(
  --nnodes={nodes} --rdzv-backend=c10d
  "--rdzv-endpoint=$(hostname):$port" "--rdzv-id=$SLURM_JOB_ID.$restarts"
)
"""

STEP = """
if [[ $stopping ]]; then
  status=75
elif ((status == 0)); then
{since}  srun "${{each[@]}}" {command} &
  step=$!
  while kill -0 "$step" 2>/dev/null; do wait "$step"; done # a signal ends the wait, not the step
  wait "$step"
  status=$?
  step=
{outcome}  # Stopped before there was anything to save.
  if ((status != 0 && status != 2)) && [[ $stopping ]]; then status=75; fi
fi

# Slurm takes a job back from a node that is lost, once it has noticed.
if ((status != 0 && status != 2 && status != 75 && status != 76)) && ! nodes_see; then
  say "a node does not answer: waiting for Slurm to start the job again without it"
  sleep 900 &
  wait $!
  status=76
fi

if ((status == 75 || status == 76)); then
  if ((restarts >= {restarts})); then
    say "restarted $restarts times (max_restarts); launch it again to go on"
  elif [[ $(scontrol show job -o "$SLURM_JOB_ID") == *\\ JobState=RUNNING\\ *\\ Requeue=1\\ * ]]; then
    say "asking Slurm to start it again"
    scontrol requeue "$SLURM_JOB_ID"
  fi
fi
exit "$status"
"""

SINCE = """\
  since=$(date +%s)
"""
OUTCOME = """\
  {python} -m lumbre.cli launch outcome "$run" "$since"
  status=$?
"""


def script_names(launch: Launch) -> list[str]:
    """Return the names of the scripts, one a task: `pretrain.sh`, or `1-prepare.sh`, `2-pretrain.sh`."""
    if len(launch.tasks) == 1:
        return [f"{launch.tasks[0].program}.sh"]
    return [f"{number}-{task.program}.sh" for number, task in enumerate(launch.tasks, 1)]


def log_name(script: str, job: str) -> str:
    """Return the name of the log of a job, `12` or the array's `12_3`."""
    return f"{Path(script).stem}-{job}.log"


def log_pattern(script: str, task: Task) -> str:
    """Return the name of the logs of a task's jobs as sbatch writes it."""
    return log_name(script, "%A_%a" if len(task.runs) > 1 else "%j")


def script(config: "SlurmConfig", launch: Launch, task: Task, name: str) -> str:
    """Return the script of the task."""
    return "".join(
        (
            HEAD,
            *(f"#SBATCH --{option}\n" for option in options(config, task, name)),
            "set -u\n\n",
            *_variables(config, launch, task),
            *_environment(config, launch),
            *_work(config, launch, task),
        )
    )


def processes(config: "SlurmConfig") -> int:
    """Return how many training processes a node has."""
    return config.processes_per_node or config.gpus_per_node or 1


def cpus(config: "SlurmConfig") -> int:
    """Return how many cores of a node a job asks for; preparation has as many as training."""
    return processes(config) * config.threads_per_process


def options(config: "SlurmConfig", task: Task, name: str) -> Iterator[str]:
    """Yield sbatch's options, without their dashes, values quoted as sbatch reads them."""
    is_training = task.runs[0].job.is_training
    is_array = len(task.runs) > 1
    yield f"job-name={NAME.sub('-', task.name).strip('-') or task.program}"
    yield f"output={log_pattern(name, task)}"
    yield "open-mode=append"
    if is_array:
        yield f"array=0-{len(task.runs) - 1}{f'%{config.at_once}' if config.at_once else ''}"
    yield f"nodes={config.nodes if is_training else 1}"
    yield "ntasks-per-node=1"
    yield f"cpus-per-task={cpus(config)}"
    if config.gpus_per_node and is_training:
        yield f"gpus-per-node={':'.join(filter(None, (config.gpu_type, str(config.gpus_per_node))))}"
    for key in ("partition", "account", "qos", "time", "constraint"):
        if value := getattr(config, key):
            yield f"{key}={_value(value)}"
    yield f"signal=B:USR1@{config.signal_lead_seconds}"
    yield "requeue" if config.requeue else "no-requeue"
    yield f"export={','.join(config.pass_env) or 'NONE'}"
    for key, value in config.sbatch.items():
        if value is True:
            yield key
        elif value is not False:
            yield f"{key}={_value(value)}"


def _value(value: str | int) -> str:
    text = str(value)
    return text if re.fullmatch(r"[A-Za-z0-9._:,/@%+=&|*\[\]()-]*", text) else f'"{text}"'


def _variables(config: "SlurmConfig", launch: Launch, task: Task) -> Iterator[str]:
    """Yield the lines that say what is run, chosen by the array's index where there are several."""
    if len(task.runs) == 1:
        yield from (f"{line}\n" for line in _run(launch, task.runs[0]))
        return
    yield "case $SLURM_ARRAY_TASK_ID in\n"
    for number, run in enumerate(task.runs):
        yield f"  {number})\n"
        yield from (f"    {line}\n" for line in _run(launch, run))
        yield "    ;;\n"
    yield "esac\n"


def _run(launch: Launch, run: Run) -> Iterator[str]:
    folders = [launch.folder]
    if run.job.is_training:
        yield f"run={shlex.quote(str(run.folder))}"
        folders.append(run.folder)
    yield f"folders=({shlex.join(map(str, folders))})"
    yield f"job=({shlex.join((run.job.program, *run.job.arguments))})"


def _environment(config: "SlurmConfig", launch: Launch) -> Iterator[str]:
    yield START.format()
    for name, value in {"OMP_NUM_THREADS": str(config.threads_per_process), **config.env}.items():
        yield f"export {name}={shlex.quote(value)}\n"
    for line in config.setup:
        yield f"{line}\n"
    yield f"cd -- {shlex.quote(str(launch.directory))} || exit 2\n"


def _work(config: "SlurmConfig", launch: Launch, task: Task) -> Iterator[str]:
    is_training = task.runs[0].job.is_training
    outside = config.python or sys.executable
    words = [outside]
    if config.container:
        inside = config.container.words(mounts(launch, task), launch.directory, config.gpus_per_node > 0)
        words = [*inside, config.container.python]
    python = "" if config.container else f" {shlex.quote(outside)}"
    yield CHECK.format(cpus=cpus(config), wait=STOP_TIMEOUT, python=python)
    nodes = config.nodes if is_training else 1
    if nodes > 1:
        yield RENDEZVOUS.format(nodes=nodes)
    yield STEP.format(
        command=f'{shlex.join(words)} {_agent(config, task.runs[0].job, nodes)} "${{job[@]}}"',
        since=SINCE if is_training else "",
        outcome=OUTCOME.format(python=shlex.quote(outside)) if is_training else "",
        restarts=config.max_restarts,
    )


def _agent(config: "SlurmConfig", job: Job, nodes: int) -> str:
    """Return the words between python and the program's name."""
    own = 1 + len(job.arguments)
    if not job.is_training or nodes * processes(config) == 1:
        return shlex.join(job.command[:-own])
    words = agent(job, processes(config), STOP_TIMEOUT, ["--standalone"])[:-own]
    if nodes == 1:
        return shlex.join(words)
    at = words.index("--standalone")
    return f'{shlex.join(words[:at])} "${{rendezvous[@]}}" {shlex.join(words[at + 1 :])}'


def mounts(launch: Launch, task: Task) -> list[Path]:
    """Return the folders that a container must see, none of them inside another."""
    runs = [run.folder.parent for run in task.runs if run.job.is_training]
    folders = sorted({launch.directory, launch.folder, *runs})
    return [one for one in folders if not any(one.is_relative_to(other) for other in {*folders} - {one})]
