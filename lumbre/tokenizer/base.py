"""A tokenizer: its special ids, how a document begins and ends, its fingerprint, its files."""

import hashlib
import json
import os
import re
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, count, islice, takewhile
from pathlib import Path
from typing import Any, Self

import numpy as np
import tokenizers

from lumbre.config import Choice
from lumbre.errors import TokenizerError

from .encoder import Encoder
from .pieces import split_text

ROLES = ("pad", "unk", "bos", "eos", "cls", "sep", "mask")
USUAL_NAMES = {
    "pad": ("[PAD]", "<pad>", "<|pad|>"),
    "unk": ("[UNK]", "<unk>"),
    "bos": ("<s>", "<|begin_of_text|>", "<bos>", "<|endoftext|>"),
    "eos": ("</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>"),
    "cls": ("[CLS]",),
    "sep": ("[SEP]",),
    "mask": ("[MASK]", "<mask>", "<|mask|>"),
}
"""What a bare tokenizer.json, which does not say which token plays which role, is searched for."""

SENTINEL = "<extra_id_{}>"
"""T5's names of the tokens that stand for a span of text (Raffel et al., 2019, arXiv:1910.10683, 3.1.4)."""

SPECIAL_NAME = re.compile(r"[^\w\s]\S*[^\W_]\S*[^\w\s]")
"""A name that tokenizers do not leave whole where it is text: punctuation around letters."""
NAMING = "put letters between punctuation, without spaces: <|name|>"

BATCH_CHARACTERS = 1 << 20
UNLIMITED = 10**30
"""What transformers writes for `model_max_length` where a tokenizer has no limit of its own."""


