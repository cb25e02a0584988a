"""The Spark SQL of a family, rendered from the catalogue: the plain twin of `velo.streams.batch.render`.

Nothing is packed: each measure of each span is a BIGINT column, and in ANSI mode Spark raises an error where a sum overflows.
The expressions of the aggregates are the catalogue's, so the last division is the same.
"""

from collections.abc import Iterable, Iterator
from itertools import chain

from velo.feature_repo.catalogue.families import Family
from velo.feature_repo.catalogue.recent_aggregates import RECENT_DEPTH
from velo.streams.batch.render import IN_ORDER, Span, has_key, spans


def queries(family: Family) -> Iterator[tuple[str, str]]:
    """The temporary views by name, in order, then the table under the name of the family's view."""
    yield "days_out_of_order", days_out_of_order(family)
    yield "moments", moments(family)
    yield "changes", changes(family)
    if family.windows:
        yield "late_losses", late_losses(family)
    if family.recent:
        yield "recents", recents(family)
        yield "latest", latest(family)
    yield family.view, table(family)


def days_out_of_order(family: Family) -> str:
    """One row per key and race day that became known after a later day of the same key."""
    keys = _keys(family)
    return f"""-- one row per key of {family.view} and race day that became known out of order
WITH days AS (
    SELECT {keys}, race_date, min(known_at) AS first_known
    FROM starts WHERE {has_key(family)} AND retracted_at IS NULL
    GROUP BY {keys}, race_date
), later AS (
    SELECT *, min(first_known) OVER (
        PARTITION BY {keys} ORDER BY race_date DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS later_first_known
    FROM days
)
SELECT {keys}, race_date, true AS late FROM later WHERE later_first_known < first_known"""  # noqa: S608 names are the catalogue's


def moments(family: Family) -> str:
    """One row per key and result message that changes it: its sums, and when each window ends."""
    keys = _keys(family)
    measures = dict.fromkeys(chain.from_iterable(span.measures for span in spans(family)))
    sums = ", ".join(f"sum(coalesce({measure}, 0)) AS sum_{measure}" for measure in measures)
    midnights = "".join(f", any_value(midnight_{days}) AS midnight_{days}" for days in family.windows)
    return f"""-- one row per key of {family.view} and result message
WITH keyed AS (
    SELECT starts.*, CAST(late IS NULL AND retracted_at IS NULL AS BIGINT) AS {IN_ORDER}
    FROM starts LEFT JOIN days_out_of_order USING ({keys}, race_date)
    WHERE {has_key(family)}
)
SELECT {keys}, known_at, retracted_at, min({IN_ORDER}) AS {IN_ORDER}{midnights}, {sums}
FROM keyed
GROUP BY {keys}, known_at, retracted_at"""  # noqa: S608


def changes(family: Family) -> str:
    """One row per key and instant of change up to `$until`: the totals from then on, and the next midnight."""
    keys, every = _keys(family), spans(family)
    columns = [(span, measure) for span in every for measure in span.measures]
    flags = [f"leaves_{days}" for days in family.windows]
    entering = [f"sum_{measure} AS {_total(of, measure)}" for of, measure in columns]
    entering += [f"false AS {flag}" for flag in flags]
    branches = [f"SELECT {keys}, known_at AS t, {', '.join(entering)} FROM moments"]  # noqa: S608
    for span in every:
        leaving = [f"-sum_{measure}" if of == span else "CAST(0 AS BIGINT)" for of, measure in columns]
        leaving += [
            f"{IN_ORDER} = 1 AND known_at < midnight_{span.days}" if flag == f"leaves_{span.days}" else "false"
            for flag in flags
        ]
        branches.append(
            f"SELECT {keys}, {_leaves_at(span)} AS t, {', '.join(leaving)} FROM moments "  # noqa: S608
            f"WHERE {_leaves_at(span)} IS NOT NULL"
        )
    sums = [f"sum({_total(*column)}) AS {_total(*column)}" for column in columns] + [
        f"bool_or({flag}) AS {flag}" for flag in flags
    ]
    running = [
        f"sum({_total(*column)}) OVER (PARTITION BY {keys} ORDER BY t ROWS UNBOUNDED PRECEDING) AS {_total(*column)}"
        for column in columns
    ]
    following = [
        f"min(CASE WHEN leaves_{days} THEN t END) OVER (PARTITION BY {keys} ORDER BY t DESC "
        f"ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS loss_{days}"
        for days in family.windows
    ]
    nexts = [
        f"CASE WHEN {_total(span, IN_ORDER)} > 0 THEN loss_{span.days} END" for span in every if span.days is not None
    ]
    union = "\n    UNION ALL ".join(branches)
    return f"""-- one row per key of {family.view} and instant of change within the log
WITH deltas AS (
    SELECT {keys}, t, {", ".join(sums)}
    FROM ({union})
    GROUP BY {keys}, t
), running AS (
    SELECT {keys}, t, {", ".join(running + following)} FROM deltas
)
SELECT {keys}, t, {", ".join(_total(*column) for column in columns)}, {_least(nexts)} AS next_loss
FROM running
WHERE t <= $until"""  # noqa: S608


def late_losses(family: Family) -> str:
    """One row per change at which a start known out of order is in a window: the next midnight at which one leaves."""
    ends = [f"CASE WHEN midnight_{days} > t THEN midnight_{days} END" for days in family.windows]
    keys = _keys(family)
    return f"""-- one row per change of {family.view} at which an out-of-order start is known
SELECT {keys}, t, min({_least(ends)}) AS late_loss
FROM moments JOIN changes USING ({keys})
WHERE {IN_ORDER} = 0 AND t >= known_at AND t < least(retracted_at, midnight_{max(family.windows)})
GROUP BY {keys}, t"""  # noqa: S608


