"""Worker processes: a dead one is explained, none outlives its parent, and no kill loses anything."""

import contextlib
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from lumbre.errors import DataError
from pretrain.data.preparation.prepare import prepare
from pretrain.data.preparation.workers import Workers
from pretrain.data.sources import TextConfig
from tests.pretrain.data.preparation.test_prepare import TOKENIZER, content, start, wait_for


def run_tasks(tasks, count, cores, report):
    with Workers() as workers:
        yield from workers.run(tasks, count, cores, report)


class Sleep:
    """A task that says who works on it and waits."""

    def __init__(self, folder, seconds=60.0):
        self.folder = folder
        self.seconds = seconds

    def __call__(self, report):
        (self.folder / str(os.getpid())).touch()
        time.sleep(self.seconds)
        report(7)
        return os.getpid()


class Raise:
    """A task that fails."""

    def __init__(self, error):
        self.error = error

    def __call__(self, report):
        raise self.error


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def workers_in(folder):
    return [int(file.name) for file in folder.iterdir() if file.name.isdecimal()]


def test_tasks_run_in_processes_of_their_own_which_import_no_torch(tmp_path):
    said = []
    found = dict(run_tasks([Sleep(tmp_path, 0.0)] * 5, 5, 2, lambda *one: said.append(one)))
    assert sorted(found) == list(range(5))
    assert len(set(found.values())) <= 2
    assert os.getpid() not in found.values()
    assert sorted(said) == [(number, 7) for number in range(5)]
    assert not any(map(is_alive, found.values()))
    modules = dict(run_tasks([Modules()] * 2, 2, 2, lambda *one: None))
    assert "torch" not in modules[0]


class Modules:
    """A task that lists what is imported for a preparation's tasks."""

    def __call__(self, report):
        import sys

        import pretrain.data.preparation.pipeline  # noqa: F401

        return sorted(sys.modules)


def test_one_core_or_one_task_is_this_process(tmp_path):
    assert dict(run_tasks([Sleep(tmp_path, 0.0)] * 2, 2, 1, lambda *one: None)) == dict.fromkeys(
        range(2), os.getpid()
    )
    assert dict(run_tasks([Sleep(tmp_path, 0.0)], 1, 4, lambda *one: None)) == {0: os.getpid()}


def test_workers_stay_for_the_next_tasks_and_end_with_the_context(tmp_path):
    with Workers() as workers:
        assert workers.start(count=3, cores=2) == len(workers) == 2
        stages = [dict(workers.run([Sleep(tmp_path, 0.0)] * 4, 4, 2, lambda *one: None)) for _ in range(2)]
        assert set(stages[0].values()) | set(stages[1].values()) == set(workers_in(tmp_path))
        assert len(workers_in(tmp_path)) == len(workers) == 2
        assert all(map(is_alive, workers_in(tmp_path)))
    assert not any(map(is_alive, workers_in(tmp_path)))


@pytest.mark.parametrize("error", [DataError("a.txt: bad; mend it"), ZeroDivisionError("a bug")])
def test_what_a_task_raises_is_raised_here_with_its_trace(error):
    with pytest.raises(type(error), match=str(error)) as caught:
        list(run_tasks([Raise(error)] * 2, 2, 2, lambda *one: None))
    assert "in __call__" in caught.value.__notes__[0]


def test_a_killed_worker_ends_the_work_with_a_reason_and_a_remedy(tmp_path):
    def report(number, done):
        wait_for(lambda: len(workers_in(tmp_path)) == 2)
        for pid in workers_in(tmp_path):
            os.kill(pid, signal.SIGKILL)

    tasks = [Sleep(tmp_path, 0.5), Sleep(tmp_path)]
    with pytest.raises(
        DataError, match=r"was killed by SIGKILL; if memory ran out, set data\.workers.*is kept"
    ):
        list(run_tasks(tasks, len(tasks), 2, report))
    assert not any(map(is_alive, workers_in(tmp_path)))


def children(pid):
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


@pytest.fixture
def big(data_config, texts, tmp_path):
    """Return a config of more text than is prepared at once."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for index in range(6):
        lines = [f"{index} {number} {texts[number % len(texts)]}" for number in range(200)]
        (folder / f"{index}.txt").write_text("\n\n".join(lines))
    config = data_config(folder, tmp_path / "data", unit_bytes=1 << 16, workers=2, shard_tokens=40_000)
    return config.model_copy(update={"sources": [TextConfig(paths=[str(folder)], documents="paragraph")]})


def started(config, count=1):
    """Start a preparation and return it when its workers have done so many units, with their ids."""
    process = start(config)
    units = Path(f"{config.folder}.partial/units")
    wait_for(lambda: len(list(units.glob("*.index"))) >= count or process.poll() is not None)
    return process, children(process.pid)


def test_no_worker_outlives_its_parent(big):
    process, workers = started(big)
    assert len(workers) == 2
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not any(map(is_alive, workers)))


def test_a_preparation_whose_worker_is_killed_goes_on_when_it_is_asked_again(big):
    process, workers = started(big)
    os.kill(workers[0], signal.SIGKILL)
    said = process.communicate()[1]
    assert process.returncode == 1  # the program of the test has no `lumbre` about it that explains
    assert "DataError: a worker of the preparation" in said
    assert not any(map(is_alive, workers))
    assert list(Path(f"{big.folder}.partial/units").glob("*.index"))
    again = prepare(big, TOKENIZER)
    whole = prepare(big.model_copy(update={"folder": f"{big.folder}-whole", "workers": 1}), TOKENIZER)
    assert content(again.folder) == content(whole.folder)


@pytest.mark.slow
def test_kills_at_any_moment_of_any_stage_change_no_byte(big):
    """Killed again and again, parent or worker, while units or shards are written."""
    big = big.model_copy(update={"shard_tokens": 2000})
    whole = prepare(big.model_copy(update={"folder": f"{big.folder}-whole", "workers": 1}), TOKENIZER)
    chance = random.Random(7)
    for stage in ("units/*.index", "out/*.tokens"):
        hits = 0
        for _ in range(24):
            hits += killed_in(stage, big, chance)
            if Path(big.folder).exists():  # it was done before the kill
                assert content(big.folder) == content(whole.folder)
                shutil.rmtree(big.folder)
            if hits == 4:
                break
        assert hits == 4, f"only {hits} of 24 kills came in time for {stage}"
    assert content(prepare(big, TOKENIZER).folder) == content(whole.folder)


def killed_in(stage, config, chance):
    """Kill the parent or a worker soon after the next file of a stage; return whether it came in time."""
    partial = Path(f"{config.folder}.partial")
    process = start(config.model_copy(update={"workers": chance.randint(1, 3)}))
    before = len(list(partial.glob(stage)))
    wait_for(lambda: len(list(partial.glob(stage))) > before or process.poll() is not None)
    time.sleep(chance.uniform(0, 0.02))
    workers = children(process.pid)
    victim = chance.choice([process.pid, *workers])
    assert process.poll() in (None, 0), "it failed by itself"
    with contextlib.suppress(ProcessLookupError):  # a worker that has just ended
        os.kill(victim, signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not any(map(is_alive, workers)))
    published = Path(config.folder).exists()
    assert published or process.returncode != 0
    return not published
