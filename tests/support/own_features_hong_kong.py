"""Proves own features on real results: batch = stream = brute force, then Feast, Redis, explain, training and the service.

Run as a program with the home, whose `velo.toml` names the features of `tests.support.own_features`, a runner table of Hong Kong
and the file of its sectionals, whose last time per runner is the user's own column. Prints what was compared as JSON.
"""

import json
import os
import subprocess
import sys
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from math import floor
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

import velo
from tests.support.seasons import a_card
from tests.support.services import a_client, a_service
from tests.support.shared import REPO
from tests.support.stores import formulas_of
from tests.support.streaming import NOW, Rows, assert_online, assert_same, rows_of, streamed
from velo.feature_repo.stores.embedded_redis import down
from velo.racing.clock import MICROSECOND
from velo.racing.messages import Message, Result, Runner, instant_of
from velo.storage.log.reader import messages as log_messages
from velo.storage.log.writer import LogWriter
from velo.training import bundle
from velo.training.dataset.entity_rows import Period
from velo.training.dataset.training_set import training_set
from velo.training.model.trees import FEATURES, ModelOptions
from velo.training.train import train

OWN = ("trainer_wins", "horse_sectional")
DAYS, SECTIONAL, EWMA = (
    "since_trainer_won__days_since_win",
    "horse_sectional__sectional",
    "horse_sectional__sectional_ewma",
)
KEYS_ASKED = 40
FILE = """
SELECT runners.*, last.sectional_last_s
FROM read_parquet($runners) runners
LEFT JOIN (
    SELECT race_id, runner_no, arg_max(section_time_s, section) AS sectional_last_s
    FROM read_parquet($sectionals) GROUP BY ALL
) last USING (race_id, runner_no)
WHERE race_date >= $since
"""
SINCE = "2000-01-01" if os.environ.get("VELO_ALL_PROBES") else "2022-01-01"
"""First race date of the large file that is read; VELO_ALL_PROBES=1 reads all of it (six minutes on two cores)."""


@dataclass(frozen=True)
class Started:
    """A start by one version of a result: known from `since` until `until`."""

    since: datetime
    until: datetime | None
    order: tuple[datetime, str, str]
    race_date: date
    runner: Runner


class BruteForce:
    """The starts of each trainer and horse; every value is a plain loop over those known at an instant."""

    def __init__(self, messages: list[Message]) -> None:
        self.starts: dict[str, dict[str, list[Started]]] = {
            "trainer_id": defaultdict(list),
            "horse_id": defaultdict(list),
        }
        versions: dict[str, list[Result]] = defaultdict(list)
        for message in messages:
            if isinstance(message, Result):
                versions[message.race_id].append(message)
        for results in versions.values():
            for result, after in zip(results, [*results[1:], None], strict=True):
                race = result.race
                for runner in result.runners:
                    order = (race.off_time, race.race_id, runner.horse_id)
                    until = instant_of(after) if after else None
                    start = Started(instant_of(result), until, order, race.race_date, runner)
                    for name, of_key in self.starts.items():
                        if runner.started and getattr(runner, name) is not None:
                            of_key[getattr(runner, name)].append(start)

    def known(self, name: str, key: str, at: datetime) -> list[Started] | None:
        """The starts of a key that hold at an instant, oldest first; None before its first."""
        ever = [start for start in self.starts[name].get(key, ()) if start.since <= at]
        holds = [start for start in ever if start.until is None or start.until > at]
        return sorted(holds, key=lambda start: start.order) if ever else None

    def trainer_wins(self, key: str, at: datetime) -> dict[str, Any] | None:
        known = self.known("trainer_id", key, at)
        if known is None:
            return None
        # of several runners in one race the winner counts; the last start with a win is that of the last day
        won = [start.race_date for start in known if start.runner.won]
        return {"runs": len(known), "last_win_day": (won[-1] - date(1970, 1, 1)).days if won else None}

    def horse_sectional(self, key: str, at: datetime) -> dict[str, Any] | None:
        known = self.known("horse_id", key, at)
        if known is None:
            return None
        given = [start.runner.kept.get("sectional_last_s") for start in known]
        seconds = [floor(value * 1e9 + 0.5) / 1e9 for value in given if isinstance(value, float) and 20 <= value <= 60]
        newest = seconds[:-11:-1]
        weights = [0.6**at for at in range(len(newest))]
        return {
            "runs": len(known),
            "sectional": sum(seconds) / len(seconds) if seconds else None,
            "sectional_ewma": float(np.dot(weights, newest) / sum(weights)) if newest else None,
        }

    def of(self, view: str, key: str, at: datetime) -> dict[str, Any] | None:
        return self.trainer_wins(key, at) if view == "trainer_wins" else self.horse_sectional(key, at)


