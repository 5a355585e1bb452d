"""Near-duplicates are left out: by the law of MinHash, the lowest kept, the same on any layout."""

import importlib.util
import json
import random
import signal
from pathlib import Path

import numpy as np
import pytest

from pretrain.data.preparation.near_duplicates import NearDuplicatesConfig
from pretrain.data.preparation.pipeline import NEAR_DUPLICATE
from pretrain.data.preparation.prepare import prepare
from pretrain.data.preparation.raw import CorpusConfig
from pretrain.data.sources import JsonlConfig
from tests.pretrain.data.preparation.test_prepare import TOKENIZER, content, start, wait_for

pytestmark = pytest.mark.filterwarnings("ignore")  # what datatrove imports warns

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "bdfgklmnprst"]


def document(seed, length=120):
    return random.Random(seed).choices(WORDS, k=length)


def edited(words, seed, edits):
    """Return the words with some replaced."""
    chance = random.Random(seed)
    words = list(words)
    for _ in range(edits):
        words[chance.randrange(len(words))] = "edited"
    return words


def jaccard(one, other, size=5):
    """Return the share of n-grams in common, the reference for what is alike."""
    first, second = (
        {tuple(words[at : at + size]) for at in range(len(words) - size + 1)} for words in (one, other)
    )
    return len(first & second) / len(first | second)


@pytest.fixture(scope="module")
def alike():
    """Return documents: 60 alone, and 20 clusters of an original, two edits of it and a copy, shuffled."""
    groups = [[document(seed)] for seed in range(60)]
    for seed in range(100, 120):
        words = document(seed)
        groups.append([words, edited(words, 1, 1), edited(words, 2, 1), words])
    order = [(group, words) for group, members in enumerate(groups) for words in members]
    random.Random(5).shuffle(order)
    return order


@pytest.fixture(scope="module")
def source(alike, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alike")
    for part in range(3):
        lines = [json.dumps({"text": " ".join(words)}) for _, words in alike[part::3]]
        (folder / f"{part}.jsonl").write_text("\n".join(lines))
    return JsonlConfig(paths=[str(folder)])


def config(source, folder, **keys):
    keys = {"near_duplicates": NearDuplicatesConfig(), "unit_bytes": 4096, "shard_tokens": 3000} | keys
    return CorpusConfig(sources=[source], folder=str(folder), validation_fraction=0, **keys)


def texts_of(data):
    documents, tokenizer = data.split("train"), data.tokenizer()
    spans = [documents.document(index) for index in range(documents.num_documents)]
    return [tokenizer.decode(documents.tokens(*span)) for span in spans]


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
    return prepare(config(source, tmp_path_factory.mktemp("near") / "data", workers=1), TOKENIZER)


def test_the_first_of_each_cluster_stays_and_what_is_alone_stays(alike, prepared):
    in_order = alike[0::3] + alike[1::3] + alike[2::3]
    firsts = {}
    for group, words in in_order:
        firsts.setdefault(group, " ".join(words))
    likeness = [
        jaccard(one, other) for g, one in in_order for h, other in in_order if g == h and one is not other
    ]
    assert min(likeness) > 0.8
    assert sorted(texts_of(prepared)) == sorted(firsts.values())


def test_they_are_counted_with_the_first_place(alike, prepared):
    skip = prepared.manifest.skipped[NEAR_DUPLICATE]
    assert skip.count == 60
    assert prepared.manifest.duplicates == 0
    path, _, line = skip.first.rpartition(": line ")
    words = alike[int(Path(path).stem) :: 3][int(line) - 1][1]
    assert " ".join(words) not in texts_of(prepared)


@pytest.mark.parametrize(
    "keys", [{"workers": 3}, {"workers": 1, "unit_bytes": 1024}, {"unit_bytes": 1 << 22}]
)
def test_which_one_stays_does_not_depend_on_the_layout(source, prepared, tmp_path, keys):
    data = prepare(config(source, tmp_path / "data", **keys), TOKENIZER)
    assert content(data.folder) == content(prepared.folder)


@pytest.mark.slow
def test_a_kill_among_signatures_or_pairs_changes_no_byte(source, prepared, tmp_path):
    killed = config(source, tmp_path / "data", workers=2)
    folder = Path(f"{killed.folder}.partial/near")
    for stage in ("signatures-*.done", "pairs-*.done"):
        process = start(killed)
        wait_for(lambda *one: list(folder.glob(one[0])) or one[1].poll() is not None, stage, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert content(prepare(killed, TOKENIZER).folder) == content(prepared.folder)


def test_a_long_document_has_the_signature_of_the_whole(monkeypatch):
    """Against datatrove's own step, which takes all n-grams at once."""
    from datatrove.pipeline.dedup.minhash import MinhashDedupSignature

    from pretrain.data.preparation import minhash

    text = " ".join(document(3, 3000))
    ours, theirs = (
        step("/nowhere", minhash.minhash_config({}), language=minhash.Words("any"))
        for step in (minhash.Signatures, MinhashDedupSignature)
    )
    monkeypatch.setattr(minhash, "SHINGLES_AT_ONCE", 100)
    shingles = theirs.get_shingles(text)
    assert np.array_equal(ours.get_shingles(text), shingles)
    assert ours.get_signature(shingles) == theirs.get_signature(shingles)


def test_a_missing_datatrove_is_a_problem_with_the_remedy(source, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "datatrove" else find_spec(name)
    )
    (problem,) = config(source, tmp_path).all_problems("data.")
    assert str(problem) == (
        "data.near_duplicates: needs datatrove, which is not installed; "
        "run pip install 'lumbre[near-duplicates]'"
    )
