"""Data sets of the hub: splits, classes by name, and a network that is not there."""

import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import huggingface_hub
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from finetune.data import HubConfig
from lumbre.errors import DataError

FEATURES = Features(
    {
        "text": Value("string"),
        "label": ClassLabel(names=["negative", "positive"]),
        "tags": List(ClassLabel(names=["O", "B-PER"])),
    }
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a data set's folder as the hub has it, read through a cache of its own."""
    top = tmp_path_factory.mktemp("hub")
    for split, labels in (("train", [0, 1, 1]), ("validation", [1]), ("test", [-1])):
        rows = {
            "text": [f"{split} {at}" for at in range(len(labels))],
            "label": labels,
            "tags": [[0, 1]] * len(labels),
        }
        (top / "set" / "data").mkdir(parents=True, exist_ok=True)
        Dataset.from_dict(rows, features=FEATURES).to_parquet(top / "set" / "data" / f"{split}.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", top / "cache")
        yield top / "set"


def test_splits_are_rows_and_those_not_named_are_not_there(folder: Path) -> None:
    config = HubConfig(name=str(folder), train="train[:2]", validation="validation")
    assert not list(config.all_problems())
    splits = config.build()
    assert list(splits) == ["train", "validation"]
    assert splits["train"] == [
        {"text": "train 0", "label": 0, "tags": [0, 1]},
        {"text": "train 1", "label": 1, "tags": [0, 1]},
    ]


def test_classes_are_given_by_name_where_that_is_asked_for(folder: Path) -> None:
    config = HubConfig(name=str(folder), validation="validation", test="test", label_names=True)
    splits = config.build()
    assert [record["label"] for record in splits["train"]] == ["negative", "positive", "positive"]
    assert splits["validation"] == [{"text": "validation 0", "label": "positive", "tags": ["O", "B-PER"]}]
    assert splits["test"][0]["label"] is None


def test_a_split_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r'hub:.*/set: Unknown split "dev".*; check data \(name, subset'):
        HubConfig(name=str(folder), validation="dev").build()


def test_without_a_network_the_fault_is_told_within_seconds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The stand-in for a hub that does not answer raises what a network without a route does.

    What loads the data set is real, and would ask a hub that is there for longer than the test may take.
    """

    def unreachable(*arguments: object, **keys: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    before = huggingface_hub.constants.HF_HUB_OFFLINE
    start = time.monotonic()
    with pytest.raises(
        DataError, match=r"hub:owner/name: the hub is out of reach \(.*Network is unreachable\), and"
    ):
        HubConfig(name="owner/name", validation="validation").build()
    assert time.monotonic() - start < 5
    assert before == huggingface_hub.constants.HF_HUB_OFFLINE
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    (problem,) = HubConfig(name="owner/name").all_problems("data.")
    assert problem.key == "data.validation"
