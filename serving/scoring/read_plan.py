"""What to read for the runners of a race, and the rows that were read, as the columns a model takes."""

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
"""Before each packed row, whose fingerprint has four bytes: then its instant and its values lie on whole words."""
_HEAD_WORDS: Final = 2
_REQUEST_AT: Final = {one.name: columns.STORED.index(one.name) for view in request_time.VIEWS for one in view.stored}
"""Where the stored features that request-time features read are in `columns.STORED`."""


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """The keys of a race's runners. `keys` and `fields` are what Redis is asked, each once; `spots` has, of each view,
    the place among them of each runner's row, −1 where it has no key. `laid` is where everything then lies.
    """

    race: Declared
    keys: tuple[bytes, ...]
    fields: tuple[str, ...]
    spots: tuple[tuple[int, ...], ...]
    laid: "_Laid"

    @classmethod
    def of(cls, race: Declared) -> "ReadPlan":
        """What to read for a race as it stands."""
        places: dict[tuple[bytes, str], int] = {}
        views: list[int] = []
        spots = []
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
            spots.append(tuple(of_view))
        laid = _Laid.of(views, spots, asked_of(race))
        return cls(race, tuple(key for key, _ in places), tuple(name for _, name in places), tuple(spots), laid)

    def rows(self, answers: Sequence[bytes | None]) -> "ReadRows":
        """The rows in the answers to what was asked (the headers before them are left alone)."""
        laid = self.laid
        cells = [cell or absent for cell, absent in zip(answers[HEADERS:], laid.absent, strict=True)]
        if list(map(len, cells)) != laid.widths:
            cells = [cell if len(cell) == len(none) else none for cell, none in zip(cells, laid.absent, strict=True)]
        words = np.frombuffer(b"".join((_PAD, _PAD.join(cells), laid.tail)), dtype="<f8")
        present = words.view("<u8")[laid.rows] == laid.fingerprints
        event_us = words.view("<i8")[laid.rows + 1]
        stored, until_us = words.take(laid.values), words.take(laid.untils)
        if not present.all():
            # a row packed under another list of columns is none
            stored[~present[:, laid.view_of]] = np.nan
            until_us[~present] = np.nan
            event_us[~present] = NEVER
        return ReadRows(stored, present, event_us, until_us)

    def vectors(self, rows: "ReadRows", now: datetime) -> FeatureMatrix:
        """The rows as a model takes them; those past their `valid_until` at `now` are stale."""
        asked = self.laid.asked
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
    """ReadRows read. `stored` has (runners, `columns.STORED`); the rest is (runners, views).

    `event_us` is when each row became true, `NEVER` where there is none; `until_us` when a window moves on, NaN for
    never.
    """

    stored: Floats
    present: NDArray[np.bool_]
    event_us: Micros
    until_us: Floats


@dataclass(frozen=True, slots=True)
class _Laid:
    """Where the rows of a race lie once its answers are put end to end, a pad before each: places in words of 8 bytes.

    `absent` stands for each answer that is none, `widths` are their bytes, `tail` has a row for runners without a key.
    `rows` and `untils` are (runners, views), `values` (runners, `columns.STORED`), `view_of` the view of each of those.
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
    def of(cls, views: Sequence[int], spots: Sequence[Sequence[int]], asked: Mapping[str, Any]) -> "_Laid":
        """`views` has the view of each answer, `spots` the answer of each runner by view, −1 for none."""
        layouts = [layout for layout, _ in _layouts()]
        nobody = [view for view, of_view in enumerate(spots) if -1 in of_view]
        absent = [_absent(layouts[view]) for view in (*views, *nobody)]
        begins = np.cumsum([0, *((len(_PAD) + len(row)) // WORD for row in absent)])
        last = {view: len(views) + at for at, view in enumerate(nobody)}
        rows = np.array(
            [[begins[at if at >= 0 else last[view]] for at in of_view] for view, of_view in enumerate(spots)],
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
