"""Readers of the tables see one whole generation, whatever builds, dies or compacts meanwhile."""

import json
import random
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter, sleep

import duckdb
import pyarrow.parquet as pq
import pytest

from benchmarks.stores import forkserver
from tests.support.cli import velo
from tests.support.engine import reading
from tests.support.logs import a_store, logged
from tests.support.stores import NOW, a_season, rows_apart, tables_of, twin_of
from velo.errors import UserError
from velo.feature_repo.catalogue.families import FAMILIES
from velo.feature_repo.stores.parts import Snapshot, add_part
from velo.racing.messages import Message
from velo.storage import table_versions
from velo.storage.store import Store
from velo.streams.aggregation.ratings import MEASURES
from velo.streams.batch import rating
from velo.streams.batch.build import build, compact

pytestmark = pytest.mark.slow

KILLS = 10
Pieces = Sequence[Sequence[Message]]
processes = forkserver()


@pytest.fixture(scope="module")
def season() -> list[Message]:
    """A small season's results; other processes get the whole of it."""
    return a_season(days=45)


def pieces_of(messages: list[Message], count: int) -> list[list[Message]]:
    """The messages in order, in `count` pieces of one size but for the last."""
    size = -(-len(messages) // count)
    return [messages[begun : begun + size] for begun in range(0, len(messages), size)]


def go_on_building(home: Path, pieces: Pieces) -> None:
    """In a process of its own: a build for each piece of the log, every third one followed by a compaction."""
    store = a_store(home)
    for number, piece in enumerate(pieces):
        logged(store, *piece)
        build(store, NOW)
        if number % 3 == 2:
            compact(store)


def build_and_compact(home: Path, begun: Connection) -> None:
    """In a process of its own: say that it begins, then do it."""
    begun.send("begun")
    build(a_store(home), NOW)
    compact(a_store(home))


def build_until_told(home: Path, said: Connection) -> None:
    """In a process of its own: a build that stops half-way until it hears from `said`."""

    def half_way(step: str, done: int, steps: int) -> None:
        if done == steps // 2:
            said.send("half-way")
            said.recv()

    build(a_store(home), NOW, progress=half_way)


def look(store: Store) -> bool:
    """Read every view in one snapshot and hold each against the generation's manifest.

    False where the snapshot was outrun: two generations were published since it was taken, and its own is gone.
    """
    snapshot = Snapshot()
    seen: dict[str, int] = {}
    folder = snapshot.folder(store.home.offline / FAMILIES[0].view).parent
    with suppress(FileNotFoundError, duckdb.IOException):
        manifest = table_versions.manifest_of(folder)
        with reading() as connection:
            for family in FAMILIES:
                parts = snapshot.parts(store.home.offline / family.view)
                query = "SELECT count(*), count(*) FILTER (event_timestamp <= $known_at) FROM read_parquet($parts)"
                bound = {"parts": parts, "known_at": manifest.known_at}
                [(rows, found)] = connection.execute(query, bound).fetchall() if parts else [(0, 0)]
                assert rows == found
                seen[family.view] = rows
        if not _outrun(store, folder):
            assert seen == manifest.rows
            return True
    assert _outrun(store, folder)
    return False


def _outrun(store: Store, folder: Path) -> bool:
    """Whether a generation is no longer among those kept (it may be half removed already)."""
    now = table_versions.current(store.home)
    return now is not None and int(now.name) - int(folder.name) >= table_versions.KEPT


def test_a_reader_never_sees_half_while_builds_and_compactions_go_on(tmp_path: Path, season: list[Message]) -> None:
    """All views of one snapshot stand at one position of the log, the one their manifest says."""
    store = a_store(tmp_path)
    first, *rest = pieces_of(season, 7)
    logged(store, *first)
    build(store, NOW)
    builder = processes.Process(target=go_on_building, args=(tmp_path, rest))
    builder.start()
    seen, outrun = set(), 0
    while builder.is_alive():
        seen.add(table_versions.current(store.home))
        outrun += not look(store)
    builder.join()
    assert builder.exitcode == 0
    assert look(store)
    assert len(seen) > 4
    assert outrun <= len(seen)


@pytest.mark.prove
def test_a_build_killed_at_any_moment_loses_and_harms_nothing(tmp_path: Path, season: list[Message]) -> None:
    """Ten builds killed at random moments, readers right after each; the next build is as if none had been."""
    chance = random.Random(11)
    store = a_store(tmp_path / "killed")
    first, second, *rest = pieces_of(season, KILLS + 2)
    logged(store, *first)
    build(store, NOW)
    logged(store, *second)
    # a build of one piece takes far less time than the first
    began = perf_counter()
    build(store, NOW)
    compact(store)
    longest = perf_counter() - began
    killed = 0
    for piece in rest:
        logged(store, *piece)
        here, there = processes.Pipe()
        builder = processes.Process(target=build_and_compact, args=(store.home.root, there))
        builder.start()
        there.close()  # so that a builder that fails is heard, not waited for
        assert here.recv() == "begun"
        sleep(chance.uniform(0, longest))  # the moment is the test: any is right
        builder.kill()
        builder.join()
        killed += builder.exitcode != 0
        assert look(store)
    assert killed > KILLS // 3
    build(store, NOW)
    twin = twin_of(store, tmp_path / "undisturbed")
    build(twin, NOW)
    assert rows_apart(store, twin) == []
    assert not [path for path in store.home.batch.iterdir() if path.name.startswith((".", "scratch"))]
    assert not [path for path in store.home.generations.iterdir() if path.suffix == ".tmp"]
    assert len([path for path in store.home.generations.iterdir() if path.is_dir()]) == table_versions.KEPT


def test_a_second_build_at_the_same_time_is_refused_in_one_line(tmp_path: Path, season: list[Message]) -> None:
    """By the function, the compaction and the command alike; the first build ends as if nobody had asked."""
    store = a_store(tmp_path)
    logged(store, *season[:20])
    here, there = processes.Pipe()
    builder = processes.Process(target=build_until_told, args=(tmp_path, there))
    builder.start()
    there.close()
    assert here.recv() == "half-way"
    with pytest.raises(UserError, match="another build is writing") as refused:
        build(store, NOW)
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="another build is writing"):
        compact(store)
    velo("build", home=tmp_path).told("another build is writing")
    here.send("go on")
    builder.join()
    assert builder.exitcode == 0
    assert look(store)


