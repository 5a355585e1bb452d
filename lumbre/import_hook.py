"""Registers model type `lumbre` once transformers' own registry is imported, and imports nothing before."""

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

REGISTRY = "transformers.models.auto.configuration_auto"


class AfterRegistry:
    """Finds transformers' registry as the other finders do, and registers ours once it has been executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the registry's spec, None for every other module."""
        if fullname != REGISTRY:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((one for one in found if one is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _register()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def when_imported() -> None:
    """Register now if transformers' registry is there, otherwise when it comes."""
    if REGISTRY in sys.modules:
        _register()
    elif not any(isinstance(finder, AfterRegistry) for finder in sys.meta_path):
        sys.meta_path.insert(0, AfterRegistry())


def _register() -> None:
    importlib.import_module("lumbre.hub.register").register()
