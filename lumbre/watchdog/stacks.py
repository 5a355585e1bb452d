"""Python stacks as faulthandler writes them: parsed, and told with the source line."""

import re
from dataclasses import dataclass
from pathlib import Path

_THREAD = re.compile(r"^(?:Current thread|Thread) 0x([0-9a-f]+)")
_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$')
_FATAL = re.compile(r"^Fatal Python error: (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Frame:
    """One call."""

    file: str
    line: int
    function: str

    @property
    def source(self) -> str:
        """The line of source, "" where it cannot be read."""
        try:
            with Path(self.file).open(encoding="utf-8", errors="replace") as stream:
                for number, text in enumerate(stream, start=1):
                    if number == self.line:
                        return text.strip()
        except OSError:
            pass
        return ""

    def __str__(self) -> str:
        """Tell where it is, and what stands there."""
        source = self.source
        return f"{self.file}:{self.line} in {self.function}" + (f": {source}" if source else "")


@dataclass(frozen=True)
class Dump:
    """The stacks of a process: frames of each thread by its number, the innermost first."""

    threads: dict[int, list[Frame]]
    fatal: str = ""
    """What the process died of, as faulthandler saw it; "" where it saw nothing."""

    def main(self, thread: int) -> list[Frame]:
        """Return the frames of a thread, none where they are not told."""
        return self.threads.get(thread, [])

    def with_function(self, function: str) -> list[Frame]:
        """Return the frames of the first thread that is inside a function of that name."""
        found = (frames for frames in self.threads.values() if any(f.function == function for f in frames))
        return next(found, [])


def parse(text: str) -> Dump:
    """Read what faulthandler has written; of several dumps the last one of each thread counts."""
    threads: dict[int, list[Frame]] = {}
    frames: list[Frame] = []
    for line in text.splitlines():
        if thread := _THREAD.match(line):
            frames = threads[int(thread[1], 16)] = []
        elif frame := _FRAME.match(line):
            frames.append(Frame(frame[1], int(frame[2]), frame[3]))
    fatal = _FATAL.search(text)
    return Dump(threads, fatal[1] if fatal else "")
