"""Why a rank is late, in a sentence with the remedy."""

from lumbre.watchdog.extension_locks import extensions_folder, lock_files
from lumbre.watchdog.report import Child, Report

MOSTLY = 0.5
"""A main thread that was in a state in more than this part of the looks was kept there."""


def cause(report: Report) -> str:
    """Return the probable cause that a rank stands still."""
    place = f"while {report.phase}" if report.phase else ""
    return f"{_what(report)} {place}".strip()


def _what(one: Report) -> str:
    innermost = one.frames[0] if one.frames else ""
    if not one.alive:
        return _ended(one)
    if one.share("T") > MOSTLY:
        more = f" {one.share('T'):.0%} of the time" if one.share("T") < 1 else ""
        return f"is stopped by a signal{more} (SIGSTOP: state T; `kill -CONT {one.pid}` wakes it)"
    if one.tracer:
        return f"is held by a debugger (process {one.tracer})"
    if one.share("D") > MOSTLY:
        return f"waits for a disk or a network file system (state D{_in(one.call)})"
    if one.swapped_bytes > max(one.resident_bytes, 1 << 20):
        return f"is swapped out ({one.swapped_bytes >> 20} MiB): the machine has too little memory"
    if not one.answers:
        return f"is in C code that keeps Python's lock (GIL), called from {innermost}"
    if "file_baton.py" in " ".join(one.frames[:3]):
        return f"waits for the lock of an op's compilation; {_extension_locks()}"
    if one.phase == "waiting for data":
        return _data(one)
    if one.call.startswith(("write", "writev", "pwrite")):
        return f"is blocked in a {one.call}: nobody reads it, or the disk does not answer; at {innermost}"
    if one.call.startswith("open"):
        return f"is blocked in opening a file; at {innermost}"
    if one.call in ("wait4", "waitid") or "subprocess.py" in innermost:
        return f"waits for a process that it has started ({_children(one)}); at {_own(one)}"
    if one.share("R") > MOSTLY:
        return f"computes all the time: an endless loop, or work out of proportion; at {innermost}"
    if "threading.py" in innermost or "acquire" in innermost or "lock" in innermost.rpartition(": ")[2]:
        return f"waits for a lock or an event of Python; at {_own(one)}"
    if one.waits_in:
        return f"waits in collective {one.waits_in}, at {innermost}"
    return f"is at {innermost or 'a place that it does not tell'}{_in(one.call)}"


def _ended(one: Report) -> str:
    if one.fatal:
        return f"crashed: {one.fatal}"
    return "ended without a word: killed (SIGKILL; out of memory?), or os._exit was called"


def _data(one: Report) -> str:
    for child in one.children:
        if "T" in child.state:
            return f"gets no data: loader process {child.pid} is stopped by a signal (state T)"
    for child in one.children:
        if child.frames:
            at = child.frames[0]
            return f"gets no data: loader process {child.pid} (state {child.state}) is at {at}"
    if one.loader:
        return f"gets no data: the loader's thread is at {one.loader[0]}"
    return "gets no data: the loader's thread is not there"


def _children(one: Report) -> str:
    def told(child: Child) -> str:
        return f"process {child.pid}, state {child.state}: {child.command}"

    return "; ".join(told(child) for child in one.children) or "it has ended"


def _own(one: Report) -> str:
    """Return the innermost frame that is not of Python's own threading or subprocess."""
    own = (frame for frame in one.frames if "threading.py" not in frame and "subprocess.py" not in frame)
    return next(own, "")


def _in(call: str) -> str:
    return f", in {call}" if call else ""


def _extension_locks() -> str:
    """Return which lock files of compilations there are, and what to do about them."""
    folder = extensions_folder()
    found = [str(file) for file in lock_files(folder)]
    if not found:
        return f"below {folder}"
    return f"{', '.join(found)}: if no process compiles, delete it"
