"""Feast reads and writes what Redis holds through our plug-in as it does through its own store, and nothing is lost by it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast import FeatureStore
from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from tests.support.changelogs import START, key_values
from tests.support.feast_homes import KEYS, REQUEST, MadeUp, made_up_feast, on_demand_refs, stock_redis, stored_refs
from tests.support.redis_writer import table
from velo.errors import UserError
from velo.feature_repo.catalogue.families import BY_VIEW, FAMILIES
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.embedded_redis import ensure
from velo.feature_repo.stores.online import VersionedRedisOnlineStore, layout_of
from velo.feature_repo.stores.parts import add_part
from velo.feature_repo.stores.redis_client import connect_url
from velo.feature_repo.stores.redis_layout import Layout
from velo.feature_repo.stores.redis_rows import RedisRows

END = START + timedelta(days=700)
FORM, TRAINER, PAIR = BY_VIEW["horse_form"], BY_VIEW["trainer_velocity"], BY_VIEW["partnership_velocity"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MadeUp]:
    """A made-up store, materialised up to `END`; read only."""
    made = made_up_feast(tmp_path_factory.mktemp("online") / "home")
    made.feast.materialize(START, END)
    yield made
    embedded_redis.down(made.home)


# What Feast reads


def test_feast_reads_the_newest_row_of_every_key(made: MadeUp) -> None:
    """Against the tables themselves: the last row not after the end, values, nulls, whole numbers and instants."""
    for family in FAMILIES:
        names = [*(feature.name for feature in family.features), "valid_until"]
        newest: dict[tuple[str, ...], dict[str, Any]] = {}
        for row in sorted(made.tables[family.view].to_pylist(), key=lambda row: row["event_timestamp"]):
            if row["event_timestamp"] <= END:
                newest[tuple(row[key] for key in family.keys)] = row
        entities = [dict(zip(family.keys, key, strict=True)) for key in newest]
        read = made.feast.get_online_features([f"{family.view}:{name}" for name in names], entities).to_dict()
        for name in names:
            assert read[name] == [row[name] for row in newest.values()], (family.view, name)


def test_stock_feast_reads_the_same_values(made: MadeUp, tmp_path: Any) -> None:
    stock = stock_redis(made, tmp_path)
    entities = [{key: value for key in KEYS for value in key_values(key, 40)[at : at + 1]} for at in range(20)]
    entities.append(dict.fromkeys(KEYS, "never heard of"))
    asked = {"entity_rows": entities, "full_feature_names": True}
    assert stock.get_online_features(stored_refs(), **asked).to_dict() == (  # type: ignore[arg-type]
        made.feast.get_online_features(stored_refs(), **asked).to_dict()  # type: ignore[arg-type]
    )


def test_stock_writes_read_as_ours_do(made: MadeUp, tmp_path: Any) -> None:
    """The twin: stock Feast's own materialisation into a database beside, read back through stock Feast."""
    stock = stock_redis(made, tmp_path)
    stock.config.online_store.connection_string += ",db=1"
    stock.materialize(START, END, feature_views=["horse_going"])
    refs = stored_refs(["horse_going"])
    keys = made.tables["horse_going"].select(["horse_id", "going_group"]).to_pandas().drop_duplicates()
    entities = keys.to_dict("records")
    assert (
        made.feast.get_online_features(refs, entities).to_dict() == stock.get_online_features(refs, entities).to_dict()
    )


def test_a_key_never_written_is_null_throughout(made: MadeUp) -> None:
    read = made.feast.get_online_features(["horse_form:sr", "horse_form:starts"], [{"horse_id": "nobody"}]).to_dict()
    assert (read["sr"], read["starts"]) == ([None], [None])


def test_on_demand_features_are_those_of_the_offline_store(made: MadeUp) -> None:
    import pandas as pd

    entities = [{"horse_id": horse} | REQUEST for horse in [*key_values("horse_id", 40), "nobody"]]
    online = made.feast.get_online_features(on_demand_refs(), entities).to_dict()
    rows = pd.DataFrame(entities).assign(event_timestamp=END)
    offline = made.feast.get_historical_features(rows, on_demand_refs()).to_arrow()
    for ref in on_demand_refs():
        name = ref.split(":")[1]
        assert online[name] == offline.column(name).to_pylist(), name


def test_the_async_read_is_the_same(made: MadeUp) -> None:
    import asyncio

    entities = [{"horse_id": horse} for horse in key_values("horse_id", 5)]
    refs = stored_refs(["horse_form"])

    async def read() -> dict[str, Any]:
        answer: dict[str, Any] = (await made.feast.get_online_features_async(refs, entities)).to_dict()
        await made.feast._get_provider().online_store._client_async.aclose()  # type: ignore[attr-defined]
        made.feast._get_provider().online_store._client_async = None  # type: ignore[attr-defined]
        return answer

    assert asyncio.run(read()) == made.feast.get_online_features(refs, entities).to_dict()


