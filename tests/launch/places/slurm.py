"""A Slurm cluster of a few virtual nodes on this machine, for tests: real daemons, real jobs.

Every node is a slurmd in namespaces of its own (name, processes, mounts), so that it has a hostname, can be
cut off as by a power failure, and can lack a folder that the others see. Nothing outside the cluster's own
folder and /run is changed. Needs Linux and root, and installs Debian's packages where they are missing.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
SPACE = ("unshare", "--uts", "--pid", "--mount", "--fork", "--kill-child=KILL", "--mount-proc")

CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool.%n
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MinJobAge=3600
KillWait=5
SlurmdTimeout=8
ReturnToService=2
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=DEFAULT CPUs=8 RealMemory=4000
{nodes}
{partitions}
"""


class CannotSetUpError(Exception):
    """Why there can be no cluster here."""


def install() -> None:
    """Install Slurm where it is missing; raises CannotSetUpError with the reason where that cannot be."""
    if os.geteuid() != 0:
        raise CannotSetUpError("Slurm's daemons need root here")
    if subprocess.run([*SPACE, "true"], capture_output=True, check=False).returncode != 0:
        raise CannotSetUpError("no namespaces can be made here, which the nodes need")
    if all(map(shutil.which, PROGRAMS)):
        return
    if not shutil.which("apt-get"):
        raise CannotSetUpError("Slurm is not installed, and there is no apt-get to install it")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(
            ["apt-get", *words], env=environment, capture_output=True, text=True, check=False, timeout=240
        )
        if done.returncode != 0:
            raise CannotSetUpError(f"apt-get {words[0]} failed: {done.stderr.strip()[-300:]}")


class Cluster:
    """The daemons of one cluster, its partitions as slurm.conf describes them."""

    def __init__(self, folder: Path, nodes: int, partitions: str) -> None:
        self.folder = folder
        self.nodes = [f"node{number}" for number in range(1, nodes + 1)]
        self.environment = {"SLURM_CONF": str(folder / "etc/slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        ports = _free_ports(nodes + 1)
        for name in ("etc", "state"):
            (folder / name).mkdir()
        lines = [
            f"NodeName={name} NodeAddr=127.0.1.{number} Port={port}"
            for number, (name, port) in enumerate(zip(self.nodes, ports[1:], strict=True), 1)
        ]
        text = CONF.format(
            host=socket.gethostname().partition(".")[0],
            control=ports[0],
            folder=folder,
            nodes="\n".join(lines),
            partitions=partitions,
        )
        (folder / "etc/slurm.conf").write_text(text)
        names = [f"127.0.1.{number} {name}" for number, name in enumerate(self.nodes, 1)]
        (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *names, ""]))

    def start(self, lacks: dict[str, Path]) -> None:
        """Start every daemon and wait for the nodes."""
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = [
            f"--{name}={self.folder}/munge.{name}" for name in ("socket", "pid-file", "log-file", "seed-file")
        ]
        self._start("munged", "munged", "--foreground", "--force", f"--key-file={key}", *files)
        self.wait_for((self.folder / "munge.socket").exists)
        self._start("slurmctld", "slurmctld", "-D", "-c")
        for name in self.nodes:
            self.start_node(name, lacks.get(name))
        self.wait_for(self.is_ready)

    def start_node(self, name: str, lacks: Path | None = None) -> None:
        """Start a node, which sees an empty folder where it is said to lack one."""
        hide = ' && mount -t tmpfs tmpfs "$2"' if lacks else ""
        mounts = f"mount --bind hosts /etc/hosts && mount --bind etc /etc/slurm{hide}"
        script = f'cd "$0" && hostname "$1" && {mounts} && exec slurmd -D -N "$1"'
        self._start(name, *SPACE, "bash", "-c", script, str(self.folder), name, str(lacks or ""))

    def kill_node(self, name: str) -> None:
        """Cut a node's power: slurmd, its step daemons and all their tasks die at once."""
        node = self._daemons.pop(name)
        node.kill()
        node.wait()

    def is_ready(self) -> bool:
        """Whether every node takes jobs."""
        lines = {*self.run("sinfo", "-h", "-N", "-o", "%N %T").splitlines()}
        up = {line.split()[0] for line in lines if line.split()[1] in ("idle", "mixed", "allocated")}
        return up == {*self.nodes}

    def run(self, *words: str) -> str:
        """Return what a command of Slurm's prints."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(
            words, env=environment, capture_output=True, text=True, check=False, timeout=200
        ).stdout

    def wait_for(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until the condition holds; the daemons' last words are the failure where it does not."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                logs = [file.read_text()[-1500:] for file in sorted(self.folder.glob("*.log"))]
                raise AssertionError("the cluster does not get there:\n" + "\n---\n".join(logs))
            time.sleep(0.1)

    def stop(self) -> None:
        """End every daemon."""
        for name in reversed(list(self._daemons)):
            daemon = self._daemons.pop(name)
            daemon.send_signal(signal.SIGKILL if name in self.nodes else signal.SIGTERM)
            daemon.wait()

    def _start(self, name: str, *words: str) -> None:
        with (self.folder / f"{name}.out.log").open("ab") as log:
            # Tests that are killed leave no cluster behind.
            self._daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", *words],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


@contextmanager
def cluster(
    folder: Path, nodes: int, partitions: str, lacks: dict[str, Path] | None = None
) -> Iterator[Cluster]:
    """Yield a cluster that is ready; raises CannotSetUpError where there can be none.

    `lacks` names a folder for each node that is not to see what is in it.
    """
    install()
    made = Cluster(folder, nodes, partitions)
    try:
        made.start(lacks or {})
        yield made
    finally:
        made.stop()


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    held = [socket.socket() for _ in range(count)]
    for each in held:
        each.bind(("", 0))
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports
