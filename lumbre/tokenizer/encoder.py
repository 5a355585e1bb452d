"""Exact encoding at the rate of gigatoken (PyPI, MIT) where it takes the tokenizer, else of the library.

    encoder = tokenizer.encoder(fast=True)   # one a process; light to make, not to be pickled
    encoder.prove(texts)                     # once, before the work, on a sample of the corpus
    ids = encoder.encode_batch(texts)        # as Tokenizer.encode_batch, a function of these texts alone

`prove` compares whole texts and says whether the fast one may be used; the process that starts the work asks
it once and gives the answer to its workers as `tokenizer.encoder(fast=answer)`. Besides, every call of
`encode_batch` compares a share of its own pieces, chosen by a hash of their ends, and encodes them all
with the library where one differs. No call depends on an earlier one, so that prepared bytes are the
same for any number of workers and through a kill, as long as the batches are.
"""

import importlib.util
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

if TYPE_CHECKING:
    from .base import Tokenizer

COMPARED = 1024
"""One in so many pieces of text is compared: gigatoken is some fifty times as fast as the library."""
HASHED = 64
"""The characters at the end of a piece that, with its length, choose it for that."""
RENEWED_TOKENS = 1 << 25
"""After so many tokens the fast encoder is made anew, for its cache of words grows without a limit."""
AWKWARD = (
    "",
    " ",
    "\n\n  \t\r\n \u00a0\u2003 x  y\u200b\ufeff",
    "I'm you'LL it’s 'Tis '''s\x00\x7f 1234567 ٣٤ ½ ² a1b2",
    "ÀÉÎõü A\u0301e\u0308 \ufb01ne ǅ ß İi Ω ﷺ Ｆｕｌｌ",
    "naïve café 東京 한국어 عربي हिन्दी ไทย 🔥👨‍👩‍👧‍👦 \U000e0041",
    "[MASK] <mask> </s> <|endoftext|> <extra_id_0> ▁ Ġ ##ing <0x41>",
    "a" * 500 + " " * 300 + "=" * 200 + "\n" * 100,
)
"""Texts that tokenizers split unlike each other, compared along with any others."""


class Encoder:
    """Turns documents into ids, those of `Tokenizer.encode_batch`, as fast as is proven to be exact."""

    def __init__(self, tokenizer: "Tokenizer", *, fast: bool = True) -> None:
        self._tokenizer = tokenizer
        self._definition = _definition(tokenizer) if fast else None
        self._fast = _gigatoken(self._definition)
        self._encoded = 0

    @property
    def is_fast(self) -> bool:
        """Whether gigatoken is installed, takes the tokenizer, and no proof has failed."""
        return self._fast is not None

    def prove(self, texts: Iterable[str]) -> bool:
        """Compare the ids of whole texts with the library's; the first difference ends the use of gigatoken.

        Returns `is_fast`. It costs the library's time on the texts: some megabytes will do.
        """
        for group in (AWKWARD, texts) if self.is_fast else ():
            for text in group:
                pieces = self._tokenizer.pieces(text)
                if not _same(self._quickly(pieces), self._tokenizer.ids(pieces)):
                    self._fast = None
                    return False
        return self.is_fast

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids (uint32) of each document, its begin and end tokens included."""
        return self._tokenizer.encode_batch(texts, self._exactly if self.is_fast else None)

    def encode_joined(self, texts: Sequence[str], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of all documents in one array, and how many there are of each."""
        return self._tokenizer.encode_joined(texts, dtype, self._exactly if self.is_fast else None)

    def _exactly(self, pieces: list[str]) -> list[np.ndarray]:
        ids = self._quickly(pieces)
        compared = [index for index, piece in enumerate(pieces) if _hash(piece) % COMPARED == 0]
        theirs = self._tokenizer.ids([pieces[index] for index in compared])
        return ids if _same([ids[index] for index in compared], theirs) else self._tokenizer.ids(pieces)

    def _quickly(self, pieces: list[str]) -> list[np.ndarray]:
        if self._encoded >= RENEWED_TOKENS:
            self._fast, self._encoded = _gigatoken(self._definition), 0
        ids = [self._fast.encode(piece) for piece in pieces]
        self._encoded += sum(map(len, ids))
        return ids


def _hash(piece: str) -> int:
    return crc32(piece[-HASHED:].encode(), len(piece))


def _same(ours: Iterable[np.ndarray], theirs: Iterable[np.ndarray]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))


def _definition(tokenizer: "Tokenizer") -> str | None:
    """Return the tokenizer.json for gigatoken, without added tokens: what names a special one is text.

    The library finds added tokens that are not special in text; where there are any, it does the work.
    """
    content = json.loads(tokenizer.backend.to_str())
    if not all(token["special"] for token in content["added_tokens"]):
        return None
    nothing: dict[str, Any] = {"truncation": None, "padding": None, "post_processor": None}
    return json.dumps(content | nothing | {"added_tokens": []})


def _gigatoken(definition: str | None) -> Any:
    if definition is None or importlib.util.find_spec("gigatoken") is None:
        return None
    import gigatoken

    try:
        return gigatoken.Tokenizer.from_json(definition).backend
    except Exception:  # it raises what it likes for a tokenizer that it does not know
        return None
