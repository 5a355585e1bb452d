"""What any thread of any rank has to tell, told with the next step."""

from collections import deque

from lumbre import distributed
from lumbre.tracking import Row, event

Note = tuple[str, str]
"""An event's name and message."""


class Notes:
    """Rows are the main rank's to give, and its loop's; what others have to tell waits here for it."""

    def __init__(self) -> None:
        self._waiting: deque[Note] = deque()

    def add(self, name: str, message: str) -> None:
        """Leave an event; for any thread."""
        self._waiting.append((name, message))

    def take(self) -> list[Note]:
        """Return this rank's."""
        return [self._waiting.popleft() for _ in range(len(self._waiting))]


def rows(own: list[Note], step: int) -> list[Row]:
    """Return the events of all ranks; every rank calls where some has any."""
    return [
        event(name, step, f"rank {rank}: {message}")
        for rank, notes in enumerate(distributed.gather_objects(own))
        for name, message in notes
    ]