NAMES = {"trainer_wins": ("runs", "last_win_day"), "horse_sectional": ("runs", "sectional", "sectional_ewma")}


def same(got: Mapping[str, Any] | None, expected: Mapping[str, Any] | None) -> bool:
    if got is None or expected is None:
        return got is expected
    pairs = [(got[name], value) for name, value in expected.items()]
    return all(
        mine is value if mine is None or value is None else np.isclose(mine, value, rtol=1e-9, atol=0)
        for mine, value in pairs
    )


def held_by_brute_force(rows: Mapping[str, Rows], truth: BruteForce) -> int:
    """Compare a sample of keys, at each change of a key and a microsecond before it; returns the instants compared."""
    rng, compared = np.random.default_rng(16), 0
    for view, of_view in rows.items():
        by_key: dict[str, list[tuple[int, tuple[Any, ...]]]] = defaultdict(list)
        for (key, at), values in sorted(of_view.items()):
            by_key[key].append((at, values[1:]))
        name = "trainer_id" if view == "trainer_wins" else "horse_id"
        assert by_key.keys() == truth.starts[name].keys()
        # a trainer with thousands of rows is asked at some of them
        for key in rng.choice(sorted(by_key), KEYS_ASKED, replace=False):
            times = [at for at, _ in by_key[key]]
            changes = set(times) | {micros(start.since) for start in truth.starts[name][key]}
            for change in rng.permutation(sorted(changes))[:30]:
                for at in (int(change) - 1, int(change)):
                    place = bisect_right(times, at)
                    got = dict(zip(NAMES[view], by_key[key][place - 1][1], strict=True)) if place else None
                    expected = truth.of(view, str(key), instant(at))
                    assert same(got, expected), (view, key, instant(at), got, expected)
                    compared += 1
    return compared


