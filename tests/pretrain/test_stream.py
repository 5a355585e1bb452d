"""The global stream is a pure function: of no layout, no worker, no kill."""

import hashlib
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lumbre import stdlib
from lumbre.errors import DataError
from lumbre.tokenizer import WordPieceConfig
from pretrain.data.config import DataConfig
from pretrain.data.loader import Loader
from pretrain.data.mixture import prepare_sets
from pretrain.data.plan import Plan, Stage
from pretrain.objectives import MlmConfig
from pretrain.samples import GlobalStream, validation_sets

WEIGHTS = {"web": 5.0, "code": 3.0, "books": 2.0}
STAGES = [
    {"after_step": 3, "weights": {"books": 1.0, "web": 1.0}, "global_batch_size": 16},
    {"after_step": 6, "seq_length": 64},
    {"after_step": 9, "weights": WEIGHTS},
]
KILLS = int(os.environ.get("LUMBRE_KILLS", "50"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a mixture of three corpora of the standard library's text, of some tens of rows each."""
    folder = tmp_path_factory.mktemp("sets")
    mixture = {}
    for name, module in zip(WEIGHTS, ["argparse", "ast", "calendar"], strict=True):
        path = stdlib.module_files()[module]
        documents = folder / f"{name}.txt"
        documents.write_text(
            "\n\n".join(" ".join(one.text.split()) for one in stdlib.documents_of(module, path, "definition"))
        )
        mixture[name] = {
            "sources": [{"type": "text", "paths": [str(documents)], "documents": "paragraph"}],
            "folder": str(folder / name),
            "weight": WEIGHTS[name],
            "validation_fraction": 0.1,
        }
    return DataConfig.model_validate({"mixture": mixture, "seq_length": 32, "stages": STAGES})


@pytest.fixture(scope="module")
def sets(data, tmp_path_factory):
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))  # the tokenizer that the sets share lies under data/
    try:
        return prepare_sets(data, WordPieceConfig(vocab_size=600))
    finally:
        os.chdir(before)


def plan_of(data, micro=4, **first):
    stage = Stage(0, 0, data.seq_length, 8, micro, data.weights)
    return Plan.of(Stage(**vars(stage) | first), data.stages, list(data.sets))


def stream_of(sets, data, plan=None, seed=7):
    objective = MlmConfig().build(next(iter(sets.values())).tokenizer(), seed)
    return GlobalStream(sets, data, plan or plan_of(data), objective, seed)


def digest(sample):
    content = b"".join(key.encode() + np.ascontiguousarray(sample[key]).tobytes() for key in sorted(sample))
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def test_a_sample_is_a_function_of_its_index_alone(sets, data):
    one, other = stream_of(sets, data), stream_of(sets, data)
    there = [digest(one(k)) for k in range(120)]
    assert [digest(other(k)) for k in reversed(range(120))] == there[::-1]
    assert len(set(there)) == 120
    assert digest(stream_of(sets, data, seed=8)(0)) != there[0]


def test_samples_are_as_long_as_their_stage_and_of_the_sets_that_it_names(sets, data):
    stream, plan = stream_of(sets, data), plan_of(data)
    ends = [*(stage.first_sample for stage in plan.stages[1:]), plan.stages[-1].first_sample + 40]
    for stage, end in zip(plan.stages, ends, strict=True):
        samples = [stream(k) for k in range(stage.first_sample, end)]
        assert {len(sample["input_ids"]) for sample in samples} == {stage.seq_length}
        counts = Counter(int(sample["source"]) for sample in samples)
        for number, weight in enumerate(stage.weights):
            assert abs(counts[number] - len(samples) * weight / sum(stage.weights)) < 1


def test_no_row_of_a_set_comes_again_before_all_have_come_even_over_stages(sets, data):
    """What was noised away is put back from the labels, so that rows can be told apart."""
    short = data.model_copy(update={"stages": data.stages[:1]})
    stream = stream_of(sets, short, plan_of(short))
    rows = {}
    for k in range(800):
        sample = stream(k)
        tokens = np.where(sample["labels"] >= 0, sample["labels"], sample["input_ids"])
        rows.setdefault(int(sample["source"]), []).append(tokens.tobytes())
    for number, taken in rows.items():
        total = stream._rows[number, 32].num_rows
        assert len(taken) > 1
        for first in range(0, len(taken) - total, total):
            assert len(set(taken[first : first + total])) == len(set(taken))