def test_compaction_keeps_every_value_and_the_reader_that_came_before_it(tmp_path: Path, season: list[Message]) -> None:
    """One part a view where there were several; the next build goes on from there and is still right."""
    store = a_store(tmp_path / "compacted")
    *pieces, last = pieces_of(season, 4)
    for piece in pieces:
        logged(store, *piece)
        build(store, NOW)
    before = tables_of(store)
    reader = {family.view: Snapshot().parts(store.home.offline / family.view) for family in FAMILIES}
    assert compact(store) == {view: len(parts) for view, parts in reader.items()} == dict.fromkeys(reader, 3)
    assert {len(Snapshot().parts(store.home.offline / view)) for view in reader} == {1}
    assert tables_of(store) == before
    with reading() as connection:
        for view, parts in reader.items():
            query = "SELECT count(*) FROM read_parquet($parts)"
            assert connection.execute(query, {"parts": parts}).fetchall() == [(len(before[view]),)]
    assert look(store)
    logged(store, *last)
    assert not build(store, NOW).whole
    twin = twin_of(store, tmp_path / "whole")
    build(twin, NOW)
    assert rows_apart(store, twin) == []


def test_compaction_before_any_build_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `velo build` first"):
        compact(a_store(tmp_path))


def test_a_whole_build_that_ends_before_it_rates_leaves_what_was_kept(
    tmp_path: Path, season: list[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts measured by then have names of their own; the next plain build goes on from those of before."""
    store = a_store(tmp_path / "ended")
    first, rest = pieces_of(season, 2)
    logged(store, *first)
    build(store, NOW)
    kept = {path.name for path in store.home.batch.glob("*.parquet")}
    with monkeypatch.context() as patched:
        patched.setattr(rating, "_add_gains", ended)
        with pytest.raises(KeyboardInterrupt):
            build(store, NOW, whole=True)
    assert kept < {path.name for path in store.home.batch.glob("*.parquet")}
    logged(store, *rest)
    assert not build(store, NOW).whole
    assert len(list(store.home.batch.glob("*.parquet"))) == 2 * len(kept)
    twin = twin_of(store, tmp_path / "undisturbed")
    build(twin, NOW)
    assert rows_apart(store, twin) == []


def ended(*_given: object) -> None:
    raise KeyboardInterrupt


def test_parts_kept_under_names_that_were_used_again_are_measured_again(tmp_path: Path, season: list[Message]) -> None:
    """A store of before, in which a killed whole build left parts that were never rated: the next build corrects it."""
    store = a_store(tmp_path / "before")
    first, rest = pieces_of(season, 2)
    logged(store, *first)
    build(store, NOW)
    record = store.home.batch / "measured.json"
    written = json.loads(record.read_bytes())
    written.pop("layout")
    record.write_text(json.dumps(written))
    for path in store.home.batch.glob("starts-*.parquet"):
        unrated = pq.read_table(path).drop_columns(list(MEASURES))
        path.unlink()
        pq.write_table(unrated, path)
    logged(store, *rest)
    build(store, NOW)
    twin = twin_of(store, tmp_path / "undisturbed")
    build(twin, NOW)
    assert rows_apart(store, twin) == []


def test_a_generation_that_was_never_current_does_not_take_the_place_of_the_one_before(
    tmp_path: Path, season: list[Message]
) -> None:
    """A reader that resolved the link before the last build still finds its files."""
    store = a_store(tmp_path)
    first, second = pieces_of(season, 2)
    logged(store, *first)
    build(store, NOW)
    reader = table_versions.current(store.home)
    assert reader is not None
    orphan = store.home.generations / f"{int(reader.name) + 1:06d}"
    orphan.mkdir()
    logged(store, *second)
    build(store, NOW)
    assert {path for path in store.home.generations.iterdir() if path.is_dir()} == {
        reader,
        table_versions.current(store.home),
    }
    assert table_versions.manifest_of(reader).next_seq == len(first)


def test_compacting_again_at_the_same_position_keeps_every_row(tmp_path: Path, season: list[Message]) -> None:
    """As where rows were added through Feast since the last compaction."""
    store = a_store(tmp_path)
    first, second = pieces_of(season, 2)
    for piece in (first, second):
        logged(store, *piece)
        build(store, NOW)
    compact(store)
    before = tables_of(store)
    table = store.home.offline / FAMILIES[0].view
    added = pq.read_table(Snapshot().parts(table)[0]).slice(0, 1)
    add_part(table, added)
    compact(store)
    assert len(Snapshot().parts(table)) == 1
    after = tables_of(store)
    assert len(after[FAMILIES[0].view]) == len(before[FAMILIES[0].view]) + 1
    assert set(after[FAMILIES[0].view]) == set(before[FAMILIES[0].view])