def test_a_packed_read_is_feasts_read_as_arrays(made: MadeUp) -> None:
    rows = RedisRows(connect_url(ensure(made.home)))
    wanted = []
    for family in FAMILIES:
        keys = made.tables[family.view].select(family.keys).to_pylist()[::7]
        wanted.append((Layout.of(family), [tuple(key.values()) for key in keys] + [("nobody",) * len(family.keys)]))
    for (layout, keys), read in zip(wanted, rows.read_packed(wanted), strict=True):
        names = [name for name, _ in layout.columns]
        entities = [dict(zip(layout.keys, key, strict=True)) for key in keys]
        found = made.feast.get_online_features([f"{layout.view}:{name}" for name in names], entities).to_dict()
        until = [None if at is None else at.replace(tzinfo=UTC) for at in read.valid_until.tolist()]
        assert until == found["valid_until"]
        for at, name in enumerate(names[:-1]):
            mine = [None if np.isnan(value) else value for value in read.values[:, at].tolist()]
            assert mine == found[name], (layout.view, name)
        assert not read.present[-1]
        assert read.present[:-1].any()


def test_the_layout_of_a_family_is_that_of_its_feature_view(made: MadeUp) -> None:
    for family in FAMILIES:
        assert layout_of(made.feast.get_feature_view(family.view), "velo") == Layout.of(family)


def test_the_service_gives_every_feature_under_full_names(made: MadeUp) -> None:
    """The on-demand ones too, which stock Feast drops from such an answer, with the values they have alone."""
    feast: FeatureStore = made.feast
    entities = [{key: key_values(key, 9)[at] for key in KEYS} | REQUEST for at in range(9)]
    read = feast.get_online_features(feast.get_feature_service("velo_v1"), entities, full_feature_names=True).to_dict()
    assert {ref.replace(":", "__") for ref in [*stored_refs(), *on_demand_refs()]} <= set(read)
    alone = feast.get_online_features(
        on_demand_refs(), [{"horse_id": entity["horse_id"]} | REQUEST for entity in entities]
    )
    for ref in on_demand_refs():
        assert read[ref.replace(":", "__")] == alone.to_dict()[ref.split(":")[1]]


def test_redis_keys_are_feasts_for_one_and_for_many_join_keys() -> None:
    key = ("a ’trainer|", "jockey")
    entity = EntityKey(join_keys=list(PAIR.keys), entity_values=[Value(string_val=value) for value in key])
    assert Layout.of(PAIR).redis_key(key) == _redis_key("velo", entity, 3)
    single = EntityKey(join_keys=["horse_id"], entity_values=[Value(string_val="x")])
    assert Layout.of(FORM).redis_key(("x",)) == _redis_key("velo", single, 3)


# What is refused, and what is left alone


def test_taking_down_removes_the_views_fields_and_nothing_of_others(tmp_path: Any) -> None:
    made = made_up_feast(tmp_path / "home")
    made.feast.materialize(START, END, feature_views=["horse_form", "horse_course", "trainer_velocity"])
    client: Any = connect_url(ensure(made.home))
    try:
        horse = key_values("horse_id", 1)[0]
        layout = Layout.of(FORM)
        elsewhere = Layout(layout.view, layout.keys, layout.columns, project="xvelo")
        client.hset(elsewhere.redis_key((horse,)), "theirs", "1")
        client.hset(layout.redis_key((horse,)), "theirs", "1")
        client.set("theirs", "1")
        made.feast.teardown()  # type: ignore[no-untyped-call]
        assert client.hgetall(layout.redis_key((horse,))) == {b"theirs": b"1"}
        left = set(client.scan_iter())
        assert left == {elsewhere.redis_key((horse,)), layout.redis_key((horse,)), b"theirs"}
    finally:
        client.close()
        embedded_redis.down(made.home)


@pytest.mark.parametrize(("option", "value"), [("key_ttl_seconds", 5), ("skip_dedup", True), ("client", "glide")])
def test_options_it_cannot_keep_are_refused(made: MadeUp, option: str, value: Any) -> None:
    config = made.feast.config.online_store.model_copy(update={option: value})
    with pytest.raises(UserError, match=f"online_store.{option} is .*leave it out"):
        VersionedRedisOnlineStore()._get_client(config)


def test_a_redis_that_is_down_is_one_line_to_whoever_asks_feast(made: MadeUp) -> None:
    config = made.feast.config.online_store.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    with pytest.raises(UserError, match=r"cannot use Redis at redis://127\.0\.0\.1:1/0"):
        VersionedRedisOnlineStore()._get_client(config)


# Materialising


