"""A 14-day window of day tiles, requested at the time of each race, with Feast's own tiling code."""

from datetime import UTC, timedelta

import numpy as np
import pandas as pd
from feast.aggregation import Aggregation
from feast.aggregation.tiling.orchestrator import apply_sawtooth_window_tiling
from feast.aggregation.tiling.tile_subtraction import convert_cumulative_to_windowed
from stage import day, ours, ours_at

WINDOW, HOP = timedelta(days=14), timedelta(days=1)
SLOTS = np.random.default_rng(1).choice(240, 60, replace=False)
"""Anne's races: a quarter of 240, of which each of 120 days has one at noon and one at three."""


def main() -> None:
    """Print the errors of both. Tiles end at midnight UTC, but races are in the middle of a tile."""
    races = [{"race_id": f"R{at}", "day": at // 2 + at % 2 / 8, "trainers": ["anne", "ben"]} for at in sorted(SLOTS)]
    known = pd.DataFrame({"trainer_id": "anne", "run": 1, "at": [day(race["day"] + 0.01) for race in races]})
    runs = [Aggregation(column="run", function="sum", time_window=WINDOW)]
    tiles = apply_sawtooth_window_tiling(known.copy(), runs, ["trainer_id"], "at", WINDOW, HOP)
    windows = convert_cumulative_to_windowed(tiles, ["trainer_id"], "event_timestamp", WINDOW, runs)
    name = runs[0].resolved_name(WINDOW)
    windows["event_timestamp"] = windows["event_timestamp"].dt.tz_localize(UTC)
    off = [race["day"] for race in races]
    asked = pd.DataFrame({"trainer_id": "anne", "event_timestamp": [day(at) - timedelta(minutes=5) for at in off]})
    tiled = pd.merge_asof(asked, windows[["event_timestamp", name]], on="event_timestamp")[name].fillna(0)
    true = [sum(before < at and at // 1 - before // 1 < 14 for before in off) for at in off]
    with ours(races) as store:
        mine = ours_at(store, asked, ["trainer_velocity:runs_14d"])["runs_14d"].fillna(0)
    print(f"runs_14d of anne, five minutes before each of her {len(races)} races:")
    print(f"  day tiles  wrong at {sum(tiled.to_numpy() != true)} of {len(races)}")
    print(f"  VÉLØ       wrong at {sum(mine.to_numpy() != true)} of {len(races)}")


if __name__ == "__main__":
    main()
