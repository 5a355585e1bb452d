"""Tokenizers: train one, load one, encode; importing this package registers every TokenizerConfig."""

from .base import Tokenizer, TokenizerConfig
from .bpe import BpeConfig
from .characters import CharactersConfig
from .encoder import Encoder
from .file import FileTokenizerConfig
from .pieces import split_text
from .trained import TrainedConfig
from .unigram import UnigramConfig
from .wordpiece import WordPieceConfig

__all__ = [
    "BpeConfig",
    "CharactersConfig",
    "Encoder",
    "FileTokenizerConfig",
    "Tokenizer",
    "TokenizerConfig",
    "TrainedConfig",
    "UnigramConfig",
    "WordPieceConfig",
    "split_text",
]
