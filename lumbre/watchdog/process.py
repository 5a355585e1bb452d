"""What Linux tells of a process in /proc, for which nothing of the process has to work."""

import platform
from dataclasses import dataclass, field
from pathlib import Path

_X86 = {
    **{0: "read", 1: "write", 7: "poll", 18: "pwrite", 20: "writev", 23: "select", 35: "nanosleep"},
    **{45: "recvfrom", 47: "recvmsg", 61: "wait4", 72: "fcntl", 73: "flock", 74: "fsync", 75: "fdatasync"},
    **{202: "futex", 230: "clock_nanosleep", 232: "epoll_wait", 247: "waitid", 257: "open"},
    **{270: "select", 271: "poll", 281: "epoll_wait"},
}
_ARM = {
    **{22: "epoll_wait", 25: "fcntl", 32: "flock", 56: "open", 63: "read", 64: "write", 66: "writev"},
    **{68: "pwrite", 72: "select", 73: "poll", 82: "fsync", 83: "fdatasync", 95: "waitid", 98: "futex"},
    **{101: "nanosleep", 115: "clock_nanosleep", 207: "recvfrom", 212: "recvmsg", 260: "wait4"},
}
_CALLS = {"x86_64": _X86, "aarch64": _ARM}.get(platform.machine(), {})
_OF_A_FILE = {"read", "write", "writev", "pwrite", "fsync", "fdatasync", "fcntl", "flock"}


@dataclass(frozen=True)
class Process:
    """A process looked at closely."""

    pid: int
    state: str
    command: str
    call: str = ""
    """The system call that the main thread is in, with its file; "" where it is in none, or not told."""
    tracer: int = 0
    swapped_bytes: int = 0
    resident_bytes: int = 0
    children: list[int] = field(default_factory=list)


def state(pid: int) -> str:
    """Return what a process's main thread is doing; "" where it is gone.

    R running or ready, S sleeping, D waiting for a disk, T stopped, t traced, Z ended.
    """
    try:
        return Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def look(pid: int) -> Process:
    """Look at a process closely."""
    status = {}
    for line in _text(pid, "status").splitlines():
        key, _, value = line.partition(":")
        status[key] = value.strip()
    command = _text(pid, "cmdline").replace("\0", " ").strip() or status.get("Name", "")
    children: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children += map(int, file.read_text().split())
        except OSError:
            continue
    return Process(
        pid,
        status.get("State", "")[:1],
        command[:160],
        _call(pid),
        int(status.get("TracerPid", 0)),
        _kilobytes(status.get("VmSwap", "")),
        _kilobytes(status.get("VmRSS", "")),
        sorted(children),
    )


def dumps_stacks(pid: int, like: int, number: int) -> bool:
    """Whether a process writes its stacks on the signal: as a fork of the rank does."""
    try:
        same = Path(f"/proc/{pid}/exe").readlink() == Path(f"/proc/{like}/exe").readlink()
    except OSError:
        return False
    for line in _text(pid, "status").splitlines():
        if line.startswith("SigCgt:"):
            return same and bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def _call(pid: int) -> str:
    words = _text(pid, "syscall").split()
    if len(words) < 2 or not words[0].lstrip("-").isdigit():
        return ""
    name = _CALLS.get(int(words[0]), "")
    if name in _OF_A_FILE:
        try:
            place = Path(f"/proc/{pid}/fd/{int(words[1], 16)}").readlink()
        except (OSError, ValueError):
            return name
        return f"{name} {place}"
    return name


def _text(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""


def _kilobytes(text: str) -> int:
    return int(text.split()[0]) << 10 if text else 0
