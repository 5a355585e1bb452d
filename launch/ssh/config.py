"""What hosts, and how they are reached and watched."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from lumbre.errors import ConfigError, Problem

from ..base import RemoteConfig
from ..restarts import RestartConfig
from .hosts import Host, parse

if TYPE_CHECKING:
    from .launcher import SshLauncher


class SshConfig(RestartConfig, RemoteConfig):
    """Start one agent on each host over ssh, stay with them, and end all when one is lost.

    The folder that `lumbre launch` is called in, and the run folders, must be the same on all hosts.
    """

    type: Literal["ssh"] = "ssh"
    hostfile: Path | None = None
    """A file of lines `NAME slots=N`, as DeepSpeed's; `#` begins a comment."""
    hosts: list[str] = Field(default_factory=list)
    """The same lines in place: `[node1 slots=4, node2 slots=4]`. The first host has rank 0."""
    processes_per_host: PositiveInt | None = None
    """Training processes on each host; its slots when absent, and 1 where it has none."""
    threads_per_process: PositiveInt | None = None
    """CPU threads of each process (OMP_NUM_THREADS); the host's cores are shared out when absent."""
    python: str | None = Field(None, min_length=1)
    """The interpreter on the hosts; the path of the one here when absent."""
    ssh_options: list[str] = Field(default_factory=list)
    """Arguments of ssh: `["-p", "2222"]`, `["-F", "ssh_config"]`. It must log in without a question."""
    master_address: str | None = Field(None, min_length=1)
    """How the other hosts reach the first; the name or address by which ssh does when absent."""
    master_port: int | None = Field(None, ge=1, le=65535)
    """The port on which the hosts meet; a free one of the first host when absent."""
    connect_timeout_seconds: PositiveInt = 5
    """How long ssh may take to connect."""
    answer_timeout_seconds: PositiveInt = Field(15, ge=3)
    """A host that is silent for so long is lost; a job whose launcher is saves and ends."""
    stop_timeout_seconds: PositiveInt = 600
    """How long a job may take to save after a signal, or alone, before what is left of it is killed."""

    def read_hosts(self) -> tuple[list[Host], list[Problem]]:
        """Return the hosts, and what is wrong with how they are told."""
        if self.hostfile is None:
            hosts, faults = parse(self.hosts)
            problems = [Problem(f"hosts.{fault.line}", fault.fault, fault.remedy) for fault in faults]
        else:
            try:
                text = self.hostfile.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                why = (error.strerror or str(error)) if isinstance(error, OSError) else "is no text"
                return [], [Problem("hostfile", f"{self.hostfile}: {why}", "write lines NAME slots=N")]
            hosts, faults = parse(text.splitlines())
            places = [f"{self.hostfile}:{fault.line + 1}" for fault in faults]
            problems = [
                Problem("", fault.fault, fault.remedy, place)
                for fault, place in zip(faults, places, strict=True)
            ]
            if not hosts and not problems:
                problems = [Problem("hostfile", f"{self.hostfile} names no host", "write lines NAME slots=N")]
        if self.processes_per_host is not None:
            hosts = [Host(host.name, self.processes_per_host) for host in hosts]
        return hosts, problems

    def problems(self) -> Iterator[Problem]:
        """Report hosts that are not told, told twice, or told wrongly, and an ssh that is not here."""
        yield from super().problems()
        if (self.hostfile is None) == (not self.hosts):
            fault = "is missing" if self.hostfile is None else "and hosts are both set"
            yield Problem("hostfile", fault, "give a hostfile, or hosts: [NAME slots=N, ...]")
            return
        hosts, problems = self.read_hosts()
        yield from problems
        yield from self.fewest(sum(host.slots for host in hosts))
        is_here = bool(hosts) and (hosts[0].machine == "localhost" or hosts[0].machine.startswith("127."))
        if is_here and len(hosts) > 1 and self.master_address is None:
            fault = f"the other hosts cannot reach the first under the name {hosts[0].machine}"
            yield Problem("master_address", fault, "set the address that they reach it by")
        if shutil.which("ssh") is None:
            yield Problem("type", "ssh is not installed here", "install the OpenSSH client")

    def build(self) -> "SshLauncher":
        """Return the launcher; raises ConfigError for hosts that cannot be read."""
        from .launcher import SshLauncher

        hosts, problems = self.read_hosts()
        if problems:
            raise ConfigError(problems)
        return SshLauncher(self, hosts)
