"""Characters as tokens: one id each, by code point, the commonest where there are many."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre.tokenizer import CharactersConfig

TEXT = "To be, or not to be:\n\tthat is the question. naïve 東京 🔥"
TOKENIZER = CharactersConfig().build([TEXT])
SPECIAL = len(CharactersConfig().special_names)


@settings(deadline=None, max_examples=50)
@given(st.text(alphabet=sorted(set(TEXT)), max_size=300))
def test_a_character_is_an_id_and_ids_give_the_text_back(text):
    (ids,) = TOKENIZER.encode_batch([text])
    assert [*ids] == [*(SPECIAL + sorted(set(TEXT)).index(one) for one in text), TOKENIZER.eos_id]
    assert TOKENIZER.decode(ids) == text


def test_each_character_that_was_not_met_is_the_unknown_token():
    (ids,) = TOKENIZER.encode_batch(["TXXe"])
    known = TOKENIZER.backend.token_to_id
    assert ids.tolist() == [known("T"), *[TOKENIZER.unk_id] * 2, known("e"), TOKENIZER.eos_id]


def test_a_small_vocabulary_has_the_commonest_characters():
    letters = [chr(0x4E00 + number) for number in range(600)]
    text = "".join(letter * (1 + number % 7) for number, letter in enumerate(letters))
    tokenizer = CharactersConfig(vocab_size=512).build([text[::2], text[1::2]])
    kept = set(tokenizer.backend.get_vocab()) - set(CharactersConfig().special_names)
    assert len(kept) == 512 - SPECIAL
    counts = Counter(text)
    assert min(counts[one] for one in kept) >= max(counts[one] for one in set(letters) - kept)
