"""What is done to text before it is split: Unicode forms, case, accents, spaces."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from tokenizers import Regex, normalizers

Step = Literal["nfc", "nfd", "nfkc", "nfkd", "nmt", "lowercase", "strip_accents", "collapse_spaces"]

STEPS: dict[Step, Callable[[], list[Any]]] = {
    "nfc": lambda: [normalizers.NFC()],
    "nfd": lambda: [normalizers.NFD()],
    "nfkc": lambda: [normalizers.NFKC()],
    "nfkd": lambda: [normalizers.NFKD()],
    "nmt": lambda: [normalizers.Nmt()],
    "lowercase": lambda: [normalizers.Lowercase()],
    "strip_accents": lambda: [normalizers.NFD(), normalizers.StripAccents()],
    "collapse_spaces": lambda: [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()],
}
"""`nmt` turns control characters, tabs and newlines into spaces or nothing, as SentencePiece does."""


def normalizer(steps: Sequence[Step], *last: normalizers.Normalizer) -> normalizers.Normalizer | None:
    """Return what takes the steps in order and then the last ones; None where there is nothing to do."""
    parts = [part for step in steps for part in STEPS[step]()] + list(last)
    return parts[0] if len(parts) == 1 else normalizers.Sequence(parts) if parts else None
