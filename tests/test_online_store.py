"""The newest row of a key is what Redis holds, whoever writes and however often, and stock Feast can read it."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast import FeatureStore
from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from feature_repo.catalogue.families import BY_VIEW, FAMILIES
from feature_repo.stores import embedded_redis
from feature_repo.stores.embedded_redis import ensure
from feature_repo.stores.online import VersionedRedisOnlineStore, layout_of
from feature_repo.stores.redis_client import connect_url
from feature_repo.stores.redis_layout import Layout
from feature_repo.stores.redis_rows import RedisRows, Written
from tests.changelogs import START, key_values
from tests.feast_homes import KEYS, REQUEST, MadeUp, made_up_feast, on_demand_refs, stock_redis, stored_refs
from tests.redis_writer import table
from velo.errors import UserError
from velo.store import Home

END = START + timedelta(days=700)
FORM, TRAINER, PAIR = BY_VIEW["horse_form"], BY_VIEW["trainer_velocity"], BY_VIEW["partnership_velocity"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MadeUp]:
    """A made-up store, materialised up to `END`; read only."""
    made = made_up_feast(tmp_path_factory.mktemp("online") / "home")
    made.feast.materialize(START, END)
    yield made
    embedded_redis.down(made.home)


@dataclass(frozen=True)
class Bare:
    """A Redis with nothing in it, and rows on it."""

    url: str
    rows: RedisRows


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = Home(tmp_path_factory.mktemp("bare"))
    yield ensure(home)
    embedded_redis.down(home)


@pytest.fixture
def bare(server: str) -> Bare:
    client = connect_url(server)
    client.flushdb()
    return Bare(server, RedisRows(client, server))


def held(bare: Bare, family: Any, *keys: tuple[str, ...]) -> list[float | None]:
    """The first feature of each key, None where null or absent."""
    (read,) = bare.rows.read_packed([(Layout.of(family), keys)])
    return [None if np.isnan(value) else float(value) for value in read.values[:, 0]]


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
        told = made.feast.get_online_features([f"{layout.view}:{name}" for name in names], entities).to_dict()
        until = [None if at is None else at.replace(tzinfo=UTC) for at in read.valid_until.tolist()]
        assert until == told["valid_until"]
        for at, name in enumerate(names[:-1]):
            mine = [None if np.isnan(value) else value for value in read.values[:, at].tolist()]
            assert mine == told[name], (layout.view, name)
        assert not read.present[-1]
        assert read.present[:-1].any()


def test_the_layout_of_a_family_is_that_of_its_feature_view(made: MadeUp) -> None:
    for family in FAMILIES:
        assert layout_of(made.feast.get_feature_view(family.view), "velo") == Layout.of(family)


def test_redis_keys_are_feasts_for_one_and_for_many_join_keys() -> None:
    key = ("a ’trainer|", "jockey")
    entity = EntityKey(join_keys=list(PAIR.keys), entity_values=[Value(string_val=value) for value in key])
    assert Layout.of(PAIR).redis_key(key) == _redis_key("velo", entity, 3)
    single = EntityKey(join_keys=["horse_id"], entity_values=[Value(string_val="x")])
    assert Layout.of(FORM).redis_key(("x",)) == _redis_key("velo", single, 3)


# What replaces what


def test_only_a_newer_row_replaces_a_row(bare: Bare) -> None:
    layout = Layout.of(FORM)

    def offer(day: int, value: float, epoch: int = 1) -> Written:
        return bare.rows.write_rows(layout, table(FORM, [(("h",), START + timedelta(days=day), value)]), epoch)

    assert offer(2, 2.0) == Written(1, 0)
    assert offer(1, 1.0) == Written(0, 1)
    assert offer(2, 9.0) == Written(0, 1)
    assert held(bare, FORM, ("h",)) == [2.0]
    assert offer(3, 3.0) == Written(1, 0)
    assert held(bare, FORM, ("h",)) == [3.0]


def test_mended_formulas_replace_values_of_the_same_instant_and_old_ones_none_of_the_new(bare: Bare) -> None:
    layout = Layout.of(FORM)
    row = table(FORM, [(("h",), START, 1.0)])
    assert bare.rows.write_rows(layout, row, epoch=9).written == 1
    mended = table(FORM, [(("h",), START, 2.0)])
    assert bare.rows.write_rows(layout, mended, epoch=10).written == 1
    later_by_old = table(FORM, [(("h",), START + timedelta(days=30), 3.0)])
    assert bare.rows.write_rows(layout, later_by_old, epoch=9).written == 0
    assert held(bare, FORM, ("h",)) == [2.0]


def test_a_microsecond_is_enough_and_years_before_1970_sort_too(bare: Bare) -> None:
    layout, old = Layout.of(FORM), datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    for step, value in ((0, 0.0), (2, 2.0), (1, 1.0)):
        instant = old + timedelta(microseconds=step)
        bare.rows.write_rows(layout, table(FORM, [(("h",), instant, value)]), 1)
    (read,) = bare.rows.read_packed([(layout, ["h"])])
    assert read.values[0, 0] == 2.0
    assert read.event_timestamp[0] == np.datetime64("1970-01-01T00:00:00.000001")


def test_a_null_in_the_new_row_leaves_no_value_of_the_old(bare: Bare) -> None:
    layout = Layout.of(FORM)
    bare.rows.write_rows(layout, table(FORM, [(("h",), START, 5.0)]), 1)
    bare.rows.write_rows(layout, table(FORM, [(("h",), START + timedelta(days=1), None)]), 1)
    fields = set(bare.rows.client.hkeys(layout.redis_key(("h",))))
    assert fields == {b"_ts:horse_form", b"_ver:horse_form", b"_pk:horse_form"}
    (read,) = bare.rows.read_packed([(layout, ["h"])])
    assert read.present[0]
    assert np.isnan(read.values).all()
    assert np.isnat(read.valid_until[0])


def test_within_one_batch_the_newest_row_of_a_key_wins_in_whatever_order(bare: Bare) -> None:
    days = [3, 9, 1, 9, 4]
    rows = [(("h",), START + timedelta(days=day), float(at)) for at, day in enumerate(days)]
    assert bare.rows.write_rows(Layout.of(FORM), table(FORM, rows), 1) == Written(2, 3)
    assert held(bare, FORM, ("h",)) == [1.0]


def test_every_arrow_chunk_is_written(bare: Bare) -> None:
    chunks = [table(TRAINER, [((f"t{at}",), START, float(at))]) for at in range(7)]
    whole = pa.concat_tables(chunks)
    assert whole.column(0).num_chunks == 7
    assert bare.rows.write_rows(Layout.of(TRAINER), whole, 1) == Written(7, 0)
    assert held(bare, TRAINER, *[(f"t{at}",) for at in range(7)]) == [float(at) for at in range(7)]


def test_more_keys_than_a_batch_holds_are_all_written_and_read_back(bare: Bare) -> None:
    count = 6_500
    rows = table(FORM, [((f"h{at}",), START, float(at)) for at in range(count)])
    told: list[int] = []
    assert bare.rows.write_rows(Layout.of(FORM), rows, 1, told.append) == Written(count, 0)
    assert sum(told) == count
    assert held(bare, FORM, *[(f"h{at}",) for at in range(count)]) == [float(at) for at in range(count)]


def test_two_writers_at_once_leave_the_newest_row_of_every_key(bare: Bare) -> None:
    """One writes forwards, one backwards, the same keys at the same time; no key ends on an older row."""
    program = [sys.executable, "-m", "tests.redis_writer", bare.url]
    writers = [subprocess.Popen([*program, *map(str, days)]) for days in ([*range(0, 40, 2)], [*range(39, 0, -2)])]
    assert [writer.wait(100) for writer in writers] == [0, 0]
    assert set(held(bare, FORM, *[(f"h{at}",) for at in range(300)])) == {39.0}


def test_a_server_that_forgot_the_script_is_told_it_again(bare: Bare) -> None:
    class Forgetful:
        """A client whose server forgets its scripts once, right after they were loaded."""

        forgot = False

        def __getattr__(self, name: str) -> Any:
            return getattr(bare.rows.client, name)

        def script_load(self, script: str) -> Any:
            loaded = bare.rows.client.script_load(script)
            if not self.forgot:
                self.forgot = True
                bare.rows.client.script_flush()
            return loaded

    forgetful = Forgetful()
    bare.rows.client.script_flush()
    row = table(FORM, [(("h",), START, 1.0)])
    assert RedisRows(forgetful, bare.url).write_rows(Layout.of(FORM), row, 1).written == 1
    assert forgetful.forgot


# What is read


def test_keys_asked_for_twice_unknown_or_null_keep_their_places(bare: Bare) -> None:
    bare.rows.write_rows(Layout.of(FORM), table(FORM, [(("a",), START, 1.0)]), 1)
    bare.rows.write_rows(Layout.of(PAIR), table(PAIR, [(("t", "j"), START, 2.0)]), 1)
    form, pair = bare.rows.read_packed(
        [(Layout.of(FORM), ["a", None, "b", "a"]), (Layout.of(PAIR), [("t", "j"), ("t", None), ("j", "t")])]
    )
    assert form.present.tolist() == [True, False, False, True]
    assert pair.present.tolist() == [True, False, False]
    assert np.isnat(form.event_timestamp).tolist() == [False, True, True, False]
    assert form.event_timestamp[0] == np.datetime64(START.replace(tzinfo=None))
    assert form.values.shape == (4, len(FORM.features))


def test_a_row_is_stale_from_its_valid_until_on(bare: Bare) -> None:
    bare.rows.write_rows(Layout.of(FORM), table(FORM, [(("a",), START, 1.0)]), 1)
    (read,) = bare.rows.read_packed([(Layout.of(FORM), ["a", "b"])])
    until = np.datetime64((START + timedelta(days=1)).replace(tzinfo=None))
    assert read.stale(until).tolist() == [True, False]
    assert read.stale(until - np.timedelta64(1, "us")).tolist() == [False, False]


def test_a_row_packed_under_another_list_of_columns_is_absent_and_not_misread(bare: Bare) -> None:
    layout = Layout.of(FORM)
    renamed = Layout(layout.view, layout.keys, (("other", "int32"), *layout.columns[1:]))
    shorter = Layout(layout.view, layout.keys, layout.columns[1:])
    bare.rows.write_rows(layout, table(FORM, [(("a",), START, 1.0)]), 1)
    for other in (renamed, shorter):
        (read,) = bare.rows.read_packed([(other, ["a"])])
        assert not read.present[0]
        assert np.isnan(read.values).all()


def test_nothing_asked_is_nothing_read(bare: Bare) -> None:
    assert bare.rows.read_packed([]) == []
    (read,) = bare.rows.read_packed([(Layout.of(FORM), [])])
    assert read.values.shape == (0, len(FORM.features))


# What is refused, and what is left alone


def test_keys_that_are_null_or_no_text_are_refused(bare: Bare) -> None:
    good = table(FORM, [(("a",), START, 1.0)])
    for keys, said in ((pa.array([None], pa.string()), "is null in 1 rows"), (pa.array([7]), "a key is text")):
        with pytest.raises(UserError, match=said):
            bare.rows.write_rows(Layout.of(FORM), good.set_column(0, "horse_id", keys), 1)


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
    from feature_repo.stores.parts import add_part

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


def test_the_service_gives_every_feature_under_full_names(made: MadeUp) -> None:
    """The on-demand ones too, which stock Feast drops from such an answer, with the values they have alone."""
    feast: FeatureStore = made.feast
    entities = [{key: key_values(key, 9)[at] for key in KEYS} | REQUEST for at in range(9)]
    read = feast.get_online_features(feast.get_feature_service("velo_v1"), entities, full_feature_names=True).to_dict()
    assert {ref.replace(":", "__") for ref in [*stored_refs(), *on_demand_refs()]} <= set(read)
    alone = feast.get_online_features(on_demand_refs(), [{"horse_id": one["horse_id"]} | REQUEST for one in entities])
    for ref in on_demand_refs():
        assert read[ref.replace(":", "__")] == alone.to_dict()[ref.split(":")[1]]
