"""The hosts of a job, in the format of DeepSpeed's hostfile: `NAME slots=N`, and comments."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9_][A-Za-z0-9_.:%-]*")
SLOTS = re.compile(r"slots=([0-9]{1,6})")


@dataclass(frozen=True)
class Host:
    """A host as ssh knows it, and how many processes it takes."""

    name: str
    slots: int = 1

    @property
    def machine(self) -> str:
        """The name without the user's."""
        return self.name.rpartition("@")[2]


@dataclass(frozen=True)
class Fault:
    """What is wrong with a line, counted from 0."""

    line: int
    fault: str
    remedy: str


def parse(lines: Iterable[str]) -> tuple[list[Host], list[Fault]]:
    """Return the hosts, in order, and what is wrong with any line; a host without slots has one."""
    hosts: list[Host] = []
    faults: list[Fault] = []
    first: dict[str, int] = {}
    for number, line in enumerate(lines):
        words = line.partition("#")[0].split()
        if not words:
            continue
        name, *settings = words
        if not NAME.fullmatch(name):
            faults.append(Fault(number, f"{name!r} is no name of a host", "write NAME slots=N, one a line"))
            continue
        slots = 1
        for setting in settings:
            if not (found := SLOTS.fullmatch(setting)):
                faults.append(Fault(number, f"{setting!r} is not slots=N", "write NAME slots=N, one a line"))
            elif (slots := int(found[1])) == 0:
                remedy = "leave the host out, with a # before it"
                faults.append(Fault(number, f"slots=0 gives {name} no process", remedy))
        host = Host(name, slots)
        at = first.setdefault(host.machine.lower(), number)
        if at != number:
            fault = f"{name} stands here again, first in line {at + 1}"
            faults.append(Fault(number, fault, "keep one line, with all of its slots"))
        else:
            hosts.append(host)
    return hosts, faults
