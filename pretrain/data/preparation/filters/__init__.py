"""Simple rules of quality for documents, one file a rule; none is on unless the config names it."""

from .base import FilterConfig
from .characters import CharactersConfig
from .length import LengthConfig
from .repetition import RepetitionConfig

__all__ = ["CharactersConfig", "FilterConfig", "LengthConfig", "RepetitionConfig"]
