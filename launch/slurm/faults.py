"""What a cluster cannot give, found before anything is queued."""

import difflib
import getpass
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lumbre.errors import LaunchError, Problem

from . import cluster
from .script import cpus, processes
from .units import minutes

if TYPE_CHECKING:
    from .config import SlurmConfig


def faults(config: "SlurmConfig") -> Iterator[Problem]:
    """Yield each fault with the key that asks for it."""
    try:
        nodes = cluster.all_nodes()
    except LaunchError as error:
        yield Problem("type", str(error))
        return
    names = [partition for partition in (config.partition or "").split(",") if partition]
    known = sorted({group.partition for group in nodes})
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]!r}? there are: " if near else "there are: "
            yield Problem("partition", f"there is no partition {name!r}", f"{remedy}{', '.join(known)}")
            return
    if not names:
        names = sorted({group.partition for group in nodes if group.is_default})
        if not names:
            yield Problem("partition", "this cluster has no default", f"choose from: {', '.join(known)}")
            return
    # Slurm takes the first of several partitions that can start the job: one that fits is enough.
    lacks = [list(_lacks(config, name, [one for one in nodes if one.partition == name])) for name in names]
    if all(lacks):
        yield from lacks[0]
    yield from _account_faults(config)


def _lacks(config: "SlurmConfig", name: str, nodes: Sequence[cluster.Nodes]) -> Iterator[Problem]:
    """Yield what one partition cannot give."""
    longest = max(group.minutes for group in nodes)
    if config.time is not None and (minutes(config.time) or 0) > longest:
        days, rest = divmod(int(longest), 1440)
        limit = f"{days}-{rest // 60:02}:{rest % 60:02}:00"
        yield Problem("time", f"{config.time} is over the limit of partition {name}, {limit}", "ask for less")
    total = sum(group.count for group in nodes)
    if config.nodes > total:
        yield Problem("nodes", f"partition {name} has {total}, not {config.nodes}", f"at most {total}")
        return
    cores = max(group.cpus for group in nodes)
    if cpus(config) > cores:
        key = "processes_per_node" if config.threads_per_process == 1 else "threads_per_process"
        product = f"{processes(config)} x {config.threads_per_process}"
        yield Problem(key, f"nodes of {name} have at most {cores} cores, not {product}", "ask for fewer")
        return
    if config.gpus_per_node:
        yield from _gpu_faults(config, name, nodes)
        return
    fit = sum(group.count for group in nodes if group.cpus >= cpus(config))
    if fit < config.nodes:
        fault = f"{fit} nodes of {name} have {cpus(config)} cores, not {config.nodes}"
        yield Problem("nodes", fault, "ask for fewer nodes, or fewer cores of each")


def _gpu_faults(config: "SlurmConfig", name: str, nodes: Sequence[cluster.Nodes]) -> Iterator[Problem]:
    asked = f"{config.gpus_per_node} {f'{config.gpu_type} ' if config.gpu_type else ''}GPUs"
    kinds = sorted({kind for group in nodes for kind in group.gpus if kind})
    if config.gpu_type and kinds and config.gpu_type not in kinds:
        fault = f"partition {name} has no GPUs of the type {config.gpu_type}"
        yield Problem("gpu_type", fault, f"it has: {', '.join(kinds)}")
        return
    most = max(_count(group, config.gpu_type) for group in nodes)
    if most < config.gpus_per_node:
        fault = f"nodes of partition {name} have at most {most}, not {asked}"
        yield Problem(
            "gpus_per_node", fault, "ask for fewer, on more nodes" if most else "use another partition"
        )
        return
    fit = sum(
        group.count
        for group in nodes
        if _count(group, config.gpu_type) >= config.gpus_per_node and group.cpus >= cpus(config)
    )
    if fit < config.nodes:
        fault = f"{fit} nodes of {name} have {asked} and {cpus(config)} cores, not {config.nodes}"
        yield Problem("nodes", fault, "ask for fewer nodes, or less of each")


def _count(group: cluster.Nodes, kind: str | None) -> int:
    typed = group.gpus.get(kind, group.gpus.get("", 0)) if kind else None
    return sum(group.gpus.values()) if typed is None else typed


def _account_faults(config: "SlurmConfig") -> Iterator[Problem]:
    if not (config.account or config.qos):
        return
    known = dict(cluster.associations(getpass.getuser()))
    if known and config.account and config.account not in known:
        yield Problem(
            "account", f"you have no account {config.account!r}", f"you have: {', '.join(sorted(known))}"
        )
        return
    qos = known.get(config.account, set()) if config.account else set().union(*known.values())
    if qos and config.qos and config.qos not in qos:
        yield Problem("qos", f"you have no QOS {config.qos!r} there", f"you have: {', '.join(sorted(qos))}")
