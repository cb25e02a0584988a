"""The newest row of a key is what Redis holds, whoever writes and however often, and it is read back as it was offered."""

import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.support.changelogs import START
from tests.support.redis_writer import table
from velo.errors import UserError
from velo.feature_repo.catalogue.families import BY_VIEW
from velo.feature_repo.stores.redis_client import connect_url
from velo.feature_repo.stores.redis_layout import Layout
from velo.feature_repo.stores.redis_rows import RedisRows
from velo.feature_repo.stores.redis_writer import RowWriter, WriteCounts

FORM, TRAINER, PAIR = BY_VIEW["horse_form"], BY_VIEW["trainer_velocity"], BY_VIEW["partnership_velocity"]


@dataclass(frozen=True)
class Bare:
    """A Redis with nothing in it, what writes rows to it and what reads them."""

    url: str
    writer: RowWriter
    rows: RedisRows


@pytest.fixture
def bare(redis_url: str) -> Bare:
    client = connect_url(redis_url)
    client.flushdb()
    return Bare(redis_url, RowWriter(client, redis_url), RedisRows(client, redis_url))


def held(bare: Bare, family: Any, *keys: tuple[str, ...]) -> list[float | None]:
    """The first feature of each key, None where null or absent."""
    (read,) = bare.rows.read_packed([(Layout.of(family), keys)])
    return [None if np.isnan(value) else float(value) for value in read.values[:, 0]]


# What replaces what


def test_only_a_newer_row_replaces_a_row(bare: Bare) -> None:
    layout = Layout.of(FORM)

    def offer(day: int, value: float, epoch: int = 1) -> WriteCounts:
        return bare.writer.write_rows(layout, table(FORM, [(("h",), START + timedelta(days=day), value)]), epoch)

    assert offer(2, 2.0) == WriteCounts(1, 0)
    assert offer(1, 1.0) == WriteCounts(0, 1)
    assert offer(2, 9.0) == WriteCounts(0, 1)
    assert held(bare, FORM, ("h",)) == [2.0]
    assert offer(3, 3.0) == WriteCounts(1, 0)
    assert held(bare, FORM, ("h",)) == [3.0]


def test_corrected_formulas_replace_values_of_the_same_instant_and_old_ones_none_of_the_new(bare: Bare) -> None:
    layout = Layout.of(FORM)
    row = table(FORM, [(("h",), START, 1.0)])
    assert bare.writer.write_rows(layout, row, epoch=9).written == 1
    mended = table(FORM, [(("h",), START, 2.0)])
    assert bare.writer.write_rows(layout, mended, epoch=10).written == 1
    later_by_old = table(FORM, [(("h",), START + timedelta(days=30), 3.0)])
    assert bare.writer.write_rows(layout, later_by_old, epoch=9).written == 0
    assert held(bare, FORM, ("h",)) == [2.0]


def test_a_microsecond_is_enough_and_years_before_1970_sort_too(bare: Bare) -> None:
    layout, old = Layout.of(FORM), datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    for step, value in ((0, 0.0), (2, 2.0), (1, 1.0)):
        instant = old + timedelta(microseconds=step)
        bare.writer.write_rows(layout, table(FORM, [(("h",), instant, value)]), 1)
    (read,) = bare.rows.read_packed([(layout, ["h"])])
    assert read.values[0, 0] == 2.0
    assert read.event_timestamp[0] == np.datetime64("1970-01-01T00:00:00.000001")


def test_a_null_in_the_new_row_leaves_no_value_of_the_old(bare: Bare) -> None:
    layout = Layout.of(FORM)
    bare.writer.write_rows(layout, table(FORM, [(("h",), START, 5.0)]), 1)
    bare.writer.write_rows(layout, table(FORM, [(("h",), START + timedelta(days=1), None)]), 1)
    fields = set(bare.writer.client.hkeys(layout.redis_key(("h",))))
    assert fields == {b"_ts:horse_form", b"_ver:horse_form", b"_pk:horse_form"}
    (read,) = bare.rows.read_packed([(layout, ["h"])])
    assert read.present[0]
    assert np.isnan(read.values).all()
    assert np.isnat(read.valid_until[0])


def test_within_one_batch_the_newest_row_of_a_key_wins_in_whatever_order(bare: Bare) -> None:
    days = [3, 9, 1, 9, 4]
    rows = [(("h",), START + timedelta(days=day), float(at)) for at, day in enumerate(days)]
    assert bare.writer.write_rows(Layout.of(FORM), table(FORM, rows), 1) == WriteCounts(2, 3)
    assert held(bare, FORM, ("h",)) == [1.0]


