"""Published vocabularies on real text: BERT's, GPT-2's and RoBERTa's ids are transformers' own, fast or not.

LUMBRE_DATA names a folder with `tokenizers/` in it, GPT-2's encoder.json and vocab.bpe and BERT's vocab.txt,
and with `wikitext2/`.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers

from lumbre.tokenizer import BpeConfig, FileTokenizerConfig, Tokenizer, UnigramConfig, WordPieceConfig

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def data() -> Path:
    place = os.environ.get("LUMBRE_DATA")
    if not place or not all((Path(place) / name).is_dir() for name in ("tokenizers", "wikitext2")):
        pytest.skip("needs LUMBRE_DATA, a folder with tokenizers/ and wikitext2/")
    return Path(place)


@pytest.fixture(scope="module")
def texts(data: Path) -> list[str]:
    """WikiText's articles; transformers finds its "<unk>" to be a special token, and we do not."""
    text = (data / "wikitext2" / "valid.txt").read_text(encoding="utf-8").replace("<unk>", "unk")
    return [f"{article}\n" for article in text.split("\n = ")]


def bert(data: Path, folder: Path) -> Callable[..., transformers.PreTrainedTokenizerBase]:
    shutil.copy(data / "tokenizers/bert-base-uncased/vocab.txt", folder)
    return transformers.BertTokenizer.from_pretrained


def gpt2(data: Path, folder: Path) -> Callable[..., transformers.PreTrainedTokenizerBase]:
    shutil.copy(data / "tokenizers/gpt2/encoder.json", folder / "vocab.json")
    shutil.copy(data / "tokenizers/gpt2/vocab.bpe", folder / "merges.txt")
    return transformers.GPT2Tokenizer.from_pretrained


def roberta(data: Path, folder: Path) -> Callable[..., transformers.PreTrainedTokenizerBase]:
    """GPT-2's words under RoBERTa's own special tokens."""
    words = json.loads((data / "tokenizers/gpt2/encoder.json").read_text(encoding="utf-8"))
    del words["<|endoftext|>"]
    order = ["<s>", "<pad>", "</s>", "<unk>", *words, "<mask>"]
    numbers = {word: number for number, word in enumerate(order)}
    (folder / "vocab.json").write_text(json.dumps(numbers), encoding="utf-8")
    shutil.copy(data / "tokenizers/gpt2/vocab.bpe", folder / "merges.txt")
    return transformers.RobertaTokenizer.from_pretrained


@pytest.mark.parametrize("family", [bert, gpt2, roberta], ids=lambda family: family.__name__)
def test_ids_of_published_vocabularies_are_transformers_own(
    family: Callable[..., Callable[..., transformers.PreTrainedTokenizerBase]],
    data: Path,
    texts: list[str],
    tmp_path: Path,
) -> None:
    theirs = family(data, tmp_path)(tmp_path)
    keys = {"lowercase": True} if family is bert else {}
    ours = FileTokenizerConfig(path=str(tmp_path), **keys).build([])
    encoder = ours.encoder()
    encoded = zip(
        ours.encode_batch(texts), encoder.encode_batch(texts), theirs(texts)["input_ids"], strict=True
    )
    for plain, fast, wanted in encoded:
        assert plain.tolist() == (wanted if family is not gpt2 else [*wanted, ours.eos_id])
        assert fast.tolist() == plain.tolist()
    if family is not bert:
        pytest.importorskip("gigatoken")
        assert encoder.prove(texts)


@pytest.mark.parametrize(
    "config", [WordPieceConfig(), BpeConfig(), UnigramConfig()], ids=lambda one: one.type
)
def test_a_tokenizer_trained_on_real_text_cuts_long_text_where_no_id_shows_it(
    config: WordPieceConfig | BpeConfig | UnigramConfig, data: Path, texts: list[str]
) -> None:
    tokenizer: Tokenizer = config.build(texts)
    whole = "".join(texts)
    ids = tokenizer.backend.encode(whole, add_special_tokens=False).ids
    assert tokenizer.encode_batch([whole])[0].tolist() == [
        *tokenizer.document_begin,
        *ids,
        *tokenizer.document_end,
    ]
    assert len(tokenizer.pieces(whole)) > 10
