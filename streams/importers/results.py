"""Turn the rows of one load into checked results; every importer of results uses it."""

import gc
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from velo.errors import Refused
from velo.racing.messages import Result
from velo.settings import KeyPolicy
from velo.storage.store import Store
from velo.streams.importers.dead_letters import PART, DeadLetter, Row, letter
from velo.streams.importers.race_maker import RaceMaker

RUNNER_TABLE: Final = "runners"
"""The only source keyed by id by default; others are keyed by name."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """One checked load: `messages` (results, or snapshots of a market) in the order of their first rows.

    `rows_of[i]` are the rows of message i.

    Every row is in `rows_of` or in a dead letter of `refused`. `warnings` counts corrections. `keys` is the policy that
    made the keys.
    """

    messages: list[Any]
    refused: list[DeadLetter]
    warnings: Counter[str]
    rows: int
    source: str
    keys: KeyPolicy
    rows_of: list[Sequence[Row]] = field(default_factory=list, repr=False)

    def letter_of(self, index: int, why: Refused) -> DeadLetter:
        """Return the dead letter of a message that the log refused."""
        message = self.messages[index]
        version = message.result_version if isinstance(message, Result) else None
        return letter(self.source, message.race_id, version, why, self.rows_of[index])


def checked_results(rows: Iterable[Row], store: Store, source: str, *, keys: KeyPolicy | None = None) -> Parsed:
    """Check one load: turn rows, typed by the runner table's columns (absent or None is unknown), into results.

    The key policy is the store's, else `keys`, else the source's default. A column unknown to the runner table is kept
    with its runner. The rows of a race in one file belong together in any order. Rows of the race in another file
    (`PART`) continue it if they hold other horses; otherwise they are a second result of the race.
    """
    policy: KeyPolicy = store.keys or keys or ("id" if source == RUNNER_TABLE else "name")
    with collector_paused():
        return _checked(rows, store, source, policy)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the cyclic collector, which would scan the millions of rows of a load repeatedly and free none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _checked(rows: Iterable[Row], store: Store, source: str, policy: KeyPolicy) -> Parsed:
    groups: dict[tuple[str, int], list[Row]] = defaultdict(list)
    parsed = Parsed([], [], Counter(), 0, source, policy)
    count = 0
    for row in rows:
        count += 1
        race_id = row.get("race_id")
        if race_id is None:
            why = Refused("no race_id", "a row belongs to a race by its race_id: give it one")
            parsed.refused.append(letter(source, None, None, why, (row,)))
            continue
        version = row.get("result_version")
        groups[race_id, 1 if version is None else version].append(row)
    maker = RaceMaker(store, policy, parsed.warnings)
    for (race_id, version), every in groups.items():
        for result_rows in _results_apart(every, maker.horse_key):
            try:
                result = maker.result(race_id, version, result_rows)
            except Refused as why:
                parsed.refused.append(letter(source, race_id, version, why, result_rows))
                continue
            parsed.messages.append(result)
            parsed.rows_of.append(result_rows)
    return Parsed(parsed.messages, parsed.refused, parsed.warnings, count, source, policy, parsed.rows_of)


def _results_apart(rows: list[Row], horse_key: Callable[[Row], str | None]) -> Iterator[list[Row]]:
    """Yield the rows of a race's version; a later file with the same horses is a separate result."""
    if len({row.get(PART) for row in rows}) == 1:
        yield rows
        return
    by_part: dict[object, list[Row]] = defaultdict(list)
    for row in rows:
        by_part[row.get(PART)].append(row)
    results: list[tuple[list[Row], set[str | None]]] = []
    for part in by_part.values():
        horses = {horse_key(row) for row in part}
        for result_rows, seen in results:
            if seen.isdisjoint(horses):
                result_rows += part
                seen |= horses
                break
        else:
            results.append((list(part), horses))
    yield from (result_rows for result_rows, _ in results)
