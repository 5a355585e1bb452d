"""Labelled examples: splits that share nothing, cut evenly, and a validation split drawn by hash."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data import Example, Examples, ExamplesConfig, StdlibFunctionsConfig
from lumbre import stdlib
from lumbre.errors import DataError

SPLITS = ("train", "validation", "test")


def test_stdlib_functions_have_every_label_in_each_split_and_no_text_in_two() -> None:
    splits = StdlibFunctionsConfig().build()
    assert list(splits) == ["train", "validation", "test"]
    texts = {split: [record["text"] for record in records] for split, records in splits.items()}
    for records in splits.values():
        assert {record["label"] for record in records} == set(stdlib.PACKAGES)
        assert all(record["module"].split(".")[0] == record["label"] for record in records)
    together = [text for of_split in texts.values() for text in of_split]
    assert len(set(together)) == len(together)


class Numbers(ExamplesConfig):
    """As many records as asked for; no name, so that it does not join the registry."""

    count: int
    first: int = 0
    held_out: bool = True

    @property
    def has_validation(self) -> bool:
        return self.held_out

    def read(self) -> Examples:
        numbers: list[Example] = [{"at": at, "text": f"é{at}"} for at in range(self.first, self.count)]
        return {
            "train": numbers,
            **({"validation": list(numbers), "test": list(numbers)} if self.held_out else {}),
        }


@settings(deadline=None, max_examples=50)
@given(count=st.integers(1, 3000), limit=st.integers(1, 3000), split=st.sampled_from(SPLITS))
def test_a_limit_spreads_evenly_over_its_split(count: int, limit: int, split: str) -> None:
    """Gaps differ by one at most, no record is used twice, and the other splits stay whole."""
    splits = Numbers.model_validate({"type": "", "count": count, f"{split}_limit": limit}).build()
    kept = [record["at"] for record in splits[split]]
    assert len(kept) == min(count, limit)
    gaps = {right - left for left, right in zip(kept, [*kept[1:], count], strict=True)}
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1
    assert kept[0] == 0
    assert [len(splits[other]) for other in SPLITS if other != split] == [count, count]


def drawn(count: int, share: float, first: int = 0) -> tuple[list[int], list[int]]:
    """Return the numbers in training and in the share that validates."""
    config = Numbers(type="", count=count, first=first, held_out=False, validation_share=share)
    splits = config.build()
    assert list(splits) == ["train", "validation"]
    train, validation = ([record["at"] for record in records] for records in splits.values())
    return train, validation


def test_a_drawn_validation_split_moves_no_record_when_others_are_added() -> None:
    """Every record is in one split, in order, and stays there whatever stands before or after it."""
    train, validation = drawn(3000, 0.2)
    assert sorted(train + validation) == list(range(3000))
    assert train == sorted(train)
    assert validation == sorted(validation)
    assert abs(len(validation) - 600) < 3 * (3000 * 0.2 * 0.8) ** 0.5
    fewer_train, fewer_validation = drawn(2000, 0.2, first=500)
    assert set(fewer_train) <= set(train)
    assert set(fewer_validation) <= set(validation)
    assert set(drawn(3000, 0.1)[1]) <= set(validation)


def test_a_validation_split_comes_from_one_place() -> None:
    (none,) = Numbers(type="", count=9, held_out=False).all_problems("data.")
    assert str(none) == "data.validation: there is no validation split; name one, or set validation_share"
    (two,) = Numbers(type="", count=9, validation_share=0.5).all_problems("data.")
    assert two.key == "data.validation_share"
    assert not list(Numbers(type="", count=9, held_out=False, validation_share=0.5).all_problems())
    assert not list(Numbers(type="", count=9).all_problems())


def test_a_share_that_draws_nothing_is_an_empty_split() -> None:
    with pytest.raises(DataError, match="the split validation has no example"):
        drawn(3, 1e-9)


def test_a_limit_leaves_no_stdlib_label_out() -> None:
    splits = StdlibFunctionsConfig(train_limit=200).build()
    assert len(splits["train"]) == 200
    assert {record["label"] for record in splits["train"]} == set(stdlib.PACKAGES)
