"""What can happen to a run: each fault is done to a scene and says what it was."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.disk import fill
from tests.faults.processes import kill_family
from tests.faults.scene import Scene, signalled

Fault = Callable[[Scene], str]


def kill_rank(scene: Scene) -> str:
    """SIGKILL to one rank."""
    rank = scene.chance.choice(sorted(scene.ranks()) or [0])
    scene.kill([rank])
    return f"rank {rank} killed"


def kill_all_ranks(scene: Scene) -> str:
    """SIGKILL to all ranks at one moment."""
    scene.kill(sorted(scene.ranks()))
    return "all ranks killed"


def kill_everything(scene: Scene) -> str:
    """SIGKILL to launcher, agent and ranks at one moment; somebody runs the same command again."""
    scene.spare(scene.ranks())
    kill_family(scene.launcher.pid)
    scene.launcher.wait()
    scene.run_again("all were killed")
    return "everything killed"


def stop_rank(scene: Scene) -> str:
    """A rank stands still for a while, as on a machine that swaps, and goes on."""
    rank, pid = _some_rank(scene)
    seconds = scene.chance.uniform(0.1, 1.5)
    signalled(pid, signal.SIGSTOP)
    time.sleep(seconds)
    signalled(pid, signal.SIGCONT)
    return f"rank {rank} stopped for {seconds:.1f} s"


def slow_rank(scene: Scene) -> str:
    """A rank gets a third of its time for a while."""
    rank, pid = _some_rank(scene)
    for _ in range(20):
        signalled(pid, signal.SIGSTOP)
        time.sleep(0.04)
        signalled(pid, signal.SIGCONT)
        time.sleep(0.02)
    return f"rank {rank} slowed"


def flip_bit(scene: Scene) -> str:
    """A bit of the newest checkpoint turns over, and all ranks are killed."""
    return _damage(scene, "flipped in", _flip)


def truncate(scene: Scene) -> str:
    """A file of the newest checkpoint loses its end, and all ranks are killed."""
    return _damage(scene, "truncated:", _cut)


def tear_metrics(scene: Scene) -> str:
    """All ranks are killed while half a row of metrics.jsonl is on the disk."""
    with scene.stopped():
        file = scene.run / "metrics.jsonl"
        if file.exists():
            with file.open("ab") as stream:
                stream.write(b'{"step": 99999, "loss": 0.')
        scene.kill(sorted(scene.ranks()))
    return "metrics.jsonl torn"


def starve_disk(scene: Scene) -> str:
    """Others take all the space of the disk for a while; the runs folder has to be a small one of its own.

    A run that ends over it is started by somebody again: rows wait in memory, checkpoints cannot.
    """
    others = scene.run.parent / "others"
    scene.starved = True
    fill(others)
    seconds = scene.chance.uniform(0.2, 4)
    until = time.monotonic() + seconds
    while time.monotonic() < until and scene.launcher.poll() is None:
        time.sleep(0.02)
    others.unlink()
    return f"no space on the disk for {seconds:.1f} s"


def _some_rank(scene: Scene) -> tuple[int, int]:
    """Return a rank and its process; where an attempt is just over, one of the next."""
    assert scene.wait_for(lambda: bool(scene.ranks())), "the run has ended"
    return scene.chance.choice(sorted(scene.ranks().items()))


def _damage(scene: Scene, word: str, harm: Callable[[Scene, Path], None]) -> str:
    with scene.stopped():
        whole = scene.whole()
        place = ""
        # Without another whole one the run would have to refuse to go on.
        if len(whole) > 1:
            file = scene.chance.choice(sorted(file for file in whole[0].iterdir() if file.stat().st_size))
            harm(scene, file)
            scene.harmed.append(whole[0].name)
            place = f", {word} {whole[0].name}/{file.name}"
        scene.kill(sorted(scene.ranks()))
    return f"all ranks killed{place}"


def _flip(scene: Scene, file: Path) -> None:
    content = bytearray(file.read_bytes())
    at = scene.chance.randrange(len(content))
    content[at] ^= 1 << scene.chance.randrange(8)
    file.write_bytes(content)


def _cut(scene: Scene, file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: scene.chance.randrange(len(content))])


KILLS: tuple[Fault, ...] = (kill_rank, kill_rank, kill_rank, kill_all_ranks, kill_everything)
OTHERS: tuple[Fault, ...] = (stop_rank, slow_rank, flip_bit, truncate, tear_metrics, starve_disk)
