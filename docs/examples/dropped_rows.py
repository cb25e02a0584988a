"""A point-in-time join that gives back fewer rows than it was asked."""

import pandas as pd
from stage import day, ours, ours_at, quiet, stock

RACES = [{"race_id": "R0", "day": 0, "trainers": ["anne", "ben"]}]


def main() -> None:
    """Anne has two runners in the race to come, and carl never ran: four runners are asked about."""
    told = [
        {"trainer_id": one, "runs": 1, "event_timestamp": day(0.01), "created": day(0.01)} for one in ("anne", "ben")
    ]
    asked = pd.DataFrame(
        {
            "runner": ["anne's first", "anne's second", "ben's", "carl's"],
            "trainer_id": ["anne", "anne", "ben", "carl"],
            "event_timestamp": [day(1)] * 4,
        }
    )
    with stock(told) as feast, quiet():
        theirs = feast.get_historical_features(asked.copy(), ["trainer:runs"]).to_df()
    with ours(RACES) as store:
        mine = ours_at(store, asked, ["trainer_velocity:runs_30d"])
    print(f"{len(asked)} runners are asked about:")
    for name, answer, column in (("stock Feast", theirs, "runs"), ("VÉLØ", mine, "runs_30d")):
        runs = [f"{row.runner} {'null' if pd.isna(row[column]) else int(row[column])}" for _, row in answer.iterrows()]
        print(f"  {name:12} {len(answer)}: {', '.join(sorted(runs))}")


if __name__ == "__main__":
    main()
