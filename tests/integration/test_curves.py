"""The curves of a horse, a trainer or a jockey are the changelog's own rows: bounded, and nothing later than asked."""

from calendar import month_name
from collections import Counter
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import TypeAdapter

from tests.support.engine import reading
from tests.support.made_once import Seasons
from tests.support.seasons import BUILT_AT, a_season, a_store, opened
from tests.support.services import a_client, a_service
from velo.feature_repo.catalogue.families import BY_VIEW
from velo.racing.messages import Message, Result
from velo.serving.api.curves import VIEWS, Curves
from velo.serving.api.past import Past
from velo.serving.api.schemas import KeyRecord, Matches
from velo.serving.scoring.past_runs import PastRun, PastRuns
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.unbuilt_log import UnbuiltLog

KEYS = {"horse": "horse 1", "trainer": "trainer 1", "jockey": "jockey 1"}
KINDS = pytest.mark.parametrize("kind", ["horse", "trainer", "jockey"])


@pytest.fixture(scope="module")
def store(seasons: Seasons) -> Store:
    return seasons.store(40)


@pytest.fixture(scope="module")
def client(store: Store) -> TestClient:
    service = a_service(store, lambda: BUILT_AT)
    return a_client(service)


def asked(client: TestClient, kind: str, **params: Any) -> Curves:
    answer = client.get(f"/v1/{kind}s/{KEYS[kind]}/history", params=params)
    assert answer.status_code == 200, answer.text
    return TypeAdapter(Curves).validate_json(answer.content)


def table(store: Store, kind: str) -> list[tuple[Any, ...]]:
    """Every row of a key in its feature table, oldest first: instant, end, features in the catalogue's order."""
    view = BY_VIEW[VIEWS[kind]]  # type: ignore[index]  # a kind of the tests
    columns = ", ".join(("event_timestamp", "valid_until", *(feature.name for feature in view.features)))
    with reading() as connection:
        return connection.execute(
            f"SELECT {columns} FROM read_parquet($parts) WHERE {kind}_id = $key ORDER BY event_timestamp",
            {"parts": [str(path) for path in (store.home.offline / view.view).glob("*.parquet")], "key": KEYS[kind]},
        ).fetchall()


@KINDS
def test_a_curve_is_every_change_of_the_key_in_the_catalogues_words(
    store: Store, client: TestClient, kind: str
) -> None:
    found, rows = asked(client, kind, points=2000), table(store, kind)
    assert found.rows == len(found.points) == len(rows) > 5
    assert [(point.at, point.valid_until, *point.values) for point in found.points] == rows
    family = BY_VIEW[VIEWS[kind]]  # type: ignore[index]  # a kind of the tests
    assert [(feature.name, feature.formula) for feature in found.features] == list(
        zip((feature.name for feature in family.features), family.formulas, strict=True)
    )
    assert found.name == KEYS[kind].title()


@KINDS
@pytest.mark.parametrize("points", [2, 7])
def test_never_more_points_than_asked_for_and_the_first_and_last_are_among_them(
    store: Store, client: TestClient, kind: str, points: int
) -> None:
    found, rows = asked(client, kind, points=points), table(store, kind)
    assert found.rows == len(rows)
    assert len(found.points) <= points
    assert [point.at for point in found.points] == sorted({point.at for point in found.points})
    assert (found.points[0].at, found.points[-1].at) == (rows[0][0], rows[-1][0])
    assert {point.at for point in found.points} <= {row[0] for row in rows}


@KINDS
def test_nothing_later_than_as_of_and_from_since_on_what_held_then(store: Store, client: TestClient, kind: str) -> None:
    """The first point is the row that holds at `since`, though it is older."""
    rows = table(store, kind)
    first, last = rows[3][0], rows[-3][0]
    since = first + timedelta(seconds=1)
    found = asked(client, kind, as_of=last.isoformat(), since=since.isoformat())
    assert [point.at for point in found.points] == [row[0] for row in rows[3:-2]]
    assert found.as_of == last
    early = asked(client, kind, as_of=rows[0][0].isoformat(), since=(rows[0][0] - timedelta(days=1)).isoformat())
    assert [point.at for point in early.points] == [rows[0][0]]


