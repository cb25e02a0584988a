"""A result amended four days later: the values known before the amendment and after it."""

import pandas as pd
from stage import day, ours, ours_at, quiet, stock

RACES = [
    {"race_id": "R0", "day": 0, "trainers": ["anne", "ben"]},
    {"race_id": "R1", "day": 2, "trainers": ["ben", "anne"]},
    # anne's winner of R0 is disqualified
    {"race_id": "R0", "day": 0, "trainers": ["ben", "anne"], "result_version": 2, "known": 4},
]
ASKED = (1, 3, 5)
TRUE = (1, 1, 0)


def main() -> None:
    """Print both answers. A table keyed by race time is corrected at the race's instant: wrong before and after."""
    rows = [
        {"trainer_id": "anne", "wins": 1, "event_timestamp": day(0.01), "created": day(0.01)},
        {"trainer_id": "anne", "wins": 1, "event_timestamp": day(2.01), "created": day(2.01)},
        # the amended race again, as Feast has it: the same event, created later
        {"trainer_id": "anne", "wins": 0, "event_timestamp": day(0.01), "created": day(4)},
    ]
    asked = pd.DataFrame({"trainer_id": ["anne"] * 3, "event_timestamp": [day(number) for number in ASKED]})
    with stock(rows) as feast, quiet():
        theirs = feast.get_historical_features(asked, ["trainer:wins"]).to_df().sort_values("event_timestamp")["wins"]
    with ours(RACES) as store:
        mine = ours_at(store, asked, ["trainer_velocity:wins_30d"])["wins_30d"]
    print("anne won on day 0; on day 4 that is taken from her. Her wins in the last 30 days:")
    print("  as of    known then  stock Feast  VÉLØ")
    for number, true, stock_wins, our_wins in zip(ASKED, TRUE, theirs, mine, strict=True):
        print(f"  day {number:<5} {true:<11} {stock_wins:<12} {our_wins}")


if __name__ == "__main__":
    main()
