"""The batch SQL of a family, rendered from the catalogue: each function is one query, and line 1 states its grain.

A start is in a *span* (its whole career, or a window of W days) of a key from the instant its result is known until
its window's midnight, or until a later version retracts it. Entries and exits are summed along each key's own time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from velo.feature_repo.catalogue.aggregates import Aggregate
from velo.feature_repo.catalogue.families import Family
from velo.streams.batch.packing import Packing

IN_ORDER = "in_order"
"""1 for a start that is never retracted and whose key learned of its days in their order, else 0."""
_SECONDS = 2**34
"""More seconds than lie between any two race days; a row's place times this, plus a midnight, fits 63 bits."""
_BEFORE_1970 = 2**32
_DOWN = "(ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time over which a family totals: `days` is None for the whole career."""

    days: int | None
    aggregates: tuple[Aggregate, ...]

    @property
    def name(self) -> str:
        """The prefix of its columns."""
        return "career" if self.days is None else f"w{self.days}"

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures that it totals."""
        own = tuple(dict.fromkeys(chain.from_iterable(aggregate.measures for aggregate in self.aggregates)))
        return own or ("one",) if self.days is None else (*own, IN_ORDER)

    @property
    def packing(self) -> Packing:
        """The packing of its totals."""
        return Packing.of(self.measures)

    @property
    def packs(self) -> tuple[str, ...]:
        """Its packed columns."""
        return tuple(f"{self.name}_{pack}" for pack in range(self.packing.packs))

    @property
    def leaves_at(self) -> str:
        """The instant a start leaves it: never before it entered."""
        if self.days is None:
            return "coalesce(retracted_at, 'infinity'::TIMESTAMPTZ)"
        return f"greatest(known_at, least(coalesce(retracted_at, 'infinity'::TIMESTAMPTZ), midnight_{self.days}))"

    def total(self, measure: str) -> str:
        """The column of a total."""
        return f"{self.name}_{measure}"

    @property
    def unpacked(self) -> list[str]:
        """The select list of its totals, from the running packs."""
        slots = self.packing.slots
        return [f"{slots[of].unpacked(f'{self.name}_{slots[of].pack}')} AS {self.total(of)}" for of in self.measures]


def spans(family: Family) -> tuple[Span, ...]:
    """A family's spans: the career first where it has one, then its windows.

    Recent features have the span of a career too: they change when a start of long ago is retracted.
    """
    career = (Span(None, family.career),) if family.career or family.recent else ()
    return career + tuple(Span(days, family.windowed) for days in family.windows)


def has_key(family: Family) -> str:
    """Which starts have a key of the family, as SQL of any engine."""
    return " AND ".join(f"{key} IS NOT NULL" for key in family.keys)


def key_ids(family: Family) -> str:
    """One row per key of the family; ids follow the order of the keys."""
    keys = ", ".join(family.keys)
    return f"""-- one row per key of {family.view}
SELECT row_number() OVER (ORDER BY {keys}) AS key_id, {keys}
FROM (SELECT DISTINCT {keys} FROM starts WHERE {has_key(family)})"""


def moments(family: Family) -> str:
    """One row per key and result message that touches it: packed measures, and when each window ends."""
    every = spans(family)
    packed = {pack: f"sum({span.packing.packed(at)})::HUGEINT" for span in every for at, pack in enumerate(span.packs)}
    sums = ",\n        ".join(f"{sql} AS {pack}" for pack, sql in packed.items())
    # only windows ask whether days became known in their order
    joined = "LEFT JOIN days_out_of_order USING (key_id, race_date)" if family.windows else ""
    in_order = f", (days_out_of_order.key_id IS NULL AND retracted_at IS NULL)::BIGINT AS {IN_ORDER}"
    flag = f" min({IN_ORDER}) AS {IN_ORDER}," if family.windows else ""
    return f"""-- one row per key of {family.view} and result message
WITH keyed AS (
    SELECT starts.*, keys.key_id{in_order if family.windows else ""}
    FROM starts JOIN keys USING ({", ".join(family.keys)}) {joined}
)
SELECT
    key_id, known_at, retracted_at,{flag}
    {", ".join([*(f"any_value(midnight_{days}) AS midnight_{days}" for days in family.windows), sums])}
FROM keyed
GROUP BY key_id, known_at, retracted_at"""


def days_out_of_order(family: Family) -> str:
    """One row per key and race day first known only after some later day of the same key already was.

    A day known before it was over cannot be such a day, so only the keys that have others are looked at.
    """
    return f"""-- one row per key of {family.view} and day that it learned of late
