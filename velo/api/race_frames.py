"""A race and its scores as tables, one row per runner."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import pyarrow as pa

from velo.serving.scoring.scored import ScoredRace

INSTANT: Final = pa.timestamp("us", "UTC")
TEXTS: Final = pa.list_(pa.string())
RACE: Final = pa.schema(
    [
        ("race_id", pa.string()), ("race_no", pa.int32()), ("course", pa.string()), ("race_name", pa.string()),
        ("off_time", INSTANT), ("going", pa.string()), ("distance_m", pa.float64()), ("race_class", pa.int32()),
        ("surface", pa.string()), ("as_of", INSTANT), ("runner_no", pa.int32()), ("draw", pa.int32()),
        ("horse_id", pa.string()), ("horse", pa.string()), ("jockey_id", pa.string()), ("jockey", pa.string()),
        ("trainer_id", pa.string()), ("trainer", pa.string()), ("age", pa.int32()), ("sex", pa.string()),
        ("weight_lbs", pa.float64()), ("official_rating", pa.int32()), ("headgear", pa.string()),
        ("non_runner", pa.bool_()), ("odds", pa.float64()), ("status", pa.string()), ("position", pa.int32()),
        ("sp_decimal", pa.float64()),
    ]
)  # fmt: skip
SCORE: Final = pa.schema(
    [
        ("race_id", pa.string()), ("as_of", INSTANT), ("runner_no", pa.int32()), ("draw", pa.int32()),
        ("horse_id", pa.string()), ("horse", pa.string()), ("jockey", pa.string()), ("trainer", pa.string()),
        ("probability", pa.float64()), ("low", pa.float64()), ("high", pa.float64()), ("fair_odds", pa.float64()),
        ("blended", pa.float64()), ("market_odds", pa.float64()), ("market_source", pa.string()),
        ("missing", TEXTS), ("stale", TEXTS), ("drivers", TEXTS), ("model", pa.string()), ("gate", pa.string()),
        ("mode", pa.string()), ("notes", TEXTS),
    ]
)  # fmt: skip


def race_table(card: Mapping[str, Any], as_of: datetime) -> pa.Table:
    """Return the runners and then the non-runners of a card as `velo.serving.api.days.card_of` returns it."""
    race = {name: card[name] for name in RACE.names if name in card} | {
        "off_time": datetime.fromisoformat(card["off_time"]),
        "as_of": as_of,
    }
    rows = [
        race | runner | {"non_runner": non_runner}
        for non_runner, runners in ((False, card["declared"]), (True, card["non_runners"]))
        for runner in runners
    ]
    return pa.Table.from_pylist(rows, schema=RACE)


def score_table(scored: ScoredRace) -> pa.Table:
    """Return a scored race, its most likely runner first; `low` and `high` bound the win rate at 95 %, null without bounds.

    `missing` and `stale` name the feature views a runner has no row in, or an outdated one. Model, gate, mode and notes
    are those of the race, in every row.
    """
    race = {name: getattr(scored, name) for name in ("race_id", "as_of", "model", "gate", "mode", "notes")}
    rows = [
        race
        | {name: getattr(runner, name) for name in SCORE.names if name not in race and hasattr(runner, name)}
        | dict(zip(("low", "high"), runner.interval or (None, None), strict=True))
        | {"drivers": [driver.words for driver in runner.drivers]}
        for runner in scored.runners
    ]
    return pa.Table.from_pylist(rows, schema=SCORE)
