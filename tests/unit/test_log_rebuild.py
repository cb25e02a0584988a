"""`velo log rebuild`: a new log in place of the old, which is kept."""

from datetime import timedelta

import pytest

from tests.integration.test_log import OTHER_RUNNERS
from tests.support.logs import NOON, a_store, bytes_of, fixed, held, logged, told
from velo.errors import UserError
from velo.racing.messages import GoingChange
from velo.storage.log import reader
from velo.storage.log.format import generation, segments
from velo.storage.log.rebuild import rebuild
from velo.storage.log.writer import LogWriter
from velo.storage.store import Home, Store

HOUR = timedelta(hours=1)


def test_a_rebuilt_log_holds_the_old_messages_and_the_new_in_the_order_they_became_known(store: Store) -> None:
    going = GoingChange("R1", "Soft", NOON - HOUR)
    logged(store, going, told("R1", NOON))
    before = bytes_of(store.home)
    done = rebuild(store, [told("R0", NOON - 2 * HOUR)], clock=fixed())
    assert held(store) == [told("R0", NOON - 2 * HOUR), going, told("R1", NOON)]
    assert (done.load.appended, done.kept, done.superseded) == (3, 2, 0)
    assert done.replaced is not None
    assert {path.name: path.read_bytes() for path in done.replaced.glob("*.ndjson")} == before
    assert reader.check(store.home) == []


def test_a_result_of_the_files_takes_the_place_of_the_one_held(store: Store) -> None:
    """The one way to correct a version: the log before, with the mistake in it, stays beside."""
    logged(store, told("R1", NOON), told("R2", NOON))
    mended = told("R1", NOON, runners=OTHER_RUNNERS)
    done = rebuild(store, [mended], clock=fixed())
    assert held(store)[0] == mended
    assert (done.kept, done.superseded) == (1, 1)


def test_what_came_through_a_feed_keeps_its_unknown_fields_and_its_place(store: Store) -> None:
    """The old records but for where they stand: what nobody knew yet, and from where in which feed they came."""
    with LogWriter.open(store, clock=fixed(NOON)) as writer:
        writer.append(GoingChange("R1", "Soft"), {"stick": 4.2}, {"feed": "redis:x", "at": "1-0"})
        writer.append(told("R1", NOON), {"prize": {"first": 5000}}, {"feed": "redis:x", "at": "2-0"})
    before = list(reader.records(store.home))
    rebuild(store, [told("R0", NOON - HOUR)], clock=fixed())
    after = list(reader.records(store.home))[1:]
    framing = ("crc", "seq")
    assert [{name: each[name] for name in each if name not in framing} for each in after] == [
        {name: each[name] for name in each if name not in framing} for each in before
    ]
    assert [each["origin"]["at"] for each in after] == ["1-0", "2-0"]
    assert reader.check(store.home) == []


def test_fresh_leaves_out_what_the_old_log_held_even_where_it_is_damaged(store: Store) -> None:
    logged(store, told("R1"), told("R2"), told("R3"))
    path = segments(store.home)[0].path
    path.write_bytes(path.read_bytes().replace(b'"race_id":"R1"', b'"race_id":"R7"'))
    with pytest.raises(UserError, match="add --fresh"):
        rebuild(store, [told("R9")], clock=fixed())
    assert segments(store.home)[0].path == path
    rebuild(store, [told("R9")], fresh=True, clock=fixed())
    assert held(store) == [told("R9")]


def test_every_replaced_log_is_kept_and_counted(store: Store) -> None:
    logged(store, told("R1"))
    kept = [rebuild(store, [told(f"R{number}")], clock=fixed()).replaced for number in (2, 3)]
    assert [path.name for path in kept if path] == ["log.replaced-0", "log.replaced-1"]
    assert generation(store.home) == 2
    assert len(held(store)) == 3
    logged(store, told("R4", NOON + HOUR))
    assert len(held(store)) == 4


def test_a_log_being_written_is_not_replaced(store: Store) -> None:
    with LogWriter.open(store, clock=fixed()), pytest.raises(UserError, match="is being written by process"):
        rebuild(store, [told()], clock=fixed())


@pytest.mark.parametrize("left", ["log.building", "log.next"])
def test_what_a_killed_rebuild_left_is_cleared_by_the_next(store: Store, left: str) -> None:
    """Killed while it was built, or before it took the log's place."""
    logged(store, told("R1"))
    unfinished = a_store(store.home.root / "elsewhere")
    rebuild(unfinished, [told("R8")], clock=fixed())
    unfinished.home.log.rename(store.home.root / left)
    rebuild(store, [told("R2")], clock=fixed())
    assert [message.race_id for message in held(store)] == ["R1", "R2"]
    assert not (store.home.root / left).exists()


def test_a_rebuild_killed_after_the_swap_loses_neither_log(store: Store) -> None:
    logged(store, told("R1"))
    done = rebuild(store, [told("R2")], clock=fixed())
    assert done.replaced is not None
    done.replaced.rename(store.home.root / "log.next")
    rebuild(store, [told("R3", NOON + HOUR)], clock=fixed())
    assert [message.race_id for message in held(store)] == ["R1", "R2", "R3"]
    assert (store.home.root / "log.replaced-0").is_dir()


def test_a_rebuild_killed_between_two_renames_is_ended_by_the_next_writer(store: Store) -> None:
    """Where the system cannot swap two names at once."""
    logged(store, told("R1"))
    home = Home(store.home.root)
    home.log.rename(home.root / "log.next")
    logged(store, told("R2", NOON + HOUR))
    assert [message.race_id for message in held(store)] == ["R1", "R2"]
