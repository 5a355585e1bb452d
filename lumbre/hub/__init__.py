"""Hugging Face folders: `save` writes one, `load` reads one, `verify_export` proves one."""

from lumbre.hub.auto import SavableTokenizer, adapter_for, load, save
from lumbre.hub.base import SpecialIds, StateDictAdapter
from lumbre.hub.verify import verify_export

__all__ = [
    "SavableTokenizer",
    "SpecialIds",
    "StateDictAdapter",
    "adapter_for",
    "load",
    "save",
    "verify_export",
]
