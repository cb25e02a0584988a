"""The columns of the runner table; split a day's racecards from the earlier results."""

from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

from velo.racing.messages import Race, Runner, column_types

INSTANT = pa.timestamp("us", tz="UTC")
_TYPES = {
    str: pa.string(), int: pa.int32(), float: pa.float64(), bool: pa.bool_(), date: pa.date32(), datetime: INSTANT,
}  # fmt: skip
_NAMES = """
    race_id race_date off_time race_no course country race_name race_type race_class rating_band handicap surface course_config
    going distance_m runner_no draw horse_id horse jockey_id jockey trainer_id trainer age sex weight_lbs body_weight_lbs
    official_rating headgear status position beaten_lengths finish_time_s sp_decimal result_version known_at
""".split()
_OF = column_types(Race) | column_types(Runner) | {"result_version": int, "known_at": datetime}
RUNNER_SCHEMA = pa.schema([(name, _TYPES[_OF[name]]) for name in _NAMES])
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
