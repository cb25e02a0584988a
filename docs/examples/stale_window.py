"""A window that does not expire: runs in the last 14 days, requested 20 days after the last run."""

from datetime import timedelta

import numpy as np
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from stage import day, ours, quiet, stock

from velo.feature_repo.catalogue.families import BY_VIEW
from velo.feature_repo.stores.redis_client import connect
from velo.feature_repo.stores.redis_layout import Layout
from velo.feature_repo.stores.redis_rows import RedisRows
from velo.storage.log.writer import LogWriter
from velo.streams.batch.build import build
from velo.streams.rebuild_online import rebuild

RACES = [{"race_id": f"R{number}", "day": number, "trainers": ["anne", "ben"]} for number in (0, 1, 2)]
ASKED = day(22)


def main() -> None:
    """Print both answers: stock Feast serves its last row, VÉLØ the midnight's row or a stale value."""
    counted = [
        {
            "trainer_id": "anne",
            "runs_14d": count,
            "event_timestamp": day(number) + timedelta(minutes=15),
            "created": ASKED,
        }
        for number, count in ((0, 1), (1, 2), (2, 3))
    ]
    with stock(counted) as feast, quiet():
        feast.materialize(day(-1), ASKED)
        answer = feast.get_online_features(["trainer:runs_14d"], [{"trainer_id": "anne"}]).proto
        value, status = answer.results[1].values[0].int64_val, answer.results[1].statuses[0]
    print(f"runs_14d of anne on {ASKED:%d %B}, who last ran on {day(2):%d %B}:")
    print(f"  stock Feast           {value}  {FieldStatus.Name(status)}")
    trainer = Layout.of(BY_VIEW["trainer_velocity"])
    with ours(RACES) as store:
        redis = RedisRows(connect(store.home))
        for situation, tick in (("no tick since", False), ("after a tick", True)):
            if tick:
                with LogWriter.open(store, clock=lambda: ASKED) as writer:
                    writer.tick(ASKED.replace(hour=0) - timedelta(hours=1))  # midnight in London, in summer
                build(store, ASKED)
            rebuild(store, redis.client, ASKED)
            [rows] = redis.read_packed([(trainer, ["anne"])])
            stale = rows.stale(np.datetime64(ASKED.replace(tzinfo=None), "us"))[0]
            runs = rows.values[0, [name for name, _ in trainer.columns].index("runs_14d")]
            print(
                f"  VÉLØ, {situation:15} {runs:.0f}  {f'stale since {rows.valid_until[0]} UTC' if stale else 'fresh'}"
            )


if __name__ == "__main__":
    main()