WITH days AS (
    SELECT key_id, race_date, min(known_at) AS first_known, min(day_after) AS day_after
    FROM starts JOIN keys USING ({", ".join(family.keys)})
    WHERE retracted_at IS NULL
    GROUP BY key_id, race_date
), later AS (
    SELECT *, min(first_known) OVER (
        PARTITION BY key_id ORDER BY race_date ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS later_first_known
    FROM days
    WHERE key_id IN (SELECT key_id FROM days WHERE first_known >= day_after)
)
SELECT key_id, race_date FROM later WHERE later_first_known < first_known"""


def deltas(family: Family) -> str:
    """One row per key and instant at which a span of it gains or loses: the packed change, and which windows lose.

    Exits are summed span by span first: a day's starts leave a window together.
    """
    every = spans(family)
    columns = [pack for span in every for pack in span.packs]
    flags = [f"leaves_{days}" for days in family.windows]
    entry = columns + [f"false AS {flag}" for flag in flags]
    branches = [f"SELECT key_id, known_at AS t, {', '.join(entry)} FROM moments"]
    for span in every:
        change = [f"-sum({pack})::HUGEINT" if pack in span.packs else "0" for pack in columns]
        change += [
            f"bool_or({IN_ORDER} = 1 AND known_at < midnight_{span.days})" if flag == f"leaves_{span.days}" else "false"
            for flag in flags
        ]
        branches.append(f"SELECT key_id, {span.leaves_at} AS t, {', '.join(change)} FROM moments GROUP BY ALL")
    sums = [f"sum({pack})::HUGEINT AS {pack}" for pack in columns] + [f"bool_or({flag}) AS {flag}" for flag in flags]
    union = "\n    UNION ALL ".join(branches)
    return f"""-- one row per key of {family.view} and instant of change, up to the end of its last window
SELECT key_id, t, {", ".join(sums)}
FROM (
    {union}
)
GROUP BY key_id, t"""


def changes(family: Family) -> str:
    """One row per key and instant of change within the log: packed totals from then on, and the next midnight.

    Read from each key's last instant to its first: all changes of a key cancel, so what is left below a row is minus
    what lies above it, and the next loss is the last one passed. DuckDB keeps the order of an ordered subquery under
    windows without PARTITION BY and ORDER BY and runs them as a stream.
    """
    packs = [pack for span in spans(family) for pack in span.packs]
    running = [f"{pack} - sum({pack}) OVER {_DOWN} AS {pack}" for pack in packs]
    passed = [
        f"max(CASE WHEN leaves_{days} THEN place * {_SECONDS} + epoch_us(t) // 1000000 + {_BEFORE_1970} END) "
        f"OVER {_DOWN} AS loss_{days}"
        for days in family.windows
    ]
    before = [f"lag(loss_{days}) OVER () AS loss_{days}" for days in family.windows]
    nexts = [
        f"CASE WHEN {Packing.of(span.measures).slots[IN_ORDER].unpacked(f'{span.name}_{span.packing.slots[IN_ORDER].pack}')} > 0 "
        f"THEN make_timestamptz((loss_{span.days} % {_SECONDS} - {_BEFORE_1970}) * 1000000) END"
        for span in spans(family)
        if span.days is not None
    ]
    soonest = f"least({', '.join(nexts)})" if nexts else "NULL::TIMESTAMPTZ"
    return f"""-- one row per key of {family.view} and instant of change within the log
WITH latest_first AS (
    SELECT *, row_number() OVER () AS place FROM (SELECT * FROM deltas ORDER BY key_id DESC, t DESC)
), running AS (
    SELECT {", ".join(chain(["key_id", "t"], running, passed))} FROM latest_first
), passed AS (
    SELECT {", ".join(chain(["key_id", "t"], packs, before))} FROM running
)
SELECT {", ".join(chain(["key_id", "t"], packs))}, {soonest} AS next_loss
FROM passed
WHERE t > $after AND t <= $until"""


def late_losses(family: Family) -> str:
    """One row per change at which a start that is out of order is in a window: the next midnight such a one leaves."""
    ends = [f"CASE WHEN midnight_{days} > changes.t THEN midnight_{days} END" for days in family.windows]
    longest = f"midnight_{max(family.windows)}"
    return f"""-- one row per change of {family.view} that an out-of-order start is known at
SELECT changes.key_id, changes.t, min(least({", ".join(ends)})) AS next_loss
FROM moments
JOIN changes ON changes.key_id = moments.key_id
    AND changes.t >= moments.known_at
    AND changes.t < least(coalesce(moments.retracted_at, 'infinity'::TIMESTAMPTZ), {longest})
WHERE moments.in_order = 0
GROUP BY ALL"""


def table(family: Family) -> str:
    """One row per change of a key's values: the stored view."""
    expressions = dict(_expressions(family))
    columns = ",\n    ".join(f"{expressions[feature.name]} AS {feature.name}" for feature in family.features)
    totals = ", ".join(chain(["key_id", "t", "next_loss"], *(span.unpacked for span in spans(family))))
    joins = ["JOIN keys ON keys.key_id = totals.key_id"]
    if family.recent:
        # without windows, totals and recent features change at the same instants
        asof, at = ("ASOF", "<=") if family.windows else ("", "=")
        joins.append(f"{asof} LEFT JOIN recents ON recents.key_id = totals.key_id AND recents.t {at} totals.t")
    if family.windows:
        joins.append("LEFT JOIN late_losses ON late_losses.key_id = totals.key_id AND late_losses.t = totals.t")
    until = "least(totals.next_loss, late_losses.next_loss)" if family.windows else "NULL::TIMESTAMPTZ"
    return f"""-- one row per change of a key of {family.view}; it holds until the key's next row
WITH totals AS (
    SELECT {totals} FROM changes
)
SELECT
    {", ".join(f"keys.{key}" for key in family.keys)},
    totals.t AS event_timestamp,
    $created AS created_timestamp,
    {until} AS valid_until,
    {columns}
FROM totals
{" ".join(joins)}"""


def _expressions(family: Family) -> Iterator[tuple[str, str]]:
    for span in spans(family):
        for aggregate in span.aggregates:
            yield (aggregate.name if span.days is None else f"{aggregate.name}_{span.days}d"), aggregate.sql(span.total)
    for recent in family.recent:
        yield recent.name, f"recents.{recent.name}"
