"""An online read of an expired row, and of a key that was never written."""

from datetime import UTC, datetime, timedelta

import numpy as np
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from stage import day, ours, quiet, stock

from velo.feature_repo.catalogue.families import BY_VIEW
from velo.feature_repo.stores.embedded_redis import ensure
from velo.feature_repo.stores.redis_client import connect
from velo.feature_repo.stores.redis_layout import Layout
from velo.feature_repo.stores.redis_rows import RedisRows
from velo.streams.rebuild_online import rebuild

RACES = [{"race_id": "R0", "day": 0, "trainers": ["anne", "ben"]}]
ASKED = ("anne", "nobody")


def main() -> None:
    """Print both answers today, years after anne's only run, for a view with a time to live of 14 days."""
    runs_of_anne = [{"trainer_id": "anne", "runs": 1, "event_timestamp": day(0.01), "created": day(0.01)}]
    trainer = Layout.of(BY_VIEW["trainer_velocity"])
    with ours(RACES) as store:
        with stock(runs_of_anne, timedelta(days=14), redis_url=ensure(store.home)) as feast, quiet():
            feast.materialize(day(-1), day(1))
            keys = [{"trainer_id": trainer_id} for trainer_id in ASKED]
            answer = feast.get_online_features(["trainer:runs"], keys).proto.results[1]
        redis = RedisRows(connect(store.home))
        rebuild(store, redis.client, day(1))
        [rows] = redis.read_packed([(trainer, ASKED)])
    print("asked today of a view whose rows live for 14 days:")
    for trainer_id, value, status, at in zip(
        ASKED, answer.values, answer.statuses, answer.event_timestamps, strict=True
    ):
        shown = str(value.int64_val) if value.WhichOneof("val") else "null"
        print(f"  stock Feast  {trainer_id:7} {shown:5} {FieldStatus.Name(status)}, of {at.ToDatetime():%Y}")
    stale = rows.stale(np.datetime64(datetime.now(UTC).replace(tzinfo=None), "us"))
    runs = rows.values[:, [name for name, _ in trainer.columns].index("runs_14d")]
    for trainer_id, value, old, there in zip(ASKED, runs, stale, rows.present, strict=True):
        shown = "null" if np.isnan(value) else f"{value:.0f}"
        print(f"  VÉLØ         {trainer_id:7} {shown:5} {'absent' if not there else 'stale' if old else 'fresh'}")


if __name__ == "__main__":
    main()
