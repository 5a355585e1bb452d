"""Tokenizers: train WordPiece or byte-level BPE, or load one; special ids, document ends, fingerprint.

WordPiece as in BERT (Devlin et al., 2019, arXiv:1810.04805), byte-level BPE as in GPT-2 (Radford et
al., 2019), both by the library `tokenizers`.
"""

import hashlib
import json
import os
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, count, islice, takewhile
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import tokenizers
from pydantic import Field, NonNegativeInt, PositiveInt
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from lumbre.config import Choice
from lumbre.errors import Problem, TokenizerError

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

ALPHABET_LIMIT = 1000
LEAST_VOCABULARY = 512
BATCH_CHARACTERS = 1 << 20
CONTINUATION = "##"
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

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids (uint32) of each document, its begin and end tokens included.

        A long document is encoded in pieces cut where a word begins: the library's memory is some hundred
        bytes a token. The ids are those of the whole text for the tokenizers that are trained here; where
        the text has no such place (a megabyte without a space), it is cut anyway.
        """
        pieces = [list(split_text(text)) for text in texts]
        ids = self._ids(piece for document in pieces for piece in document)
        begin = np.asarray(self.document_begin, dtype=np.uint32)
        end = np.asarray(self.document_end, dtype=np.uint32)
        return [np.concatenate([begin, *islice(ids, len(document)), end]) for document in pieces]

    def _ids(self, pieces: Iterable[str]) -> Iterator[np.ndarray]:
        batch: list[str] = []
        for piece in chain(pieces, [None]):
            if batch and (piece is None or sum(map(len, batch)) > BATCH_CHARACTERS):
                with _all_threads():
                    encoded = self.backend.encode_batch_fast(batch, add_special_tokens=False)
                yield from (np.asarray(encoding.ids, dtype=np.uint32) for encoding in encoded)
                batch = []
            if piece is not None:
                batch.append(piece)

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of the ids."""
        return str(self.backend.decode([int(one) for one in ids], skip_special_tokens=skip_special_tokens))

    @property
    def fingerprint(self) -> str:
        """sha256 of what decides the ids: the canonical tokenizer.json and the roles."""
        content = json.loads(self.backend.to_str())
        content["truncation"] = content["padding"] = None
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


class TrainedConfig(TokenizerConfig):
    """What tokenizers that learn from the corpus share."""

    vocab_size: PositiveInt = Field(default=8192, ge=LEAST_VOCABULARY)
    """Most tokens that it may have, special ones included; a small corpus gives fewer."""
    min_frequency: PositiveInt = 2
    """How often a pair of tokens must occur to become a token."""
    train_bytes: PositiveInt = 1 << 25
    """How much of the corpus it learns from, as a sample spread evenly over it."""
    sentinels: NonNegativeInt = 0
    """Special tokens <extra_id_0>, <extra_id_1>, ... for span corruption; T5 has 100."""

    @property
    def sample_bytes(self) -> int:
        return self.train_bytes

    @property
    def sentinel_names(self) -> list[str]:
        """The sentinels, in order."""
        return [SENTINEL.format(number) for number in range(self.sentinels)]

    def problems(self) -> Iterator[Problem]:
        """Report sentinels that leave too little of the vocabulary."""
        if self.vocab_size - self.sentinels < LEAST_VOCABULARY:
            fault = f"{self.sentinels} of {self.vocab_size} tokens leave fewer than {LEAST_VOCABULARY}"
            yield Problem("sentinels", fault, f"use vocab_size {self.sentinels + LEAST_VOCABULARY} or more")