def test_every_arrow_chunk_is_written(bare: Bare) -> None:
    chunks = [table(TRAINER, [((f"t{at}",), START, float(at))]) for at in range(7)]
    whole = pa.concat_tables(chunks)
    assert whole.column(0).num_chunks == 7
    assert bare.writer.write_rows(Layout.of(TRAINER), whole, 1) == WriteCounts(7, 0)
    assert held(bare, TRAINER, *[(f"t{at}",) for at in range(7)]) == [float(at) for at in range(7)]


def test_more_keys_than_a_batch_holds_are_all_written_and_read_back(bare: Bare) -> None:
    count = 6_500
    rows = table(FORM, [((f"h{at}",), START, float(at)) for at in range(count)])
    found: list[int] = []
    assert bare.writer.write_rows(Layout.of(FORM), rows, 1, found.append) == WriteCounts(count, 0)
    assert sum(found) == count
    assert held(bare, FORM, *[(f"h{at}",) for at in range(count)]) == [float(at) for at in range(count)]


def test_two_writers_at_once_leave_the_newest_row_of_every_key(bare: Bare) -> None:
    """One writes forwards, one backwards, the same keys at the same time; no key ends on an older row."""
    program = [sys.executable, "-m", "tests.support.redis_writer", bare.url]
    writers = [subprocess.Popen([*program, *map(str, days)]) for days in ([*range(0, 40, 2)], [*range(39, 0, -2)])]
    assert [writer.wait(100) for writer in writers] == [0, 0]
    assert set(held(bare, FORM, *[(f"h{at}",) for at in range(300)])) == {39.0}


def test_a_server_that_forgot_the_script_gets_it_again(bare: Bare) -> None:
    class Forgetful:
        """A client whose server forgets its scripts once, right after they were loaded."""

        forgot = False

        def __getattr__(self, name: str) -> Any:
            return getattr(bare.writer.client, name)

        def script_load(self, script: str) -> Any:
            loaded = bare.writer.client.script_load(script)
            if not self.forgot:
                self.forgot = True
                bare.writer.client.script_flush()
            return loaded

    forgetful = Forgetful()
    bare.writer.client.script_flush()
    row = table(FORM, [(("h",), START, 1.0)])
    assert RowWriter(forgetful, bare.url).write_rows(Layout.of(FORM), row, 1).written == 1
    assert forgetful.forgot


# What is read


def test_keys_asked_for_twice_unknown_or_null_keep_their_places(bare: Bare) -> None:
    bare.writer.write_rows(Layout.of(FORM), table(FORM, [(("a",), START, 1.0)]), 1)
    bare.writer.write_rows(Layout.of(PAIR), table(PAIR, [(("t", "j"), START, 2.0)]), 1)
    form, pair = bare.rows.read_packed(
        [(Layout.of(FORM), ["a", None, "b", "a"]), (Layout.of(PAIR), [("t", "j"), ("t", None), ("j", "t")])]
    )
    assert form.present.tolist() == [True, False, False, True]
    assert pair.present.tolist() == [True, False, False]
    assert np.isnat(form.event_timestamp).tolist() == [False, True, True, False]
    assert form.event_timestamp[0] == np.datetime64(START.replace(tzinfo=None))
    assert form.values.shape == (4, len(FORM.features))


def test_a_row_is_stale_from_its_valid_until_on(bare: Bare) -> None:
    bare.writer.write_rows(Layout.of(FORM), table(FORM, [(("a",), START, 1.0)]), 1)
    (read,) = bare.rows.read_packed([(Layout.of(FORM), ["a", "b"])])
    until = np.datetime64((START + timedelta(days=1)).replace(tzinfo=None))
    assert read.stale(until).tolist() == [True, False]
    assert read.stale(until - np.timedelta64(1, "us")).tolist() == [False, False]


def test_a_row_packed_under_another_list_of_columns_is_absent_and_not_misread(bare: Bare) -> None:
    layout = Layout.of(FORM)
    renamed = Layout(layout.view, layout.keys, (("other", "int32"), *layout.columns[1:]))
    shorter = Layout(layout.view, layout.keys, layout.columns[1:])
    bare.writer.write_rows(layout, table(FORM, [(("a",), START, 1.0)]), 1)
    for other in (renamed, shorter):
        (read,) = bare.rows.read_packed([(other, ["a"])])
        assert not read.present[0]
        assert np.isnan(read.values).all()


def test_nothing_asked_is_nothing_read(bare: Bare) -> None:
    assert bare.rows.read_packed([]) == []
    (read,) = bare.rows.read_packed([(Layout.of(FORM), [])])
    assert read.values.shape == (0, len(FORM.features))


# What is refused


def test_keys_that_are_null_or_no_text_are_refused(bare: Bare) -> None:
    good = table(FORM, [(("a",), START, 1.0)])
    for keys, said in ((pa.array([None], pa.string()), "is null in 1 rows"), (pa.array([7]), "a key must be text")):
        with pytest.raises(UserError, match=said):
            bare.writer.write_rows(Layout.of(FORM), good.set_column(0, "horse_id", keys), 1)
