"""A point-in-time join that returns fewer rows than it was given."""

import pandas as pd
from stage import day, ours, ours_at, quiet, stock

RACES = [{"race_id": "R0", "day": 0, "trainers": ["anne", "ben"]}]


def main() -> None:
    """Print both answers for four runners: anne has two in the race, and carl never ran."""
    rows = [
        {"trainer_id": trainer_id, "runs": 1, "event_timestamp": day(0.01), "created": day(0.01)}
        for trainer_id in ("anne", "ben")
    ]
    asked = pd.DataFrame(
        {
            "runner": ["anne's first", "anne's second", "ben's", "carl's"],
            "trainer_id": ["anne", "anne", "ben", "carl"],
            "event_timestamp": [day(1)] * 4,
        }
    )
    with stock(rows) as feast, quiet():
        theirs = feast.get_historical_features(asked.copy(), ["trainer:runs"]).to_df()
    with ours(RACES) as store:
        mine = ours_at(store, asked, ["trainer_velocity:runs_30d"])
    print(f"{len(asked)} runners are asked about:")
    for name, answer, column in (("stock Feast", theirs, "runs"), ("VÉLØ", mine, "runs_30d")):
        runs = [f"{row.runner} {'null' if pd.isna(row[column]) else int(row[column])}" for _, row in answer.iterrows()]
        print(f"  {name:12} {len(answer)}: {', '.join(sorted(runs))}")


if __name__ == "__main__":
    main()
