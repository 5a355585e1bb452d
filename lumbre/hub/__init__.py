"""Hugging Face folders: `save` writes one, `load` reads one, `verify_export` proves one."""

from lumbre.hub.auto import SavableTokenizer, adapter_for, load, load_trunk, read_architecture, save
from lumbre.hub.base import SpecialIds, StateDictAdapter
from lumbre.hub.pretrained import HuggingFaceConfig
from lumbre.hub.verify import verify_export

__all__ = [
    "HuggingFaceConfig",
    "SavableTokenizer",
    "SpecialIds",
    "StateDictAdapter",
    "adapter_for",
    "load",
    "load_trunk",
    "read_architecture",
    "save",
    "verify_export",
]
