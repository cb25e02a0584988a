"""What to read for the runners of a race, and the rows that were read, as the columns a model takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feature_repo.catalogue import columns, request_time
from feature_repo.catalogue.families import FAMILIES
from feature_repo.stores.race_cards import to_us
from feature_repo.stores.redis_layout import Layout
from serving.vectors import Vectors, asked_of
from serving.wire import HEADERS
from velo.racing.cards import Declared

Micros = NDArray[np.int64]
NEVER: Final = np.iinfo(np.int64).min
_STORED_AT: Final = next(at for at, family in enumerate(FAMILIES) if family.view == request_time.STORED_VIEW)
_LAST_AT: Final = tuple(
    [feature.name for feature in FAMILIES[_STORED_AT].features].index(name) for name in request_time.STORED
)


@dataclass(frozen=True, slots=True)
class Reading:
    """The keys of a race's runners. `keys` and `fields` are what Redis is asked, each once; `spots` has, of each view,
    the place among them of each runner's row, −1 where it has no key.
    """

    race: Declared
    keys: tuple[bytes, ...]
    fields: tuple[str, ...]
    spots: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, race: Declared) -> "Reading":
        """What to read for a race as it stands."""
        places: dict[tuple[bytes, str], int] = {}
        spots = []
        by_runner = race.entity_keys()
        for layout, names in _layouts():
            of_view = []
            for of_runner in by_runner:
                key = [of_runner[name] for name in names]
                if None in key:
                    of_view.append(-1)
                    continue
                wanted = layout.redis_key(key), layout.packed_field  # type: ignore[arg-type]  # no None among them
                of_view.append(places.setdefault(wanted, len(places)))
            spots.append(tuple(of_view))
        return cls(race, tuple(key for key, _ in places), tuple(name for _, name in places), tuple(spots))

    def rows(self, answers: Sequence[bytes | None]) -> "Rows":
        """The rows in the answers to what was asked (the headers before them are left alone)."""
        values, present, event_us, until_us = [], [], [], []
        for (layout, _), spots in zip(_layouts(), self.spots, strict=True):
            kind = layout.packed_type
            width, absent = kind.itemsize, _absent(layout)
            cells = [(answers[HEADERS + at] if at >= 0 else None) or absent for at in spots]
            if any(length != width for length in set(map(len, cells))):
                cells = [cell if len(cell) == width else absent for cell in cells]
            packed = np.frombuffer(b"".join(cells), dtype=kind)
            held = packed["fingerprint"] == layout.fingerprint
            table = packed["values"]
            if not held.all():
                table = np.where(held[:, None], table, np.nan)
            values.append(table[:, :-1])
            until_us.append(table[:, -1])
            present.append(held)
            event_us.append(np.where(held, packed["event_us"], NEVER))
        return Rows(values, np.stack(present, axis=1), np.stack(event_us, axis=1), np.stack(until_us, axis=1))

    def vectors(self, rows: "Rows", now: datetime) -> Vectors:
        """The rows as a model takes them; those past their `valid_until` at `now` are stale."""
        asked = asked_of(self.race)
        stored = rows.values[_STORED_AT]
        last = {name: stored[:, place] for name, place in zip(request_time.STORED, _LAST_AT, strict=True)}
        made = request_time.changes(asked | last)
        told: dict[str, Any] = {
            name: made[one.name] for name, one in zip(columns.SINCE_LAST_RUN, request_time.FEATURES, strict=True)
        }
        race = np.zeros(len(self.race.runners), dtype=np.int64)
        matrix = columns.matrix_beside(np.hstack(rows.values), asked | told, race)
        with np.errstate(invalid="ignore"):
            stale = rows.until_us <= to_us(now)
        return Vectors(matrix, ~rows.present, stale)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows read. `values` has (runners, features) of each view; the rest is (runners, views).

    `event_us` is when each row became true, `NEVER` where there is none; `until_us` when a window moves on, NaN for
    never.
    """

    values: list[NDArray[np.float64]]
    present: NDArray[np.bool_]
    event_us: Micros
    until_us: NDArray[np.float64]


@lru_cache(maxsize=1)
def _layouts() -> tuple[tuple[Layout, tuple[str, ...]], ...]:
    return tuple((Layout.of(family), family.keys) for family in FAMILIES)


@lru_cache(maxsize=64)
def _absent(layout: Layout) -> bytes:
    row = np.zeros(1, dtype=layout.packed_type)
    row["values"] = np.nan
    row["fingerprint"] = layout.fingerprint ^ 1
    return row.tobytes()
