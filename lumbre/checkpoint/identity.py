"""Do two runs share what makes them the same? Nested mappings compared leaf by leaf."""

from collections.abc import Mapping
from typing import Any


def differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, str]:
    """Return, for each dotted key whose value is not the same, how it differs."""
    has, wants = _flat(saved), _flat(wanted)
    return {
        key: f"it has {has.get(key)!r}, this run {wants.get(key)!r}"
        for key in {**wants, **has}
        if has.get(key) != wants.get(key)
    }


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tree's leaves by dotted key."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        inner = _flat(value) if isinstance(value, Mapping) else {"": value}
        out |= {f"{key}.{rest}".rstrip("."): leaf for rest, leaf in inner.items()}
    return out
