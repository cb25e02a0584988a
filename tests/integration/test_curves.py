"""The curves of a horse, a trainer or a jockey are the changelog's own rows: bounded, and nothing later than asked."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from fastapi.testclient import TestClient

from tests.support.seasons import BUILT_AT, a_season, a_store, opened
from tests.support.services import a_client, a_service
from velo.feature_repo.catalogue.families import BY_VIEW
from velo.serving.api.curves import VIEWS
from velo.serving.api.schemas import Curve
from velo.storage.store import Store

KEYS = {"horse": "horse 1", "trainer": "trainer 1", "jockey": "jockey 1"}
KINDS = pytest.mark.parametrize("kind", ["horse", "trainer", "jockey"])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return a_store(tmp_path_factory.mktemp("curves") / "home", a_season(40))


@pytest.fixture(scope="module")
def client(store: Store) -> TestClient:
    return a_client(a_service(store, lambda: BUILT_AT))


def asked(client: TestClient, kind: str, **params: Any) -> Curve:
    answer = client.get(f"/v1/{kind}s/{KEYS[kind]}/history", params=params)
    assert answer.status_code == 200, answer.text
    return Curve.model_validate_json(answer.content)


def table(store: Store, kind: str) -> list[tuple[Any, ...]]:
    """Every row of a key in its feature table, oldest first: instant, end, features in the catalogue's order."""
    view = BY_VIEW[VIEWS[kind]]  # type: ignore[index]  # a kind of the tests
    columns = ", ".join(("event_timestamp", "valid_until", *(one.name for one in view.features)))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.execute(
            f"SELECT {columns} FROM read_parquet($parts) WHERE {kind}_id = $key ORDER BY event_timestamp",
            {"parts": [str(one) for one in (store.home.offline / view.view).glob("*.parquet")], "key": KEYS[kind]},
        ).fetchall()


@KINDS
def test_a_curve_is_every_change_of_the_key_in_the_catalogues_words(
    store: Store, client: TestClient, kind: str
) -> None:
    told, rows = asked(client, kind, points=2000), table(store, kind)
    assert told.rows == len(told.points) == len(rows) > 5
    assert [(one.at, one.valid_until, *one.values) for one in told.points] == rows
    family = BY_VIEW[VIEWS[kind]]  # type: ignore[index]  # a kind of the tests
    assert [(one.name, one.formula) for one in told.features] == list(
        zip((one.name for one in family.features), family.formulas, strict=True)
    )
    assert told.name == KEYS[kind].title()


@KINDS
@pytest.mark.parametrize("points", [2, 7])
def test_never_more_points_than_asked_for_and_the_first_and_last_are_among_them(
    store: Store, client: TestClient, kind: str, points: int
) -> None:
    told, rows = asked(client, kind, points=points), table(store, kind)
    assert told.rows == len(rows)
    assert len(told.points) <= points
    assert [one.at for one in told.points] == sorted({one.at for one in told.points})
    assert (told.points[0].at, told.points[-1].at) == (rows[0][0], rows[-1][0])
    assert {one.at for one in told.points} <= {row[0] for row in rows}


@KINDS
def test_nothing_later_than_as_of_and_from_since_on_what_held_then(store: Store, client: TestClient, kind: str) -> None:
    """The first point is the row that holds at `since`, though it is older."""
    rows = table(store, kind)
    first, last = rows[3][0], rows[-3][0]
    since = first + timedelta(seconds=1)
    told = asked(client, kind, as_of=last.isoformat(), since=since.isoformat())
    assert [one.at for one in told.points] == [row[0] for row in rows[3:-2]]
    assert told.as_of == last
    early = asked(client, kind, as_of=rows[0][0].isoformat(), since=(rows[0][0] - timedelta(days=1)).isoformat())
    assert [one.at for one in early.points] == [rows[0][0]]


@pytest.mark.parametrize("key", ["nobody", "' OR true --", "a/b", "\x00", "%", "😀" * 50])
def test_a_stranger_is_refused_by_name_whatever_it_is_called(client: TestClient, key: str) -> None:
    from urllib.parse import quote

    for kind in KEYS:
        answer = client.get(f"/v1/{kind}s/{quote(key, safe='')}/history")
        assert answer.status_code == 404, answer.text
        assert answer.json()["detail"].startswith(f"no message names {kind} {key!r} by ")


def test_one_who_was_told_of_only_later_is_a_stranger_then(store: Store, client: TestClient) -> None:
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


def test_without_tables_the_remedy_is_told(tmp_path: Path) -> None:
    client = a_client(a_service(opened(tmp_path / "home").save(), lambda: datetime(2026, 1, 1, tzinfo=UTC)))
    answer = client.get("/v1/horses/horse 1/history")
    assert answer.status_code == 503
    assert "velo build" in answer.json()["detail"]