class WordPieceConfig(TrainedConfig):
    """WordPiece as BERT has it: `[CLS] text [SEP]`, words cut into pieces, `##` before all but the first."""

    type: Literal["wordpiece"] = "wordpiece"
    lowercase: bool = False
    """Whether text is lowercased and its accents are dropped."""

    def build(self, texts: Iterable[str]) -> Tokenizer:
        names = {role: USUAL_NAMES[role][0] for role in ("pad", "unk", "cls", "sep", "mask")}
        backend = _bert(models.WordPiece({}, unk_token=names["unk"]), self.lowercase)
        sample = list(texts)
        # The library's own trainer meets the letters in the order of a randomly seeded hash map; given
        # them, and their `##` twins, as special tokens it numbers them in this order.
        letters = _letters(sample, backend.normalizer, min(ALPHABET_LIMIT, self.vocab_size // 4))
        special = [*names.values(), *self.sentinel_names]
        first = [*special, *letters, *(CONTINUATION + letter for letter in letters)]
        backend.train_from_iterator(
            sample,
            trainers.WordPieceTrainer(
                vocab_size=self.vocab_size,
                min_frequency=self.min_frequency,
                special_tokens=first,
                initial_alphabet=letters,
                limit_alphabet=len(letters),
                continuing_subword_prefix=CONTINUATION,
                show_progress=False,
            ),
        )
        vocabulary = backend.get_vocab(with_added_tokens=True)
        trained = _bert(models.WordPiece(vocabulary, unk_token=names["unk"]), self.lowercase)
        trained.add_special_tokens(special)
        trained.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[(names[role], vocabulary[names[role]]) for role in ("cls", "sep")],
        )
        return Tokenizer(trained, names)


class BpeConfig(TrainedConfig):
    """Byte-level BPE as GPT-2 has it: every text has ids, a document ends in `<|endoftext|>`."""

    type: Literal["bpe"] = "bpe"

    def build(self, texts: Iterable[str]) -> Tokenizer:
        names = {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "pad": "<|pad|>"}
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        backend.post_processor = processors.ByteLevel(trim_offsets=False)
        backend.train_from_iterator(
            texts,
            trainers.BpeTrainer(
                vocab_size=self.vocab_size,
                min_frequency=self.min_frequency,
                special_tokens=[*dict.fromkeys(names.values()), *self.sentinel_names],
                initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                show_progress=False,
            ),
        )
        return Tokenizer(backend, names)


class FileTokenizerConfig(TokenizerConfig):
    """A tokenizer that exists: a tokenizer.json, or a Hugging Face folder that holds one."""

    type: Literal["file"] = "file"
    path: str
    """The tokenizer.json or its folder."""

    def problems(self) -> Iterator[Problem]:
        path = Path(self.path)
        if not path.exists():
            yield Problem("path", f"{self.path} does not exist", "name a tokenizer.json or a folder with one")
        elif path.is_dir() and not (path / "tokenizer.json").is_file():
            yield Problem("path", f"{self.path} holds no tokenizer.json", "save it as a fast tokenizer")

    def build(self, texts: Iterable[str]) -> Tokenizer:
        return Tokenizer.load(self.path)


_WORD_BEGIN = re.compile(r"(?<=\S)[ \n](?=\S)")


def split_text(text: str, limit: int = 1 << 16) -> Iterator[str]:
    """Cut a long text into pieces of about `limit` characters, each before a single space or newline."""
    start = 0
    while len(text) - start > limit:
        place = _WORD_BEGIN.search(text, start + limit, start + 2 * limit)
        end = place.start() if place else min(len(text), start + 2 * limit)
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _bert(model: models.WordPiece, lowercase: bool) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=CONTINUATION)
    return backend


def _letters(texts: Sequence[str], normalizer: normalizers.Normalizer, limit: int) -> list[str]:
    """Return the commonest characters of the normalized texts, sorted."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    common = sorted((letter for letter in counts if not letter.isspace()), key=lambda c: (-counts[c], c))
    return sorted(common[:limit])


def _roles(folder: Path, backend: tokenizers.Tokenizer) -> dict[str, str]:
    """Return the token of each role as the folder's JSON files say, else by the usual names."""
    said: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        file = folder / name
        if file.is_file():
            try:
                said |= json.loads(file.read_text(encoding="utf-8"))
            except (ValueError, TypeError) as error:
                raise TokenizerError(
                    f"{file}: not a JSON object: {error}; export the tokenizer again"
                ) from error
    special = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    roles = {}
    for role in ROLES:
        token = said.get(f"{role}_token")
        token = token["content"] if isinstance(token, dict) else token
        token = token or next((name for name in USUAL_NAMES[role] if name in special), None)
        if token is not None and backend.token_to_id(token) is not None:
            roles[role] = token
    return roles


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
