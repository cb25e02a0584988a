"""The columns of the runner table; split a day's racecards from the earlier results."""

from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

INSTANT = pa.timestamp("us", tz="UTC")
RUNNER_SCHEMA = pa.schema(
    [
        ("race_id", pa.string()),
        ("race_date", pa.date32()),
        ("off_time", INSTANT),
        ("race_no", pa.int32()),
        ("course", pa.string()),
        ("country", pa.string()),
        ("race_name", pa.string()),
        ("race_type", pa.string()),
        ("race_class", pa.int32()),
        ("rating_band", pa.string()),
        ("handicap", pa.bool_()),
        ("surface", pa.string()),
        ("course_config", pa.string()),
        ("going", pa.string()),
        ("distance_m", pa.float64()),
        ("runner_no", pa.int32()),
        ("draw", pa.int32()),
        ("horse_id", pa.string()),
        ("horse", pa.string()),
        ("jockey_id", pa.string()),
        ("jockey", pa.string()),
        ("trainer_id", pa.string()),
        ("trainer", pa.string()),
        ("age", pa.int32()),
        ("sex", pa.string()),
        ("weight_lbs", pa.float64()),
        ("body_weight_lbs", pa.float64()),
        ("official_rating", pa.int32()),
        ("headgear", pa.string()),
        ("status", pa.string()),
        ("position", pa.int32()),
        ("beaten_lengths", pa.float64()),
        ("finish_time_s", pa.float64()),
        ("sp_decimal", pa.float64()),
        ("result_version", pa.int32()),
        ("known_at", INSTANT),
    ]
)
"""The runner table (contract 3): one row per declared runner and result version; instants in UTC, `race_date` local."""
OUTCOME_COLUMNS = ("status", "position", "beaten_lengths", "finish_time_s", "sp_decimal", "result_version")
"""Columns that a racecard lacks."""
CARD_SCHEMA = pa.schema([field for field in RUNNER_SCHEMA if field.name not in OUTCOME_COLUMNS])
"""A racecard: one row per declared runner."""
_CARD_TIME = time(9, 0)


def split_card(table: pa.Table, day: date, timezone: str = "Europe/London") -> tuple[pa.Table, pa.Table]:
    """Split a season on the morning of a day; returns `(history, card)`.

    `history`: the rows of earlier days known by 09:00 local of `day`, so without later amendments. `card`: the day's declared
    runners, later non-runners included, as CARD_SCHEMA, known at 09:00 local; empty without racing. `timezone` is that of
    the season.
    """
    morning = datetime.combine(day, _CARD_TIME, tzinfo=ZoneInfo(timezone)).astimezone(UTC)
    known = pc.less_equal(table["known_at"], pa.scalar(morning, INSTANT))
    history = table.filter(pc.and_(pc.less(table["race_date"], pa.scalar(day)), known))
    declared = table.filter(
        pc.and_(pc.equal(table["race_date"], pa.scalar(day)), pc.equal(table["result_version"], 1))
    ).select(CARD_SCHEMA.names)
    at = CARD_SCHEMA.get_field_index("known_at")
    card = declared.set_column(at, CARD_SCHEMA.field(at), pa.repeat(pa.scalar(morning, INSTANT), declared.num_rows))
    return history, card