@pytest.mark.parametrize("key", ["nobody", "' OR true --", "a/b", "\x00", "%", "😀" * 50])
def test_a_stranger_is_refused_by_name_whatever_it_is_called(client: TestClient, key: str) -> None:
    from urllib.parse import quote

    for kind in KEYS:
        answer = client.get(f"/v1/{kind}s/{quote(key, safe='')}/history")
        assert answer.status_code == 404, answer.text
        assert answer.json()["detail"].startswith(f"no message names {kind} {key!r} by ")


def test_one_who_became_known_only_later_is_a_stranger_then(store: Store, client: TestClient) -> None:
    before = table(store, "horse")[0][0] - timedelta(days=2)
    assert client.get("/v1/horses/horse 1/history", params={"as_of": before.isoformat()}).status_code == 404


@pytest.mark.parametrize(
    "params", [{"points": 1}, {"points": 2001}, {"as_of": "2023-05-01"}, {"since": "yesterday"}], ids=str
)
def test_what_cannot_be_drawn_is_refused(client: TestClient, params: dict[str, Any]) -> None:
    assert client.get("/v1/horses/horse 1/history", params=params).status_code == 422


@pytest.mark.parametrize("instant", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "1677-01-01T00:00:00Z"])
def test_an_instant_at_the_end_of_time_is_no_accident(client: TestClient, instant: str) -> None:
    for name in ("as_of", "since"):
        assert client.get("/v1/trainers/trainer 1/history", params={name: instant}).status_code in (200, 404, 422)


def test_without_tables_the_remedy_is_reported(tmp_path: Path) -> None:
    client = a_client(a_service(opened(tmp_path / "home").save(), lambda: datetime(2026, 1, 1, tzinfo=UTC)))
    answer = client.get("/v1/horses/horse 1/history")
    assert answer.status_code == 503
    assert "velo build" in answer.json()["detail"]


# Past runs and records


def known_by(as_of: datetime, messages: list[Message]) -> dict[str, Result]:
    """The version of each race's result that counts at an instant, one message after another."""
    found: dict[str, Result] = {}
    for message in messages:
        if isinstance(message, Result) and message.known_at is not None and message.known_at <= as_of:
            before = found.get(message.race_id)
            if before is None or message.result_version > before.result_version:
                found[message.race_id] = message
    return found


def expected_runs(results: dict[str, Result], kind: str, key: str) -> list[tuple[Any, ...]]:
    """(race, horse, position, starters, SP, favourite) of each start of a key, latest first."""
    found = []
    for result in results.values():
        ran = [runner for runner in result.runners if runner.status not in ("NR", "VOID", None)]
        shortest = min(race.sp_decimal or 0.0 for race in ran)
        found += [
            (
                result.race.off_time,
                result.race_id,
                race.horse_id,
                race.position,
                len(ran),
                race.sp_decimal,
                race.sp_decimal == shortest,
            )
            for race in ran
            if getattr(race, f"{kind}_id") == key
        ]
    return [row[1:] for row in sorted(found, reverse=True)]


def plain_runs(runs: list[PastRun]) -> list[tuple[Any, ...]]:
    return [(run.race_id, run.horse_id, run.position, run.starters, run.sp_decimal, run.favourite) for run in runs]


@KINDS
def test_past_runs_are_those_of_the_versions_known_at_the_instant(store: Store, kind: Any) -> None:
    """Between a first result and its amendment too; what a later instant knows is in none of them."""
    messages = a_season(40)
    amended = [message for message in messages if isinstance(message, Result) and message.result_version == 2]
    assert amended
    instants = [each.known_at - timedelta(microseconds=1) for each in amended if each.known_at]
    instants += [each.known_at for each in amended if each.known_at] + [BUILT_AT]
    past = PastRuns(store.home, UnbuiltLog(store.home))
    keys = {getattr(runner, f"{kind}_id") for runner in amended[0].runners} | {KEYS[kind], "nobody"}
    for as_of in instants:
        found, results = past.of(kind, keys, as_of), known_by(as_of, messages)
        assert {key: plain_runs(runs) for key, runs in found.items()} == {
            key: expected_runs(results, kind, key) for key in keys
        }


