"""Manifests as text that every reader of YAML takes for the same, and that no `$( )` expands in."""

import re
from typing import Any

import yaml

PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9/._-]+")


class _Dumper(yaml.SafeDumper):
    """Go's readers take 1e3, 0o17 and y for other things than Python's: what could be is quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write shared parts out: every part can be read where it stands."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists below their key."""
        super().increase_indent(flow, False)


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if PLAIN.fullmatch(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent)


def dump(manifests: list[dict[str, Any]]) -> str:
    """Return the manifests as documents of one YAML file."""
    return yaml.dump_all(manifests, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def literal(text: str) -> str:
    """Return the text so that it is itself after Kubernetes has put variables in for $(NAME)."""
    return text.replace("$", "$$")
