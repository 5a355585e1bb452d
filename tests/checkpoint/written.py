"""A checkpoint of given fragments, written as the ranks of a run write one."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from lumbre.checkpoint.save import Save
from lumbre.checkpoint.shard import Layout, stream
from lumbre.distributed import World
from lumbre.engine import Fragment


class Owner:
    """An engine that owns fragments and does nothing else."""

    def __init__(self, fragments: Sequence[Fragment]) -> None:
        self._fragments = fragments

    def fragments(self) -> Iterator[Fragment]:
        yield from self._fragments


def write(folder: Path, by_rank: Sequence[Sequence[Fragment]], state: str = "{}") -> Path:
    """Write each rank's fragments, the main rank's last, and return the checkpoint."""
    size = len(by_rank)
    for rank in reversed(range(size)):
        save = Save(folder.with_suffix(".tmp"), folder, state, World(rank, size, rank, size), lambda _: None)
        save.write(Layout.of(by_rank[rank]), stream(Owner(by_rank[rank]), Layout.of(by_rank[rank])))  # type: ignore[arg-type]
    save.publish()
    assert save.fault == ""
    return folder
