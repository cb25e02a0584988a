"""The read plan of a race: the keys of its runners' rows in Redis, and the arithmetic from answers to a model's columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from velo.feature_repo.catalogue import columns, request_time
from velo.feature_repo.catalogue.families import FAMILIES
from velo.feature_repo.stores.redis_layout import Layout
from velo.racing.cards import Declared
from velo.racing.clock import to_us
from velo.serving.scoring.feature_matrix import FeatureMatrix, asked_of
from velo.serving.scoring.redis_reader import HEADERS

Floats = NDArray[np.float64]
Micros = NDArray[np.int64]
Places = NDArray[np.intp]
NEVER: Final = np.iinfo(np.int64).min
WORD: Final = 8
_PAD: Final = b"\0" * 4
"""Padding before each packed row: its fingerprint has four bytes, so its instant and values are then aligned to words."""
_HEAD_WORDS: Final = 2
_REQUEST_AT: Final = {
    feature.name: columns.STORED.index(feature.name) for view in request_time.VIEWS for feature in view.stored
}
"""Indices in `columns.STORED` of the stored features that request-time features read."""


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """The read of a race's runners: `keys` and `fields` are the distinct reads of Redis.

    `row_of` has, for each read, the index of a row that it answers, in (runners, views) read row by row. `offsets` says where the
    joined answers have each value.
    """

    race: Declared
    keys: tuple[bytes, ...]
    fields: tuple[str, ...]
    row_of: Places
    offsets: "_Offsets"

    @classmethod
    def of(cls, race: Declared) -> "ReadPlan":
        """Plan the read of a declared race."""
        places: dict[tuple[bytes, str], int] = {}
        views: list[int] = []
        answer_of = []
        by_runner = race.entity_keys()
        for view, (layout, names) in enumerate(_layouts()):
            of_view = []
            for of_runner in by_runner:
                key = [of_runner[name] for name in names]
                if None in key:
                    of_view.append(-1)
                    continue
                wanted = layout.redis_key(key), layout.packed_field  # type: ignore[arg-type]  # no None among them
                of_view.append(places.setdefault(wanted, len(places)))
                views += [view] * (len(places) - len(views))
            answer_of.append(tuple(of_view))
        offsets = _Offsets.of(views, answer_of, asked_of(race))
        row_of = np.empty(len(places), dtype=np.intp)
        for view, reads in enumerate(answer_of):
            for runner, read in enumerate(reads):
                if read >= 0:
                    row_of[read] = runner * len(answer_of) + view
        return cls(race, tuple(key for key, _ in places), tuple(name for _, name in places), row_of, offsets)

    def rows(self, answers: Sequence[bytes | None]) -> "ReadRows":
        """Decode the answers' rows; the headers before them are ignored."""
        of = self.offsets
        cells = [cell or absent for cell, absent in zip(answers[HEADERS:], of.absent, strict=True)]
        if list(map(len, cells)) != of.widths:
            cells = [cell if len(cell) == len(none) else none for cell, none in zip(cells, of.absent, strict=True)]
        words = np.frombuffer(b"".join((_PAD, _PAD.join(cells), of.tail)), dtype="<f8")
        present = words.view("<u8")[of.rows] == of.fingerprints
        event_us = words.view("<i8")[of.rows + 1]
        stored, until_us = words.take(of.values), words.take(of.untils)
        if not present.all():
            # a row packed under another list of columns counts as missing
            stored[~present[:, of.view_of]] = np.nan
            until_us[~present] = np.nan
            event_us[~present] = NEVER
        return ReadRows(stored, present, event_us, until_us)

    def feature_matrix(self, rows: "ReadRows", now: datetime) -> FeatureMatrix:
        """The columns of a model; rows past their `valid_until` at `now` are stale."""
        asked = self.offsets.asked
        stored = rows.stored
        read = {name: stored[:, place] for name, place in _REQUEST_AT.items()}
        made = columns.requested({**asked, **read})
        race = np.zeros(len(self.race.runners), dtype=np.int64)
        matrix = columns.matrix_beside(stored, {**asked, **made}, race)
        with np.errstate(invalid="ignore"):
            stale = rows.until_us <= to_us(now)
        return FeatureMatrix(matrix, ~rows.present, stale)


@dataclass(frozen=True, slots=True)
class ReadRows:
    """The rows that were read: `stored` is (runners, `columns.STORED`), the rest (runners, views).

    `event_us` is each row's `event_timestamp` in µs UTC, `NEVER` without a row; `until_us` its `valid_until`, NaN without one.
    """

    stored: Floats
    present: NDArray[np.bool_]
    event_us: Micros
    until_us: Floats


@dataclass(frozen=True, slots=True)
class _Offsets:
    """Offsets, in words of 8 bytes, into a race's answers joined with padding.

    `absent` replaces each missing answer, `widths` are their lengths in bytes, and `tail` has one row per view for runners without
    a key. `rows` and `untils` are (runners, views), `values` is (runners, `columns.STORED`), and `view_of` the view of each of
    those columns.
    """

    absent: tuple[bytes, ...]
    widths: list[int]
    tail: bytes
    rows: Places
    values: Places
    untils: Places
    view_of: Places
    fingerprints: NDArray[np.uint64]
    asked: Mapping[str, Any]

    @classmethod
    def of(cls, views: Sequence[int], answer_of: Sequence[Sequence[int]], asked: Mapping[str, Any]) -> "_Offsets":
        """`views` has the view of each answer, `answer_of` the answer of each runner by view, −1 without a key."""
        layouts = [layout for layout, _ in _layouts()]
        nobody = [view for view, of_view in enumerate(answer_of) if -1 in of_view]
        absent = [_absent(layouts[view]) for view in (*views, *nobody)]
        begins = np.cumsum([0, *((len(_PAD) + len(row)) // WORD for row in absent)])
        last = {view: len(views) + at for at, view in enumerate(nobody)}
        rows = np.array(
            [[begins[at if at >= 0 else last[view]] for at in of_view] for view, of_view in enumerate(answer_of)],
            dtype=np.intp,
        ).T.reshape(-1, len(layouts))
        wide = [len(layout.columns) - 1 for layout in layouts]
        view_of = np.repeat(np.arange(len(layouts)), wide)
        within = np.concatenate([np.arange(count) for count in wide]) + _HEAD_WORDS
        return cls(
            absent=tuple(absent[: len(views)]),
            widths=list(map(len, absent[: len(views)])),
            tail=b"".join(_PAD + row for row in absent[len(views) :]),
            rows=rows,
            values=rows[:, view_of] + within,
            untils=rows + np.array(wide) + _HEAD_WORDS,
            view_of=view_of,
            fingerprints=np.array([layout.fingerprint << 32 for layout in layouts], dtype=np.uint64),
            asked=asked,
        )


@lru_cache(maxsize=1)
def _layouts() -> tuple[tuple[Layout, tuple[str, ...]], ...]:
    return tuple((Layout.of(family), family.keys) for family in FAMILIES)


@lru_cache(maxsize=64)
def _absent(layout: Layout) -> bytes:
    row = np.zeros(1, dtype=layout.packed_type)
    row["values"] = np.nan
    row["fingerprint"] = layout.fingerprint ^ 1
    return row.tobytes()
