"""Filters drop what their rule says, count it by reason with its first place, and change nothing else."""

import json
import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre.tokenizer import BpeConfig
from pretrain.data.preparation.filters import CharactersConfig, FilterConfig, LengthConfig, RepetitionConfig
from pretrain.data.preparation.filters.characters import kinds_of
from pretrain.data.preparation.filters.repetition import duplicate_lines, top_ngram
from pretrain.data.preparation.prepare import prepare
from pretrain.data.sources import JsonlConfig

TOKENIZER = BpeConfig(vocab_size=512)
LOOSE = {"max_duplicate_lines": 1, "max_top_2gram": 1, "max_top_3gram": 1, "max_top_4gram": 1}
WORDS = st.lists(st.sampled_from(["a", "bb", "ccc", "dddd"]), max_size=40)


@settings(deadline=None)
@given(st.text())
def test_kinds_of_characters_are_those_of_unicode(text):
    kinds = Counter(
        "space"
        if one.isspace()
        else {"L": "letter", "M": "letter", "N": "digit"}.get(unicodedata.category(one)[0], "symbol")
        for one in text
        if not "\ud800" <= one <= "\udfff"
    )
    valid = "".join(one for one in text if not "\ud800" <= one <= "\udfff")
    assert kinds_of(valid) == (kinds["letter"], kinds["digit"], kinds["symbol"])


@given(WORDS, st.sampled_from([2, 3, 4]), st.floats(0, 0.99))
def test_the_quick_bound_drops_exactly_what_the_count_of_all_ngrams_drops(words, size, limit):
    """The reference counts n-grams as strings."""
    text = " ".join(words)
    ngrams = [tuple(words[at : at + size]) for at in range(len(words) - size + 1)]
    highest = max((ngrams.count(one) for one in ngrams), default=0)
    first = next((one for one in ngrams if ngrams.count(one) == highest), ())
    share = highest * len("".join(first)) if highest > 1 else 0
    assert top_ngram(words, size) == share
    config = RepetitionConfig(**LOOSE | {f"max_top_{size}gram": limit})
    reason = f"a share of the most frequent {size}-gram above {limit:g}"
    assert config.fault(text) == (reason if share > limit * len(text) else None)


@given(st.lists(st.sampled_from(["", "  ", "a", "b", "c"]), max_size=12))
def test_duplicate_lines_are_those_that_stand_before(lines):
    there = [line for line in lines if line.strip()]
    again = sum(line in there[:at] for at, line in enumerate(there))
    assert duplicate_lines("\n".join(lines)) == pytest.approx(again / len(there) if there else 0)


@pytest.mark.parametrize(
    ("config", "text", "reason"),
    [
        (LengthConfig(min_words=3), "two words", "fewer than 3 words"),
        (LengthConfig(min_words=3), "three short words", None),
        (LengthConfig(min_words=0, max_words=3), "a b c d", "more than 3 words"),
        (LengthConfig(min_words=0, max_words=3), "abc abc abc", None),
        (LengthConfig(min_words=0, min_characters=3), "  ab  ", "fewer than 3 characters"),
        (LengthConfig(min_words=0, max_characters=3), " abcd ", "more than 3 characters"),
        (LengthConfig(min_words=0, max_characters=4), " abcd ", None),
        (RepetitionConfig(), "one\ntwo\none\none", "a share of duplicate lines above 0.3"),
        (RepetitionConfig(), "buy now " * 20, "a share of the most frequent 2-gram above 0.2"),
        (RepetitionConfig(), "Every word of this sentence stands in it once, so nothing repeats.", None),
        (CharactersConfig(), "1 2 3 4 5 6 abc", "a share of letters below 0.6"),
        (CharactersConfig(min_letters=0), "=== --- ***", "a share of symbols above 0.3"),
        (
            CharactersConfig(min_letters=0, max_symbols=1, min_alphanumeric=0.5),
            "a1 ....",
            "a share of letters and digits below 0.5",
        ),
        (CharactersConfig(), "これは文です。हिन्दी भाषा", None),
    ],
)
def test_each_limit_is_named_by_the_text_that_breaks_it(config, text, reason):
    assert config.fault(text) == reason


@pytest.mark.parametrize("name", sorted(FilterConfig.members))
def test_ordinary_prose_passes_the_defaults(name, texts):
    prose = (
        "The library reads text from many places and turns it into numbers. Each document is looked at "
        "once, by rules that are simple enough to be told in a sentence. A rule that drops a document says "
        "why, and where the first of its kind stands, so that a person can judge whether it was right. What "
        "remains is stored in the order of its hash."
    )
    assert FilterConfig.members[name](type=name).fault(prose) is None


def test_what_is_dropped_is_counted_by_reason_with_its_first_place(
    data_config, corpus, texts, tmp_path, capsys
):
    file = tmp_path / "a.jsonl"
    short, again = ["too short", "short too"], ["spam spam " * 30]
    file.write_text("\n".join(json.dumps({"text": text}) for text in [*texts, *short, *again]))
    config = data_config(corpus, tmp_path / "data", unit_bytes=1 << 14).model_copy(
        update={
            "sources": [JsonlConfig(paths=[str(file)])],
            "filters": [LengthConfig(min_words=3), RepetitionConfig(**LOOSE | {"max_top_2gram": 0.8})],
        }
    )
    plain = prepare(data_config(corpus, tmp_path / "plain"), TOKENIZER)
    kept = {text for text in texts if all(one.fault(text) is None for one in config.filters)}
    assert kept == set(texts)
    data = prepare(config, TOKENIZER)
    skipped = {reason: (skip.count, skip.first) for reason, skip in data.manifest.skipped.items()}
    assert skipped == {
        "fewer than 3 words": (2, f"{file}: line {len(texts) + 1}"),
        "a share of the most frequent 2-gram above 0.8": (1, f"{file}: line {len(texts) + 3}"),
    }
    assert data.manifest.shards == plain.manifest.shards
    assert f"2 fewer than 3 words (first: {file}: line {len(texts) + 1})" in capsys.readouterr().err


def test_limits_that_contradict_each_other_or_say_nothing_are_problems():
    problems = list(LengthConfig(min_words=5, max_words=4).all_problems("data.filters.0."))
    assert [problem.key for problem in problems] == ["data.filters.0.min_words"]
    nothing = LengthConfig(min_words=0, max_words=None)
    assert [problem.fault for problem in nothing.all_problems("data.filters.0.")] == ["sets no limit"]
