"""Find the horse of the log that a card means when it names one without a country."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from velo.racing.names import name_key
from velo.storage.log.reader import records
from velo.storage.store import Home

_COUNTRY_LAST: Final = re.compile(r"\s*\([a-z]{2,3}\)$")
_WITH_RUNNERS: Final = ("result", "racecard")
Met = Literal["by its id", "by the only name", "several of that name", "not in the log"]


class Wanted(NamedTuple):
    """A runner without a country: the source's id, where it has one, and the name."""

    source_id: str | None
    name: str


class Horse(NamedTuple):
    """The name with its country, None if unknown; and how it was found, or why it was not."""

    name: str | None
    met: Met


@dataclass(frozen=True, slots=True)
class KnownHorses:
    """The wanted horses in the log: full name by the source's id, and all full names by bare name."""

    by_id: Mapping[str, str] = field(default_factory=dict)
    by_name: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, home: Home, wanted: Collection[Wanted]) -> "KnownHorses":
        """Read the log once for these horses; not at all if there are none.

        The latest name of an id counts. Names of results go before names that only cards have, which may have been taken as
        GB themselves.
        """
        ids = {horse.source_id for horse in wanted if horse.source_id}
        names = {_bare(horse.name) for horse in wanted}
        by_id: dict[str, dict[str, str]] = {kind: {} for kind in _WITH_RUNNERS}
        by_name: dict[str, dict[str, dict[str, str]]] = {kind: defaultdict(dict) for kind in _WITH_RUNNERS}
        for record in records(home) if wanted else ():
            if (kind := record["type"]) not in _WITH_RUNNERS:
                continue
            for runner in record["runners"]:
                horse = runner.get("horse")
                if horse is None or not _COUNTRY_LAST.search(key := name_key(horse) or ""):
                    continue
                if (source_id := runner.get("source_horse_id")) in ids:
                    by_id[kind][source_id] = horse
                if (bare := _bare(horse)) in names:
                    by_name[kind][bare][key] = horse
        return cls(by_id["racecard"] | by_id["result"], by_name["racecard"] | by_name["result"])

    def meet(self, wanted: Wanted) -> Horse:
        """Return the horse that is meant: the one with that id, else the only one of that name."""
        known = self.by_id.get(wanted.source_id or "")
        if known is not None and _bare(known) == _bare(wanted.name):
            return Horse(known, "by its id")
        named = list(self.by_name.get(_bare(wanted.name), {}).values())
        if len(named) == 1:
            return Horse(named[0], "by the only name")
        return Horse(None, "several of that name" if named else "not in the log")


def _bare(name: str) -> str:
    return _COUNTRY_LAST.sub("", name_key(name) or "")
