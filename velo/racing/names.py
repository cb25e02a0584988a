"""Keys from names: spellings that differ only in form have the same key (contract 3)."""

import unicodedata

_DASHES = frozenset("-‐‑‒–—―−")


def tidy(name: str) -> str:
    """Return a name for display: NFKC, trimmed, inner white space reduced to one space, case unchanged."""
    return " ".join(unicodedata.normalize("NFKC", name).split())


def is_missing(name: str | None) -> bool:
    """Whether a name is absent, blank or only dashes."""
    return name is None or not (set(tidy(name)) - _DASHES - {" "})


def name_key(name: str | None) -> str | None:
    """Return the key of a name, tidied and casefolded; None if the name is missing."""
    return None if name is None or is_missing(name) else tidy(name).casefold()
