"""`velo score`: a race's runners with their winning probabilities, from what was known at an instant."""

from datetime import datetime

from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.redis_client import connect_url
from velo.feature_repo.stores.whole import Expected
from velo.serving.bundles import Bundles
from velo.serving.history import LogView, RaceHistory
from velo.serving.redis_reader import RedisReader
from velo.serving.request_deadline import PATIENCE_S, UNHURRIED_S
from velo.serving.scored import ScoredRace
from velo.serving.scorer import Scorer
from velo.storage.store import Store


def score(store: Store, race_id: str, *, log: LogView, now: datetime, as_of: datetime | None = None) -> ScoredRace:
    """Score a race with the current model: as of now from Redis, or as of an instant from the offline history.

    A race whose result is in the log is scored as of its decision time, and an instant past the result is refused: the
    features know the result then. Raises `UserError` for a race unknown or not declared by then, an instant to come, no
    model or one that does not fit, and, for a race to come, a Redis that cannot be reached or holds nothing of it.
    """
    return scorer_of(store, log, patience_s=UNHURRIED_S).score(race_id, now, as_of)


def scorer_of(store: Store, log: LogView, *, patience_s: float = PATIENCE_S) -> Scorer:
    """The scorer of a store and its log; nothing is connected or loaded before it is needed."""
    wire = RedisReader(lambda: address_of(store), patience_s)
    return Scorer(wire, Bundles(store), RaceHistory(store, log), Expected(store.home))


def address_of(store: Store) -> str:
    """Where the store's Redis is; its own is started where it does not run. Raises `UserError` where there is none."""
    if store.redis_url is None:
        return embedded_redis.ensure(store.home)
    connect_url(store.redis_url).close()
    return store.redis_url