def recents(family: Family) -> str:
    """One row per key and instant at which its known starts change: each recent feature from then on."""
    keys = _keys(family)
    measures = tuple(dict.fromkeys(aggregate.measure for aggregate in family.recent))
    looked_back = tuple(dict.fromkeys(aggregate.measure for aggregate in family.recent if aggregate.depth))
    lags = "".join(
        f",\n        lag({measure}, {back}) IGNORE NULLS OVER along AS {measure}_back{back}"
        for measure in looked_back
        for back in range(1, RECENT_DEPTH + 1)
    )
    newest = "".join(
        f",\n        CASE WHEN {measure} IS NULL THEN {measure}_back{back + 1} "
        f"ELSE {measure if back == 0 else f'{measure}_back{back}'} END AS {measure}_{back}"
        for measure in looked_back
        for back in range(RECENT_DEPTH)
    )
    values = ",\n    ".join(
        f"{aggregate.spark(lambda back, of=aggregate.measure: f'{of}_{back}', aggregate.measure)} AS {aggregate.name}"  # type: ignore[misc]
        for aggregate in family.recent
    )
    order = ", ".join(family.start_order)
    start = ", ".join((*family.start_order, *measures))
    return f"""-- one row per key of {family.view} and instant at which its known starts change
WITH known AS (
    SELECT {keys}, known_at, retracted_at, {start} FROM starts WHERE {has_key(family)}
), unsettled AS (
    SELECT DISTINCT {keys}
    FROM (SELECT {keys}, known_at, retracted_at,
            lag(known_at) OVER (PARTITION BY {keys} ORDER BY {order}) AS known_before FROM known)
    WHERE retracted_at IS NOT NULL OR known_at <= known_before
), instants AS (
    SELECT {keys}, known_at AS t FROM known LEFT SEMI JOIN unsettled USING ({keys})
    UNION
    SELECT {keys}, retracted_at FROM known WHERE retracted_at IS NOT NULL
), expanded AS (
    SELECT {keys}, CAST(NULL AS TIMESTAMP) AS computed_for, known_at AS t, {start}
    FROM known LEFT ANTI JOIN unsettled USING ({keys})
    UNION ALL
    SELECT {", ".join(f"instants.{key}" for key in family.keys)}, t, t, {start}
    FROM instants LEFT JOIN known ON {" AND ".join(f"known.{key} = instants.{key}" for key in family.keys)}
        AND known_at <= t AND (retracted_at IS NULL OR retracted_at > t)
), back AS (
    SELECT {keys}, t, computed_for IS NULL OR lead(t) OVER along IS NULL AS holds, {", ".join(measures)}{lags}
    FROM expanded
    WINDOW along AS (PARTITION BY {keys}, computed_for ORDER BY {order})
), newest_first AS (
    SELECT {keys}, t, {", ".join(measures)}{newest} FROM back WHERE holds
)
SELECT {keys}, t,
    {values}
FROM newest_first"""  # noqa: S608


def latest(family: Family) -> str:
    """One row per change: the latest recent features (DuckDB uses an ASOF join)."""
    keys = _keys(family)
    made = ", ".join(aggregate.name for aggregate in family.recent)
    return f"""-- one row per change of {family.view}: its recent features at that instant
SELECT {keys}, t, latest.*
FROM (
    SELECT {keys}, t, asked,
        last_value(made) IGNORE NULLS OVER (PARTITION BY {keys} ORDER BY t, asked ROWS UNBOUNDED PRECEDING) AS latest
    FROM (
        SELECT {keys}, t, false AS asked, struct({made}) AS made FROM recents
        UNION ALL
        SELECT {keys}, t, true, NULL FROM changes
    )
)
WHERE asked"""  # noqa: S608


def table(family: Family) -> str:
    """One row per change of a key's values after `$after`, up to `$until`: the stored view."""
    keys = _keys(family)
    made = {
        (aggregate.name if span.days is None else f"{aggregate.name}_{span.days}d"): aggregate.spark(
            lambda measure, span=span: _total(span, measure)  # type: ignore[misc]
        )
        for span in spans(family)
        for aggregate in span.aggregates
    }
    columns = ",\n    ".join(f"{made.get(feature.name, feature.name)} AS {feature.name}" for feature in family.features)
    late = f"LEFT JOIN late_losses USING ({keys}, t)" if family.windows else ""
    recent = f"LEFT JOIN latest USING ({keys}, t)" if family.recent else ""
    until = "least(next_loss, late_loss)" if family.windows else "CAST(NULL AS TIMESTAMP)"
    return f"""-- one row per change of a key of {family.view}; it holds until the key's next row
SELECT {keys}, t AS event_timestamp, $created AS created_timestamp, {until} AS valid_until,
    {columns}
FROM changes {late} {recent}
WHERE t > $after"""  # noqa: S608


def _keys(family: Family) -> str:
    return ", ".join(family.keys)


def _total(span: Span, measure: str) -> str:
    return f"{span.name}_{measure}"


def _leaves_at(span: Span) -> str:
    """The instant at which a start leaves a span, never before it entered; null for never."""
    if span.days is None:
        return "retracted_at"
    return f"greatest(known_at, least(retracted_at, midnight_{span.days}))"


def _least(instants: Iterable[str]) -> str:
    """Spark's `least`, which needs two arguments and ignores nulls, as DuckDB's does."""
    return f"least({', '.join((*instants, 'CAST(NULL AS TIMESTAMP)', 'CAST(NULL AS TIMESTAMP)'))})"