def test_a_set_that_may_not_repeat_ends_the_run_before_its_first_repeated_row(sets, data):
    for name in WEIGHTS:
        mixture = {
            other: one.model_copy(update={"when_exhausted": "stop" if other == name else "repeat"})
            for other, one in data.mixture.items()
        }
        ending = data.model_copy(update={"mixture": mixture})
        plan = plan_of(ending)
        stream = stream_of(sets, ending, plan)
        steps = stream.steps(10_000, ending)
        assert 0 < steps < 10_000
        number, taken = list(WEIGHTS).index(name), Counter()
        for k in range(plan.step(steps).first + plan.step(steps).global_batch_size):
            if k == plan.step(steps).first:
                assert all(count <= stream._rows[key].num_rows for key, count in taken.items())
            stage = plan.stages[plan.number_of(k)]
            source, _ = stage.interleave(k - stage.first_sample)
            taken[number, stage.seq_length] += source == number
        assert any(count > stream._rows[key].num_rows for key, count in taken.items())
    assert stream_of(sets, data).steps(10_000, data) == 10_000


def test_a_set_too_small_for_one_step_that_may_not_repeat_is_an_error(sets, data):
    once = {name: one.model_copy(update={"when_exhausted": "stop"}) for name, one in data.mixture.items()}
    ending = data.model_copy(update={"mixture": once, "stages": []})
    stream = stream_of(sets, ending, plan_of(ending, global_batch_size=100_000))
    with pytest.raises(DataError, match=r"set '\w+' has [\d,]+ rows of 32 tokens, too few for one step"):
        stream.steps(10, ending)


def test_validation_is_in_the_last_stages_rows_and_weights(sets, data):
    objective = MlmConfig().build(next(iter(sets.values())).tokenizer(), 7)
    found = validation_sets(sets, data, plan_of(data), objective, most=3)
    assert [one.name for one in found] == list(WEIGHTS)
    assert [one.weight for one in found] == [0.5, 0.3, 0.2]
    assert all(one.num_rows <= 3 and len(one.sample(0)["input_ids"]) == 64 for one in found)


def deliver(sets, data, file, rank, world, micro, workers, start, stop):
    """Write the digest of each sample of a rank's batches, as they come."""
    stream = stream_of(sets, data)
    with (
        Loader(
            stream,
            plan_of(data, micro),
            rank=rank,
            world_size=world,
            start_step=start,
            stop_step=stop,
            workers=workers,
        ) as batches,
        file.open("a", buffering=1) as lines,
    ):
        for number, step in enumerate(batches):
            for batch in step:
                for place, k in enumerate(batch.pop("sample").tolist()):
                    row = {key: value[place].numpy() for key, value in batch.items()}
                    lines.write(f"{start + number} {k} {digest(row)}\n")


def ends(group):
    """Return whether every process of a group ends within some seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.slow
def test_the_stream_is_the_same_through_kills_on_any_layout(sets, data, tmp_path):
    """Ranks are killed at random moments and go on from the last whole step in another random layout."""
    steps, chance, killed, start, seen = 400, random.Random(5), 0, 0, {}
    wanted = stream_of(sets, data)
    layouts = Counter()
    while start < steps:
        world = chance.choice([1, 2, 4])
        micro = chance.choice([m for m in (1, 2, 4, 8) if 8 % (m * world) == 0])
        workers = chance.choice([0, 2])
        files = [tmp_path / f"{killed}-{rank}" for rank in range(world)]
        children = []
        for rank, file in enumerate(files):
            file.touch()
            child = os.fork()
            if not child:
                os.setpgid(0, 0)
                try:
                    deliver(sets, data, file, rank, world, micro, workers, start, steps)
                finally:
                    os._exit(0)
            children.append(child)
        if killed < KILLS:
            time.sleep(chance.uniform(0.05, 0.5))
            for child in children:
                os.kill(child, signal.SIGKILL)
            killed += 1
            layouts[world, workers] += 1
        for child in children:
            os.waitpid(child, 0)
            assert ends(child), "a worker outlives its rank"
        lines = [line for file in files for line in file.read_text().splitlines(keepends=True)]
        whole = Counter()
        for step, k, found in (line.split() for line in lines if line.endswith("\n")):
            whole[int(step)] += 1
            assert seen.setdefault(int(k), found) == found
        plan = plan_of(data)
        while start < steps and whole[start] == plan.step(start).global_batch_size:
            start += 1
        if killed < KILLS and start == steps:
            start = 0
    assert killed == KILLS
    assert KILLS < 50 or set(layouts) == {(world, workers) for world in (1, 2, 4) for workers in (0, 2)}
    assert sorted(seen) == list(range(plan_of(data).step(steps).first))
    assert all(digest(wanted(k)) == found for k, found in seen.items())
