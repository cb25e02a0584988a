"""Which measures a family takes from a start and how it makes its columns, compiled once from the catalogue.

Calling each aggregate's `value` for each column of each row would cost more than all else in the aggregation. So the
expressions of `Aggregate.python`, which do the same arithmetic, are compiled into one function a family. Tests hold the two
bit for bit alike.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from struct import Struct
from typing import Any, Final

from velo.feature_repo.catalogue.aggregates import Aggregate, Value
from velo.feature_repo.catalogue.families import Family
from velo.feature_repo.catalogue.recent_aggregates import RECENT_DEPTH, Recent
from velo.racing.measures import MEASURES
from velo.racing.starts import Start

Sums = int
"""Sums of several measures in one integer, 64 bits a measure, so that adding them all is one addition.

Exact while every sum is from 0 to 2^64 − 1, so that no lane borrows from or carries into the next: no measure is negative
(contract 5), and a start is only ever subtracted from sums that it was added to.
"""
RememberedStart = tuple[Any, ...]
"""(off_us, race_id, horse_id, then the start's value of each remembered measure, None where unknown); empty where unused.

The first three order a key's starts. `horse_id` is "" where a race gives a key at most one start to remember.
"""
StartDelta = tuple[int, Sums, Sums, RememberedStart]
"""What a start adds to a key: (race_day, its measures for the windows, its measures for the career, its values for the
recent features)."""
Key = tuple[str, ...]
COUNT: Final = "one"
"""The measure that counts starts: in all sums, so that they are 0 only where no start is left."""
LANE_BITS: Final = 64
HORSE: Final = "horse_id"
REMEMBERED_FROM: Final = 3
"""The index of the first measure in a `RememberedStart`."""


@dataclass(frozen=True, slots=True)
class DeltaLayout:
    """Which measures a family sums and remembers; families of equal layout share each start's delta."""

    windowed: tuple[str, ...]
    career: tuple[str, ...]
    remembered: tuple[str, ...]
    several_a_race: bool = False
    """Whether one race can give a key more than one start to remember: they are then ordered by horse_id."""

    @classmethod
    def of(cls, family: Family) -> "DeltaLayout":
        """The layout of a family."""
        return cls(
            windowed=_summed(family.windowed) if family.windows else (),
            career=_summed(family.career),
            remembered=tuple(dict.fromkeys(aggregate.measure for aggregate in family.recent)),
            several_a_race=bool(family.recent) and HORSE in family.start_order,
        )

    def delta_of(self) -> Callable[[Start, int, str], StartDelta]:
        """The function from (start, off in µs, race_id) to the start's delta; an unknown measure adds 0."""
        horse = "start.horse_id" if self.several_a_race else "''"
        remembered = (
            f"(off_us, race_id, {horse}, {_listed('{}', map(_of_start, self.remembered))})" if self.remembered else "()"
        )
        windowed, career = Struct(f"<{len(self.windowed)}Q"), Struct(f"<{len(self.career)}Q")
        made: Callable[[Start, int, str], StartDelta] = _compiled(
            "start, off_us, race_id",
            f"(start.race_day, {_packed('windowed', self.windowed)}, {_packed('career', self.career)}, {remembered})",
            {"windowed": windowed.pack, "career": career.pack, "joined": int.from_bytes},
        )
        return made


@dataclass(frozen=True, slots=True)
class Columns:
    """The functions that compute a family's columns.

    `values` is the function from (career sums, recent values, sums of all windows) to the columns in the order of
    `Family.features`. `looked_back_on` has the indexes in a `RememberedStart` of the measures that need more than the last
    start. `recent` is the function from the last start, and from the latest known values of each of those measures as
    `newest` has them, to the recent values.
    """

    family: Family
    layout: DeltaLayout
    values: Callable[..., tuple[Value, ...]] = field(repr=False)
    looked_back_on: tuple[int, ...]
    recent: Callable[..., tuple[Value, ...]] = field(repr=False)

    @classmethod
    @lru_cache(256)
    def of(cls, family: Family) -> "Columns":
        """The columns of a family, in the order of `Family.features`; compiled once a process."""
        layout = DeltaLayout.of(family)
        lanes = len(layout.windowed)
        career = [aggregate.python(_lane_of(layout.career, "career")) for aggregate in family.career]
        over_time = [
            aggregate.python(_lane_of(layout.windowed, "within", place * lanes))
            for place in range(len(family.windows))
            for aggregate in family.windowed
        ]
        made = _compiled("career, recent, within", f"({_listed('{}', (*career, '*recent', *over_time))})")
        values = _unpacking(made, len(layout.career), lanes * len(family.windows))
        looked_back_on = [
            measure for measure in layout.remembered if any(each.depth for each in _of(family.recent, measure))
        ]
        places = tuple(REMEMBERED_FROM + layout.remembered.index(measure) for measure in looked_back_on)
        return cls(family, layout, values, places, _recent_function(family.recent, layout.remembered, looked_back_on))

    def recent_values(self, history: Sequence[RememberedStart]) -> tuple[Value, ...]:
        """The recent features of a key's starts in order of their off, oldest first; all None without a start."""
        if not history:
            return (None,) * len(self.family.recent)
        return self.recent(history[-1], *self.newest(history))

    def newest(self, history: Sequence[RememberedStart]) -> list[Sequence[Any]]:
        """The latest known values of each measure that is looked back on, newest first, `RECENT_DEPTH` at most."""
        # the newest starts alone are enough unless one of them has an unknown value
        latest = tuple(zip(*history[: -RECENT_DEPTH - 1 : -1], strict=True))
        newest: list[Sequence[Any]] = []
        for place in self.looked_back_on:
            known: Sequence[Any] = latest[place]
            if None in known:
                known = [start[place] for start in reversed(history) if start[place] is not None][:RECENT_DEPTH]
            newest.append(known)
        return newest


def key_of(keys: tuple[str, ...]) -> Callable[[Start], tuple[str | None, ...]]:
    """The function from a start to its join keys. An unknown key is None: the start then does not count for the family."""
    made: Callable[[Start], tuple[str | None, ...]] = _compiled("start", f"({_listed('start.{}', keys)})")
    return made


def _summed(aggregates: Iterable[Aggregate]) -> tuple[str, ...]:
    measures = [measure for aggregate in aggregates for measure in aggregate.measures]
    return tuple(dict.fromkeys((COUNT, *measures))) if measures else ()


def _of_start(measure: str) -> str:
    """The Python text of a measure of `start`."""
    return f"start.{measure}" if measure in MEASURES else f"start.own[{measure!r}]"


def _lane_of(measures: tuple[str, ...], name: str, first: int = 0) -> Callable[[str], str]:
    return lambda measure: f"{name}[{first + measures.index(measure)}]"


def _packed(packer: str, measures: tuple[str, ...]) -> str:
    return (
        f"joined({packer}({', '.join(f'{_of_start(measure)} or 0' for measure in measures)}), 'little')"
        if measures
        else "0"
    )


def _unpacking(made: Callable[..., Any], career_lanes: int, within_lanes: int) -> Callable[..., tuple[Value, ...]]:
    """The function that unpacks its sums and calls `made` with them: one call a row, without a loop in Python."""
    career, within = Struct(f"<{career_lanes}Q"), Struct(f"<{within_lanes}Q")
    return _compiled(
        "career, recent, within",
        f"made(unpack_career(career.to_bytes({career.size}, 'little')), recent, "
        f"unpack_within(within.to_bytes({within.size}, 'little')))",
        {"made": made, "unpack_career": career.unpack, "unpack_within": within.unpack},
    )


def _listed(template: str, names: Iterable[str]) -> str:
    return "".join(template.format(name) + ", " for name in names)


def _of(recent: Iterable[Recent], measure: str) -> list[Recent]:
    return [aggregate for aggregate in recent if aggregate.measure == measure]


def _recent_function(
    recent: Sequence[Recent], remembered: Sequence[str], looked_back_on: Sequence[str]
) -> Callable[..., tuple[Value, ...]]:
    """The function from the last start, and the values of each looked-back-on measure newest first, to the recent values."""
    bound: dict[str, Any] = {}

    def bind(value: object) -> str:
        return next((name for name, other in bound.items() if other is value), None) or _bound(bound, value)

    expressions = [
        aggregate.python(
            f"start[{REMEMBERED_FROM + remembered.index(aggregate.measure)}]", f"newest_{aggregate.measure}", bind
        )
        for aggregate in recent
    ]
    parameters = ", ".join(("start", *(f"newest_{measure}" for measure in looked_back_on)))
    return _compiled(parameters, f"({_listed('{}', expressions)})", bound)


def _bound(bound: dict[str, Any], value: object) -> str:
    name = f"bound_{len(bound)}"
    bound[name] = value
    return name


def _compiled(parameters: str, expression: str, names: dict[str, Any] | None = None) -> Callable[..., Any]:
    made: Callable[..., Any] = eval(  # noqa: S307  the text is made of the catalogue's names only
        f"lambda {parameters}: {expression}", names or {}
    )
    return made