def test_results_after_the_build_are_in_the_past_runs_and_replace_what_they_amend(tmp_path: Path) -> None:
    """The tables end with the 30th day; ten days and an amendment of an old race come after."""
    messages = a_season(30)
    home = tmp_path / "home"
    store = a_store(home, messages)
    past = PastRuns(store.home, UnbuiltLog(store.home))
    horse = KEYS["horse"]
    before = past.of("horse", [horse], BUILT_AT)[horse]
    old = next(each for each in messages if isinstance(each, Result) and each.race_id == before[0].race_id)
    gone = replace(
        old,
        runners=tuple(runner for runner in old.runners if runner.horse_id != horse),
        result_version=9,
        known_at=None,
    )
    later = [each for each in a_season(12, seed=8, first_day=date(2024, 3, 1)) if isinstance(each, Result)]
    added: list[Message] = []
    with LogWriter.open(store, clock=lambda: BUILT_AT) as writer:
        for message in (*later, gone):
            seq = writer.append(message).seq
            assert seq is not None
            added.append(replace(message, known_at=BUILT_AT + timedelta(microseconds=len(added))))
    after = past.of("horse", [horse], BUILT_AT + timedelta(days=1))[horse]
    assert plain_runs(after) == expected_runs(
        known_by(BUILT_AT + timedelta(days=1), [*messages, *added]), "horse", horse
    )
    assert old.race_id not in {each.race_id for each in after}
    assert past.of("horse", [horse], BUILT_AT - timedelta(days=1))[horse] == before, "and none of it is known earlier"


def test_a_record_counts_starts_wins_and_places_by_course_and_lists_every_start(client: TestClient) -> None:
    results = known_by(BUILT_AT, a_season(40))
    rows = expected_runs(results, "horse", KEYS["horse"])
    record = KeyRecord.model_validate_json(client.get("/v1/horses/horse 1/record").content)
    assert [(run.race_id, run.position, run.starters) for run in record.runs] == [
        (row[0], row[2], row[3]) for row in rows
    ]
    assert record.starts == len(rows)
    assert all(run.elo is not None for run in record.runs)
    by_course = next(each for each in record.records if each.by == "course")
    for line in by_course.lines:
        here = [row for row in rows if results[row[0]].race.course == line.name]
        places = sum(row[2] is not None and row[2] <= (1 if row[3] <= 4 else 2 if row[3] <= 7 else 3) for row in here)
        assert (line.starts, line.wins, line.places) == (len(here), sum(row[2] == 1 for row in here), places)
    trainer = KeyRecord.model_validate_json(client.get("/v1/trainers/trainer 1/record").content)
    rows = expected_runs(results, "trainer", "trainer 1")
    assert trainer.starts == len(rows)
    by_month = next(each for each in trainer.records if each.by == "month")
    months = Counter(f"{results[row[0]].race.race_date:%B}" for row in rows)
    assert {line.name: line.starts for line in by_month.lines} == months
    assert [line.name for line in by_month.lines] == [name for name in month_name if name in months], (
        "in calendar order"
    )
    assert client.get("/v1/jockeys/nobody/record").status_code == 404


def test_the_search_finds_part_of_a_name_and_puts_what_begins_with_it_first(client: TestClient) -> None:
    def found(text: str) -> list[tuple[str, str]]:
        answer = Matches.model_validate_json(client.get("/v1/search", params={"q": text}).content)
        return [(match.kind, match.name) for match in answer.matches]

    assert found("TRAINER 1") == [("trainer", "Trainer 1")]
    assert found("orse 1")[0] == ("horse", "Horse 1")
    assert len(found("er")) <= 20
    assert found("' OR true --") == []
    assert client.get("/v1/search", params={"q": "x"}).status_code == 422


def test_a_first_headgear_is_the_horses_own_first_whoever_trained_it_then() -> None:
    """Horse a wore headgear for another trainer before; horse b never before; a start without any has no line."""

    def run(horse: str, day: int, headgear: str | None) -> PastRun:
        at = datetime(2024, 5, day, tzinfo=UTC)
        known: dict[str, Any] = {field.name: None for field in fields(PastRun)}
        known |= {"race_id": f"{horse}{day}", "horse_id": horse, "off_time": at, "headgear": headgear}
        return PastRun(**known)

    by_others = [run("a", 1, "blinkers")]
    own = [run("a", 2, "hood"), run("b", 3, None), run("b", 4, "hood"), run("b", 5, "hood")]
    past = object.__new__(Past)
    every = {horse: [each for each in (*by_others, *own) if each.horse_id == horse] for horse in "ab"}
    past.runs = SimpleNamespace(of=lambda kind, keys, as_of: {key: every[key] for key in keys})  # type: ignore[assignment]
    label = past._headgear(own, BUILT_AT)
    assert [label(each) for each in own] == ["worn before", None, "first time", "worn before"]
