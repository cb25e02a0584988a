"""Uses a store whose `velo.toml` names own features, and asserts that every part of VÉLØ has them. Run as a program.

Its argument is the home. The features are those of `tests.support.own_features`.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np

from tests.support.seasons import BUILT_AT, a_card, a_season, a_store
from velo.feature_repo.catalogue import columns
from velo.feature_repo.feast_store import apply
from velo.feature_repo.stores.embedded_redis import down
from velo.feature_repo.stores.redis_client import connect
from velo.racing.cards import declared_at
from velo.racing.messages import Message, Race, Result, Runner, instant_of
from velo.serving.scoring.driver_words import story_of, words
from velo.serving.scoring.feature_matrix import offline
from velo.serving.scoring.race_messages import messages_of_race
from velo.serving.scoring.read_plan import ReadPlan
from velo.serving.scoring.redis_reader import ReadRequest
from velo.serving.scoring.scorer import scorer_of
from velo.streams.audit import audit
from velo.streams.explain import explain
from velo.streams.unbuilt_log import UnbuiltLog
from velo.training.dataset.training_set import training_set
from velo.training.model.trees import FEATURES, ModelOptions
from velo.training.train import train

OFF = datetime(2023, 6, 1, 14, 0, tzinfo=UTC)
NOW = OFF - timedelta(hours=1)
DAYS, SECTIONAL = "since_trainer_won__days_since_win", "horse_sectional__sectional"


def with_sectionals(messages: Sequence[Message]) -> list[Message]:
    """The same results with a column of the user's own, as text, as numbers, and unknown."""

    def kept(runner: Runner) -> Runner:
        number = int(runner.horse_id.split()[1])
        seconds = 30 + number / 8 + (runner.position or 0) / 4
        values: dict[int, object] = {0: "n/a", 1: None, 2: f" {seconds} "}
        return replace(runner, kept={"sectional_last_s": values.get(number % 5, seconds)})

    return [
        replace(message, runners=tuple(map(kept, message.runners))) if isinstance(message, Result) else message
        for message in messages
    ]


def expected(messages: Sequence[Message], race: Race, runner: Runner, at: datetime) -> tuple[float, float]:
    """Days since the trainer's last winner and the mean sectional by a plain loop; NaN where unknown."""
    latest: dict[str, Result] = {}
    for message in messages:
        if isinstance(message, Result) and instant_of(message) <= at:
            latest[message.race_id] = message
    wins, seconds = list[date](), list[float]()
    for result in latest.values():
        for each in result.runners:
            if each.started and each.won and each.trainer_id == runner.trainer_id:
                wins.append(result.race.race_date)
            given = each.kept.get("sectional_last_s")
            if each.started and each.horse_id == runner.horse_id and given not in (None, "n/a"):
                seconds.append(float(str(given)))
    days = (race.race_date - max(wins)).days if wins else float("nan")
    return days, sum(seconds) / len(seconds) if seconds else float("nan")


def main(home: Path) -> None:
    race = Race("to come", OFF.date(), OFF, "Ascot", race_class=3, surface="Turf", going="Soft", distance_m=1609.0)
    runners = [
        Runner(f"horse {n}", f"Horse {n}", n, n, f"jockey {n}", trainer_id=f"trainer {n}", weight_lbs=126.0)
        for n in range(1, 9)
    ]
    messages = with_sectionals(a_season(88))
    store = a_store(home, [*messages, a_card(race, runners, OFF - timedelta(hours=5))])
    try:
        assert {DAYS, SECTIONAL, "horse_sectional__sectional_ewma"} <= {*FEATURES}
        assert "trainer_wins__last_win_day" in columns.STORED
        assert "trainer_wins__last_win_day" not in FEATURES  # a day says the calendar
        rows = training_set(store)
        train(
            store,
            now=BUILT_AT,
            model=ModelOptions(rounds=10, leaves=4, threads=1),
            validate_from=date(2023, 4, 23),
            test_from=date(2023, 5, 11),
        )
        known = rows.matrix([DAYS, SECTIONAL])
        assert np.isfinite(known).any(axis=0).all()
        feast = apply(store)
        assert {"trainer_wins", "horse_sectional"} <= {view.name for view in feast.list_feature_views()}
        assert "since_trainer_won" in {view.name for view in feast.list_on_demand_feature_views()}
        feast.materialize(start_date=datetime(2023, 1, 1, tzinfo=UTC), end_date=NOW)
        declared = declared_at(messages_of_race(store.home, "to come").messages, NOW)
        assert declared is not None
        scorer = scorer_of(store, UnbuiltLog(store.home), deadline_s=5.0)
        scorer.history._feast = feast
        plan = ReadPlan.of(declared)
        online = plan.feature_matrix(
            plan.rows(scorer.online.redis.ask(ReadRequest.of("to come", plan.keys, plan.fields))), NOW
        )
        then = offline(store, declared, feast)
        assert np.array_equal(online.matrix, then.matrix, equal_nan=True)
        for at, runner in enumerate(declared.runners):
            days, seconds = expected(messages, race, runner, NOW)
            np.testing.assert_allclose([online.of(DAYS)[at], online.of(SECTIONAL)[at]], [days, seconds], rtol=1e-8)
        scored = scorer.score("to come", NOW)
        assert len(scored.runners) == len(runners)
        assert story_of(DAYS) == DAYS
        assert words(DAYS, {DAYS: 8.0}) == "days since win 8"
        found = explain(store, declared, "horse 7")
        values = {f"{view.view}__{feature.name}": feature.value for view in found.views for feature in view.features}
        assert found.differences == ()
        days, seconds = expected(messages, race, declared.runners[6], NOW)
        assert values[DAYS] == days
        np.testing.assert_allclose(values[SECTIONAL], seconds, rtol=1e-8)  # type: ignore[arg-type]
        report = audit(store, BUILT_AT, client=connect(store.home))
        assert report.found == 0
        sys.stdout.write(json.dumps({"days": days, "sectional": seconds}))
    finally:
        down(store.home)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
