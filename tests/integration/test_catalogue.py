"""A feature is born once: one line in the catalogue reaches the SQL, the Parquet, Feast's schema and Redis."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support import oracle
from tests.support.agreement import differences
from tests.support.builders import a_field, a_log, a_result, a_tick
from tests.support.logs import a_store, logged
from tests.support.stores import NOW, Row, changelogs_of, historical, materialize, online, rows_of
from velo.feature_repo.catalogue.aggregates import Ratio
from velo.feature_repo.catalogue.families import BY_VIEW, FAMILIES, Family
from velo.feature_repo.feast_store import apply, feature_store
from velo.feature_repo.objects import SERVICE
from velo.feature_repo.stores import embedded_redis
from velo.racing.messages import from_record
from velo.storage.store import Store
from velo.streams.batch.build import build
from velo.streams.batch.formulas import fingerprint
from velo.streams.batch.staging import code_of

TRAINERS = BY_VIEW["trainer_velocity"]
WITH_60_DAYS = replace(TRAINERS, windows=(14, 30, 60, 90))
DREAPER = {"trainer_id": "dreaper"}
END = datetime(2024, 8, 1, tzinfo=UTC)


def with_family(changed: Family) -> tuple[Family, ...]:
    """The catalogue with one family in place of that of its name."""
    return tuple(changed if family.view == changed.view else family for family in FAMILIES)


def a_race(race_id: str, on: str) -> Row:
    runners = [runner | {"trainer": "Dreaper"} for runner in a_field(2)]
    return a_result(*runners, race_id=race_id, race_date=on, off_time=f"{on} 14:00", known_at=f"{on} 14:15")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store in which Dreaper ran two horses on 1 April, 15 April and 25 May, told to the end of July."""
    made = a_store(tmp_path)
    races = [a_race("R1", "2024-04-01"), a_race("R2", "2024-04-15"), a_race("R3", "2024-05-25")]
    logged(made, *(from_record(record) for record in a_log(*races, a_tick("2024-07-31 23:00"))))
    yield made
    embedded_redis.down(made.home)


def test_a_60_day_window_is_one_line_and_reaches_the_parquet(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every change of every view the values are the oracle's, asked for the same windows."""
    build(store, NOW, families=with_family(WITH_60_DAYS))
    monkeypatch.setitem(oracle.WINDOWS_DAYS, "trainer_velocity", WITH_60_DAYS.windows)
    assert list(differences(store, with_family(WITH_60_DAYS))) == []
    runs = {row["event_timestamp"]: row["runs_60d"] for row in changelogs_of(store, WITH_60_DAYS)["dreaper",]}
    assert runs[datetime(2024, 5, 25, 14, 15, tzinfo=UTC)] == 6
    assert runs[datetime(2024, 5, 30, 23, tzinfo=UTC)] == 4  # 1 April + 60 days begins in London's summer
    assert runs[datetime(2024, 6, 13, 23, tzinfo=UTC)] == 2
    assert runs[datetime(2024, 7, 23, 23, tzinfo=UTC)] == 0


def test_a_60_day_window_is_in_feast_s_schema_and_joins_at_any_instant(store: Store) -> None:
    """The view and the service know it; historical and online retrieval give it."""
    build(store, NOW, families=with_family(WITH_60_DAYS))
    feast = apply(store, with_family(WITH_60_DAYS))
    assert "runs_60d" in {field.name for field in feast.get_feature_view("trainer_velocity").schema}
    service = feast.get_feature_service(SERVICE)
    offered = {field.name for view in service.feature_view_projections for field in view.features}
    assert {f"{one.name}_60d" for one in TRAINERS.windowed} <= offered
    at = [datetime(2024, 5, 25, 15, tzinfo=UTC), datetime(2024, 6, 1, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC)]
    joined = historical(feast, WITH_60_DAYS, [DREAPER] * 3, at)
    assert [row["runs_60d"] for row in joined] == [6, 4, None]
    assert [row["sr_60d"] for row in joined] == [0.5, 0.5, None]
    materialize(feast, END)
    assert online(feast, WITH_60_DAYS, [DREAPER])[0]["runs_60d"] == 0


def test_new_formulas_begin_an_epoch_whose_online_values_replace_those_of_the_same_instant(store: Store) -> None:
    """A family mended and widened, nothing else told: the old row's instant now holds the new values."""
    bias = BY_VIEW["draw_bias"]
    mended = replace(
        bias,
        windowed=tuple(
            replace(one, prior=10) if isinstance(one, Ratio) and one.name == "iv_shrunk" else one
            for one in bias.windowed
        ),
    )
    first = build(store, NOW)
    feast = apply(store)
    materialize(feast, END)
    cells = [{"draw_cell": row[0]} for row in rows_of(store, bias)[:1]]
    [before] = online(feast, bias, cells)
    second = build(a_store(store.home.root), NOW, families=with_family(mended))
    assert (second.epoch, second.computed) == (first.epoch + 1, ("draw_bias",))
    assert [row[:2] for row in rows_of(store, mended)] == [row[:2] for row in rows_of(store, bias)]
    materialize(feature_store(store), END)
    [after] = online(feast, bias, cells)
    assert after["runs_1095d"] == before["runs_1095d"]
    assert after["iv_shrunk_1095d"] != before["iv_shrunk_1095d"]
    assert after["iv_shrunk_1095d"] == changelogs_of(store, mended)[cells[0]["draw_cell"],][-1]["iv_shrunk_1095d"]


def test_a_sentence_written_anew_is_no_other_formula_and_a_changed_number_is() -> None:
    """Comments, docstrings and layout are no code; names and numbers are."""
    plain = "def half(x):\n    return x / 2\n"
    reworded = '"""A module."""\n\n\ndef half(x):  # of it\n    """Half."""\n    # as asked\n\n    return x / 2\n'
    assert code_of(reworded) == code_of(plain)
    assert code_of(plain.replace("2", "3")) != code_of(plain)
    assert code_of(plain.replace("x", "y")) != code_of(plain)


def test_a_catalogue_that_says_the_same_is_the_same_epoch_and_any_change_another() -> None:
    """Windows, aggregates, priors and their order are formulas; what a view is about is not."""
    assert fingerprint(with_family(replace(TRAINERS, about="another text"))) == fingerprint()
    narrower = replace(TRAINERS, windows=TRAINERS.windows[:-1])
    fewer = replace(TRAINERS, windowed=TRAINERS.windowed[:-1])
    assert len({fingerprint(), *(fingerprint(with_family(one)) for one in (WITH_60_DAYS, narrower, fewer))}) == 4
