"""Names as keys: two spellings of one name that differ only in form meet on one key (contract 3)."""

import unicodedata

_DASHES = frozenset("-‐‑‒–—―−")


def tidy(name: str) -> str:
    """NFKC, trimmed, inner white space folded to one space; case is kept, for people to read."""
    return " ".join(unicodedata.normalize("NFKC", name).split())


def is_missing(name: str | None) -> bool:
    """A name that is absent, blank or only dashes names nobody."""
    return name is None or not (set(tidy(name)) - _DASHES - {" "})


def name_key(name: str | None) -> str | None:
    """The key made from a name: tidied and casefolded; None where the name is missing."""
    return None if name is None or is_missing(name) else tidy(name).casefold()