class Tokenizer:
    """A `tokenizers.Tokenizer` that knows its special tokens and how a document begins and ends.

    A token id is an int below `vocab_size`; the id of a role that the tokenizer does not have is None.
    """

    def __init__(self, backend: tokenizers.Tokenizer, specials: dict[str, str]) -> None:
        self.backend = backend
        self.specials = {role: specials[role] for role in ROLES if role in specials}
        """The token that plays each role."""
        ids = {role: backend.token_to_id(token) for role, token in self.specials.items()}
        self.pad_id: int | None = ids.get("pad")
        self.unk_id: int | None = ids.get("unk")
        self.bos_id: int | None = ids.get("bos")
        self.eos_id: int | None = ids.get("eos")
        self.cls_id: int | None = ids.get("cls")
        self.sep_id: int | None = ids.get("sep")
        self.mask_id: int | None = ids.get("mask")
        # A document that talks about "[MASK]" is text and must not turn into a mask.
        backend.encode_special_tokens = True
        self._literal = _literal(backend, self.special_ids)
        self._prepends = backend.normalizer is not None and b'"Prepend"' in backend.normalizer.__getstate__()

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text: the roles, and every added token marked special."""
        added = self.backend.get_added_tokens_decoder()
        return frozenset(number for number, token in added.items() if token.special)

    @property
    def sentinel_ids(self) -> tuple[int, ...]:
        """Ids of <extra_id_0>, <extra_id_1>, ..., as many as there are without a gap."""
        ids = self.backend.get_vocab(with_added_tokens=True)
        return tuple(ids[name] for name in takewhile(ids.__contains__, map(SENTINEL.format, count())))

    @property
    def vocab_size(self) -> int:
        """One more than the largest id: the rows that an embedding needs."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def document_begin(self) -> tuple[int, ...]:
        """What stands before a document: [CLS], or a begin token that is not also the end token."""
        begin = self.cls_id if self.cls_id is not None else self.bos_id
        return () if begin is None or begin == self.eos_id else (begin,)

    @property
    def document_end(self) -> tuple[int, ...]:
        """What stands after a document: [SEP] or the end token."""
        end = self.sep_id if self.sep_id is not None else self.eos_id
        return () if end is None else (end,)

    def encoder(self, *, fast: bool = True) -> Encoder:
        """Return what encodes as this does, by gigatoken where that is installed and takes it."""
        return Encoder(self, fast=fast)

    def encode_batch(
        self, texts: Sequence[str], ids: Callable[[list[str]], list[np.ndarray]] | None = None
    ) -> list[np.ndarray]:
        """Return the ids (uint32) of each document, its begin and end tokens included.

        `ids` stands for the method of that name.
        """
        joined, lengths = self.encode_joined(texts, np.dtype(np.uint32), ids)
        ends = np.cumsum(lengths)
        return [joined[end - length : end] for end, length in zip(ends, lengths, strict=True)]

    def encode_joined(
        self,
        texts: Sequence[str],
        dtype: np.dtype,
        ids: Callable[[list[str]], list[np.ndarray]] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of all documents in one array, and how many there are of each (int64).

        A long document is encoded in pieces cut where a word begins: the library's memory is some hundred
        bytes a token. The ids are those of the whole text for the tokenizers that are trained here; where
        the text has no such place (a megabyte without a space), it is cut anyway.
        """
        pieces = [self.pieces(text) for text in texts]
        encoded = iter((ids or self.ids)([piece for document in pieces for piece in document]))
        begin = np.asarray(self.document_begin, dtype=np.uint32)
        end = np.asarray(self.document_end, dtype=np.uint32)
        documents = [[begin, *islice(encoded, len(document)), end] for document in pieces]
        lengths = np.array([sum(map(len, parts)) for parts in documents], dtype=np.int64)
        parts = [np.empty(0, dtype=np.uint32), *chain.from_iterable(documents)]
        return np.concatenate(parts, dtype=dtype, casting="same_kind"), lengths

    def pieces(self, text: str) -> list[str]:
        """Return the pieces that a text is encoded in."""
        first, *others = split_text(text) if text else [text]
        return [first, *(piece.removeprefix(" ") if self._prepends else piece for piece in others)]

    def ids(self, pieces: Sequence[str]) -> list[np.ndarray]:
        """Return the ids (uint32) of each piece of text by the library, without begin and end."""
        found: list[np.ndarray] = []
        with _all_threads():
            for batch in _batches(pieces):
                encoded = self._literal.encode_batch_fast(batch, add_special_tokens=False)
                found.extend(np.array(encoding.ids, dtype=np.uint32) for encoding in encoded)
        return found

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of the ids."""
        return str(self.backend.decode([int(one) for one in ids], skip_special_tokens=skip_special_tokens))

    @property
    def fingerprint(self) -> str:
        """sha256 of what decides the ids: the canonical tokenizer.json and the roles."""
        content = json.loads(self.backend.to_str())
        content["truncation"] = content["padding"] = None
        if content["model"]["type"] == "Unigram":
            # The library reads 17 digits back with another last bit; SentencePiece's numbers have 24.
            words = content["model"]["vocab"]
            content["model"]["vocab"] = [[word, float(np.float32(score))] for word, score in words]
        canonical = json.dumps([content, self.specials], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def save(
        self, folder: str | Path, *, model_max_length: int | None = None, token_type_ids: bool | None = None
    ) -> None:
        """Write tokenizer.json and tokenizer_config.json, which plain `AutoTokenizer.from_pretrained` loads.

        `token_type_ids` says whether the model takes them; by default it does if there is a [CLS] token.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        takes_types = self.cls_id is not None if token_type_ids is None else token_type_ids
        names = ["input_ids", *(["token_type_ids"] if takes_types else []), "attention_mask"]
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": UNLIMITED if model_max_length is None else model_max_length,
            "model_input_names": names,
            "clean_up_tokenization_spaces": False,
            **{f"{role}_token": token for role, token in self.specials.items()},
        }
        (folder / "tokenizer.json").write_text(self.backend.to_str(pretty=True), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Load a tokenizer.json, or a folder that holds one (a Hugging Face folder); no code is run.

        Raises TokenizerError where there is none, or it cannot be read.
        """
        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        try:
            backend = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise TokenizerError(f"{file}: {error.strerror}; name a tokenizer.json or its folder") from error
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(
                f"{file}: not a tokenizer.json: {error}; export the tokenizer again"
            ) from error
        backend.no_padding()
        backend.no_truncation()
        return cls(backend, _roles(file.parent, backend))


class TokenizerConfig(Choice):
    """How text becomes token ids."""

    @property
    def sample_bytes(self) -> int:
        """How much text `build` learns from; 0 where it needs none."""
        return 0

    @abstractmethod
    def build(self, texts: Iterable[str]) -> Tokenizer:
        """Return the tokenizer, trained on `texts` if it learns; the same texts give the same bytes.

        Raises TokenizerError where it cannot be had.
        """


def usual_roles(said: Mapping[str, Any], special: Collection[str]) -> dict[str, str]:
    """Return the token of each role: the one that is said to play it, else a special one of a usual name."""
    found = {}
    for role in ROLES:
        token = said.get(role) or next((name for name in USUAL_NAMES[role] if name in special), None)
        if token is not None:
            found[role] = token
    return found


def read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object of a file, {} where there is none; raises TokenizerError where it is another."""
    if not file.is_file():
        return {}
    try:
        return {**json.loads(file.read_text(encoding="utf-8"))}
    except (ValueError, TypeError) as error:
        raise TokenizerError(f"{file}: not a JSON object: {error}; export the tokenizer again") from error


def said_roles(folder: Path) -> dict[str, str]:
    """Return the token of each role as the JSON files of a Hugging Face folder say."""
    said = read_json(folder / "special_tokens_map.json") | read_json(folder / "tokenizer_config.json")
    tokens = {role: token for role in ROLES if (token := said.get(f"{role}_token"))}
    return {role: token["content"] if isinstance(token, dict) else token for role, token in tokens.items()}


def _roles(folder: Path, backend: tokenizers.Tokenizer) -> dict[str, str]:
    special = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    roles = usual_roles(said_roles(folder), special)
    return {role: token for role, token in roles.items() if backend.token_to_id(token) is not None}


def _literal(backend: tokenizers.Tokenizer, special: Collection[int]) -> tokenizers.Tokenizer:
    """Return what has the same ids, and finds no special token in text.

    Unigram models look for every token of their own vocabulary, "</s>" among them.
    """
    content = json.loads(backend.to_str())
    if content["model"]["type"] != "Unigram":
        return backend
    words = content["model"]["vocab"]
    for number in special:
        if number < len(words):
            words[number][0] = f"\0 {number}"
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["special"]]
    content["post_processor"] = None
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def _batches(pieces: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    filled = 0
    for piece in pieces:
        batch.append(piece)
        filled += len(piece)
        if filled > BATCH_CHARACTERS:
            yield batch
            batch, filled = [], 0
    if batch:
        yield batch


@contextmanager
def _all_threads() -> Iterator[None]:
    """Let the library use its threads (as many as RAYON_NUM_THREADS says, else one a core)."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
