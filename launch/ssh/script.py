"""The script of one run, the same for all hosts: what differs between them comes as variables."""

import shlex
from collections.abc import Mapping

from ..agent import agent
from ..base import Run

RENDEZVOUS = (
    *("--nnodes=$NODES", "--node-rank=$NODE_RANK"),
    *("--master-addr=$MASTER_ADDR", "--master-port=$MASTER_PORT"),
)


def script(
    run: Run,
    directory: str,
    python: str,
    environment: Mapping[str, str],
    hosts: int,
    world_size: int,
    stop_timeout_seconds: int,
) -> str:
    """Return the script: to the folder, the variables, and then the process or torchrun's agent."""
    if world_size == 1:
        words = [python, *map(shlex.quote, run.job.command)]
        head = "# Run on the first host."
    else:
        job = len(run.job.command)
        line = agent(run.job, "$PROCESSES", stop_timeout_seconds, RENDEZVOUS)
        words = [python, *map(_expanding, line[:-job]), *map(shlex.quote, run.job.command)]
        head = (
            f"# Run on each of {hosts} hosts; NODES, NODE_RANK, PROCESSES, MASTER_ADDR, MASTER_PORT and\n"
            "# secrets come over ssh."
        )
    words[0] = shlex.quote(python)
    sets = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    lines = ["#!/bin/sh", head, f"cd -- {shlex.quote(directory)} || exit", *sets, "exec " + " ".join(words)]
    return "\n".join(lines) + "\n"


def _expanding(word: str) -> str:
    """Return a word of ours with its variable quoted."""
    name, equals, value = word.partition("=")
    return f'{name}{equals}"{value}"' if value.startswith("$") else word