def micros(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // MICROSECOND


def instant(at: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + at * MICROSECOND


def joined_by_feast(store: velo.RaceStore, truth: BruteForce) -> int:
    """Feast's point-in-time join of a sample of starts, a microsecond before and at the instant each became known."""
    rng = np.random.default_rng(7)
    starts = [start for of_key in truth.starts["horse_id"].values() for start in of_key if start.runner.trainer_id]
    sample = [starts[at] for at in rng.choice(len(starts), 500, replace=False)]
    asked = pd.DataFrame(
        [
            {"horse_id": each.runner.horse_id, "trainer_id": each.runner.trainer_id, "event_timestamp": at}
            for each in sample
            for at in (each.since - MICROSECOND, each.since)
        ]
    )
    got = store.features(asked)
    for row in got.to_dict("records"):
        at = row["event_timestamp"].to_pydatetime()
        for view, key in (("trainer_wins", row["trainer_id"]), ("horse_sectional", row["horse_id"])):
            values = {name: none_if_nan(row[f"{view}__{name}"]) for name in NAMES[view]}
            expected = truth.of(view, key, at)
            assert same(values, expected or dict.fromkeys(NAMES[view])), (view, key, at, values, expected)
    return len(got)


def none_if_nan(value: Any) -> Any:
    return None if value != value else value


def main(home: Path, runners: str, sectionals: str) -> None:
    store = velo.open(home, timezone="Asia/Hong_Kong", clock=lambda: NOW)
    with duckdb.connect() as connection:
        since = SINCE if runners.endswith("hk/runners.parquet") else "2000-01-01"
        files = {"runners": runners, "sectionals": sectionals, "since": since}
        store.ingest(connection.sql(FILE, params=files).to_arrow_table())
    history = [message for _, message in log_messages(store.home)]
    last = next(message for message in reversed(history) if isinstance(message, Result) and len(message.runners) > 5)
    off = instant_of(history[-1]) + timedelta(hours=20)

    entered = [
        Runner(
            each.horse_id, each.horse, each.runner_no, each.draw, each.jockey_id, each.jockey, trainer_id=each.trainer_id,
            trainer=each.trainer, weight_lbs=each.weight_lbs, official_rating=each.official_rating,
        )
        for each in last.runners
    ]  # fmt: skip
    race = replace(last.race, race_id="to come", race_date=off.date(), off_time=off)
    opened, asked_at = store.opened(), off - timedelta(hours=1)
    with LogWriter.open(opened, clock=lambda: NOW) as writer:
        writer.load([a_card(race, entered, off - timedelta(hours=5))])
    try:
        # the stream from nothing, then the batch from nothing
        streamed(opened, online=True, batch=2000)
        by_stream = {view: rows_of(opened, view) for view in OWN}
        store.build(whole=True)
        by_batch = {view: rows_of(opened, view) for view in OWN}
        assert_same(by_stream, by_batch)
        assert_online(opened, by_batch)
        truth = BruteForce(history)
        report: dict[str, Any] = {"rows": {view: len(rows) for view, rows in by_batch.items()}}
        # a row is valid_until, runs, then what may be unknown
        report["known"] = {view: sum(row[2] is not None for row in rows.values()) for view, rows in by_batch.items()}
        report["instants by brute force"] = held_by_brute_force(by_batch, truth)
        report["rows by Feast"] = joined_by_feast(store, truth)
        listed = subprocess.run(
            [Path(sys.executable).with_name("feast"), "feature-views", "list"],
            cwd=REPO / "feature_repo", check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        assert all(view in listed for view in OWN), listed
        period = Period(since=last.race.race_date - timedelta(days=730))
        train(opened, now=NOW, model=ModelOptions(rounds=40, leaves=8, threads=1), period=period)
        assert {DAYS, SECTIONAL, EWMA} <= {*FEATURES}
        model = bundle.load(opened.home, formulas_of(opened.home))
        used = [model.features.index(name) for name in (DAYS, SECTIONAL, EWMA)]
        explained = store.explain("to come", entered[0].horse_id, as_of=None)
        assert explained.differences == ()
        shown = {f"{view.view}__{feature.name}": feature.value for view in explained.views for feature in view.features}
        wins, form = (
            truth.of("trainer_wins", entered[0].trainer_id or "", off),
            truth.of("horse_sectional", entered[0].horse_id, off),
        )
        assert wins is not None
        assert form is not None
        assert shown[DAYS] == (off.date() - date(1970, 1, 1)).days - wins["last_win_day"]
        assert same({"sectional": shown[SECTIONAL]}, {"sectional": form["sectional"]})
        client = a_client(a_service(opened, clock=lambda: asked_at))
        answer = client.get("/v1/races/to%20come/score")
        assert answer.status_code == 200, answer.text
        scored = answer.json()
        assert len(scored["runners"]) == len(entered)
        vectors = training_set(opened, period=Period(since=last.race.race_date)).matrix(model.features)
        # the model that serves leans on the user's columns
        assert np.abs(model.contributions(vectors)[:, used]).sum() > 0
        report["score"] = {each["horse_id"]: each["probability"] for each in scored["runners"]}
        sys.stdout.write(json.dumps(report))
    finally:
        down(opened.home)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:4])
