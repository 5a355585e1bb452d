"""Hosts on this machine: network namespaces with an sshd each, whose cable can be pulled."""

import os
import shutil
import subprocess
import time
from pathlib import Path

PACKAGES = {"ip": "iproute2", "ssh": "openssh-client", "/usr/sbin/sshd": "openssh-server"}
NETWORK = "10.88.7"


class Hosts:
    """`count` hosts under the names that `ssh_config` gives them; files and processes are this machine's."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.names = [f"node{number}" for number in range(1, count + 1)]
        self.ssh_config = folder / "ssh_config"
        # Of a length that a network interface's name may have, and of this process alone.
        self._stem = f"lb{os.getpid() % 100_000:05d}"
        self._servers: list[subprocess.Popen[bytes]] = []

    @staticmethod
    def why_not() -> str:
        """Return why hosts cannot be had here, "" where they can; installs what is missing."""
        if os.geteuid() != 0:
            return "network namespaces need root"
        missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
        if missing and shutil.which("apt-get"):
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            for line in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
                words = ["apt-get", "-qq", *line]
                subprocess.run(words, env=environment, timeout=200, capture_output=True, check=False)
            missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
        if missing:
            return f"{', '.join(missing)} cannot be installed"
        tried = subprocess.run(["unshare", "--net", "--uts", "true"], capture_output=True, check=False)
        return "" if tried.returncode == 0 else "this machine has no network namespaces"

    def up(self) -> None:
        """Start all hosts and wait until each lets us in."""
        for key in ("user", "server"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / key))
        sshd = self.folder / "sshd_config"
        sshd.write_text(
            f"HostKey {self.folder}/server\nAuthorizedKeysFile {self.folder}/user.pub\n"
            "PermitRootLogin prohibit-password\nStrictModes no\nPidFile none\nMaxStartups 50\n"
        )
        blocks = [
            f"Host {name}\n  HostName {self.address(name)}\n" for name in [*self.names, "nowhere", "refuses"]
        ]
        blocks.append(
            f"Host *\n  User root\n  IdentityFile {self.folder}/user\n  StrictHostKeyChecking no\n"
            "  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
        )
        self.ssh_config.write_text("".join(blocks))
        Path("/run/sshd").mkdir(exist_ok=True)
        run("ip", "link", "add", self._stem, "type", "bridge")
        run("ip", "address", "add", f"{NETWORK}.254/24", "dev", self._stem)
        run("ip", "link", "set", self._stem, "up")
        for name in self.names:
            space, cable = self._space(name), self._cable(name)
            run("ip", "netns", "add", space)
            run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
            run("ip", "link", "set", cable, "master", self._stem, "up")
            run("ip", "-n", space, "address", "add", f"{self.address(name)}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                run("ip", "-n", space, "link", "set", link, "up")
            # No server outlives a test run that is killed.
            server = f"setpriv --pdeathsig TERM /usr/sbin/sshd -D -f {sshd} -E {self.folder}/{name}.log"
            serve = f"hostname {name}; exec {server}"
            line = ["ip", "netns", "exec", space, "unshare", "--uts", "sh", "-c", serve]
            self._servers.append(subprocess.Popen(line, start_new_session=True, stdin=subprocess.DEVNULL))
        for name in self.names:
            until = time.monotonic() + 20
            while self.ssh(name, "true").returncode:
                assert time.monotonic() < until, (self.folder / f"{name}.log").read_text()
                time.sleep(0.1)

    def down(self) -> None:
        """Stop all hosts with all that runs on them, and take the network away."""
        for server in self._servers:
            server.terminate()
            server.wait()
        for name in self.names:
            # A deleted namespace takes its cable away some time later: the next hosts may not wait so long.
            subprocess.run(["ip", "link", "del", self._cable(name)], check=False)
            found = subprocess.run(
                ["ip", "netns", "pids", self._space(name)], capture_output=True, text=True, check=False
            )
            for pid in found.stdout.split():
                subprocess.run(["kill", "-9", pid], capture_output=True, check=False)
            subprocess.run(["ip", "netns", "del", self._space(name)], check=False)
        subprocess.run(["ip", "link", "del", self._stem], check=False)

    def address(self, name: str) -> str:
        """Return a host's address; of a name that is no host's, one at which nobody is."""
        return f"{NETWORK}.{name[4:] if name in self.names else 254 if name == 'refuses' else 99}"

    def ssh(self, name: str, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on a host."""
        line = ["ssh", "-F", str(self.ssh_config), "-o", "ConnectTimeout=3", name, command]
        return subprocess.run(line, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)

    def cut(self, name: str) -> None:
        """Pull a host's cable."""
        run("ip", "-n", self._space(name), "link", "set", "eth0", "down")

    def mend(self, name: str) -> None:
        """Put a host's cable back."""
        run("ip", "-n", self._space(name), "link", "set", "eth0", "up")

    def processes(self, name: str) -> list[int]:
        """Return what runs on a host, its sshd left out."""
        found = run("ip", "netns", "pids", self._space(name)).split()
        return [int(pid) for pid in found if not _command(pid).startswith((b"sshd", b"/usr/sbin/sshd"))]

    def _cable(self, name: str) -> str:
        return f"{self._stem}{name[4:]}"

    def _space(self, name: str) -> str:
        return f"{self._stem}-{name}"


def run(*words: str) -> str:
    """Run a command that must work and return what it prints."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b"sshd"