def test_materialising_again_writes_nothing_and_what_is_late_still_arrives(tmp_path: Any) -> None:
    """A row written after a materialisation but true from before it reaches Redis with the next incremental one."""
    made = made_up_feast(tmp_path / "home")
    try:
        made.feast.materialize_incremental(END)
        horse = key_values("horse_id", 1)[0]
        layout = Layout.of(FORM)
        rows = RedisRows(connect_url(ensure(made.home)))
        (before,) = rows.read_packed([(layout, [horse])])
        late_at = END - timedelta(seconds=1)
        late = table(FORM, [((horse,), late_at, 12.0)])
        created = pa.array([datetime.now(UTC) + timedelta(days=3650)], pa.timestamp("us", "UTC"))
        add_part(made.home.offline / "horse_form", late.append_column("created_timestamp", created))
        made.feast.materialize_incremental(END + timedelta(seconds=1))
        (after,) = rows.read_packed([(layout, [horse])])
        assert before.event_timestamp[0] < after.event_timestamp[0] == np.datetime64(late_at.replace(tzinfo=None))
        assert after.values[0, 0] == 12.0
    finally:
        embedded_redis.down(made.home)


def test_a_first_incremental_materialisation_reaches_all_history(tmp_path: Any) -> None:
    made = made_up_feast(tmp_path / "home")
    try:
        made.feast.materialize_incremental(END)
        newest = made.tables["trainer_velocity"].to_pandas()
        keys = newest[newest.event_timestamp <= END].trainer_id.unique().tolist()
        (read,) = RedisRows(connect_url(ensure(made.home))).read_packed([(Layout.of(TRAINER), keys)])
        assert read.present.all()
    finally:
        embedded_redis.down(made.home)


@pytest.mark.slow
def test_an_end_that_lies_ahead_or_behind_leaves_no_row_unwritten(tmp_path: Any) -> None:
    """What is materialised follows from the parts offered and not by the instants asked for."""
    made = made_up_feast(tmp_path / "home")
    try:
        rows = RedisRows(connect_url(ensure(made.home)))
        layout, (horse, other) = Layout.of(FORM), key_values("horse_id", 2)

        def told(*new: tuple[str, datetime, float]) -> None:
            late = table(FORM, [((key,), at, value) for key, at, value in new])
            created = pa.array([START] * len(new), pa.timestamp("us", "UTC"))
            add_part(made.home.offline / "horse_form", late.append_column("created_timestamp", created))

        def held() -> list[float]:
            (read,) = rows.read_packed([(layout, [horse, other])])
            return [float(value) for value in read.values[:, 0]]

        made.feast.materialize_incremental(END + timedelta(days=100_000))
        told((horse, END + timedelta(days=1000), 21.0))
        made.feast.materialize_incremental(END + timedelta(days=100_000))
        assert held()[0] == 21.0
        told((other, END + timedelta(days=1000), 22.0), (other, END + timedelta(days=3000), 23.0))
        made.feast.materialize_incremental(END + timedelta(days=2000))  # before what was already done
        assert held() == [21.0, 22.0]
        made.feast.materialize(START, START + timedelta(days=1))
        made.feast.materialize_incremental(END + timedelta(days=4000))
        assert held() == [21.0, 23.0]
    finally:
        embedded_redis.down(made.home)


@pytest.mark.slow
def test_an_incremental_materialisation_fills_a_redis_that_was_emptied(tmp_path: Any) -> None:
    """As the first one filled it; and one of a stretch does not bar the next from the rest."""
    made = made_up_feast(tmp_path / "home")
    try:
        client: Any = connect_url(ensure(made.home))
        keys = sorted({tuple(row.values()) for row in made.tables["trainer_velocity"].select(TRAINER.keys).to_pylist()})

        def held() -> Any:
            (read,) = RedisRows(client).read_packed([(Layout.of(TRAINER), [key[0] for key in keys])])
            return read.values.tobytes()

        after = END + timedelta(days=1000)
        made.feast.materialize_incremental(after)
        full = held()
        client.flushall()
        made.feast.materialize_incremental(after)
        assert held() == full
        client.flushall()
        made.feast.materialize(after - timedelta(days=1), after)
        made.feast.materialize_incremental(after + timedelta(days=1))
        assert held() == full
    finally:
        embedded_redis.down(made.home)


def test_a_redis_emptied_under_a_materialisation_is_reported(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = made_up_feast(tmp_path / "home")
    try:
        client: Any = connect_url(ensure(made.home))
        write_table = VersionedRedisOnlineStore.write_table

        def emptied(*given: Any) -> Any:
            written = write_table(*given)
            client.flushall()
            return written

        monkeypatch.setattr(VersionedRedisOnlineStore, "write_table", emptied)
        with pytest.raises(UserError, match="was emptied meanwhile: repeat the materialisation"):
            made.feast.materialize_incremental(END)
    finally:
        embedded_redis.down(made.home)
