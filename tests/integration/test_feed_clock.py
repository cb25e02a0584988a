"""The clock of a follower: messages are stamped on arrival, and each local midnight is appended."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.feeds import Listed, drained, encoded, sent, sent_result, ticking
from tests.support.logs import NOON, fixed, held, logged, told
from velo.racing.messages import GoingChange, Result, Tick
from velo.storage.log import reader
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.feeds.follow import follow

HOUR = timedelta(hours=1)


def test_a_message_is_stamped_on_arrival_and_says_where_it_came_from(store: Store) -> None:
    body = encoded(sent_result(known_at="2020-01-01T00:00:00Z"))
    drained(store, Listed(body), fixed(NOON + HOUR))
    record = next(iter(reader.records(store.home)))
    assert record["known_at"] == "2024-05-01T12:00:00.000000Z"
    assert record["origin"] == {"feed": "listed", "at": "0"}


@pytest.mark.parametrize(
    ("day", "hours"),
    [((2024, 5, 2), 24), ((2024, 3, 31), 23), ((2024, 10, 27), 25)],
    ids=["an ordinary day", "the 23-hour day", "the 25-hour day"],
)
def test_the_midnights_that_pass_while_it_follows_are_sent_at_once(
    store: Store, day: tuple[int, int, int], hours: int
) -> None:
    """An idle feed, a clock that goes on by a quarter of an hour each time it is read: both midnights of a day."""
    first = datetime(*day, tzinfo=store.timezone).astimezone(UTC)
    second = first + hours * HOUR
    logged(store, GoingChange("R1", "Good", first - 3 * HOUR))
    clock = ticking(HOUR / 4, first - 2 * HOUR)
    stop = threading.Event()

    class Idle(Listed):
        def take(self, limit: int, wait_s: float) -> list[Any]:
            assert 0 < wait_s <= 1
            if len(held(store)) == 4:
                stop.set()
            return []

    report = follow(store, Idle([]), clock=clock, stop=stop)
    ticks = [message for message in held(store) if isinstance(message, Tick)]
    before = datetime(*day, tzinfo=store.timezone) - timedelta(days=1)
    assert [tick.midnight for tick in ticks] == [before.astimezone(UTC), first, second]
    assert all(timedelta() < (tick.known_at or NOON) - tick.midnight <= HOUR for tick in ticks[1:])
    assert report.ticks == 3


def test_a_midnight_that_passes_within_a_batch_is_sent_between_its_messages(store: Store) -> None:
    midnight = datetime(2024, 5, 1, 23, 0, tzinfo=UTC)
    bodies = encoded(*(sent("going_change", f"R{number}", going="Good") for number in range(8)))
    drained(store, Listed(bodies), ticking(timedelta(seconds=10), midnight - timedelta(minutes=1)))
    messages = held(store)
    place = next(
        at for at, message in enumerate(messages) if isinstance(message, Tick) and message.midnight == midnight
    )
    known = [message.known_at for message in messages]
    assert 1 < place < len(messages) - 1
    assert known[place - 1] < midnight < known[place] < known[place + 1]  # type: ignore[operator]


def test_an_empty_log_is_not_ticked_so_that_history_can_still_be_loaded(store: Store) -> None:
    assert drained(store, Listed([])).ticks == 0
    with LogWriter.open(store, clock=fixed()) as writer:
        assert writer.load([told()]).appended == 1


def test_a_clock_set_back_by_years_sends_no_good_result_to_the_dead_letters(store: Store) -> None:
    """The log's clock stands later than the machine's: by that a result is judged, and by that it is stamped."""
    logged(store, GoingChange("R0", "Good", NOON + HOUR))
    report = drained(store, Listed(encoded(sent_result("R1"), sent_result("R2"))), fixed(NOON - timedelta(days=2000)))
    assert (report.appended, report.dead_letters, report.refused) == (2, 0, {})
    results = [message for message in held(store) if isinstance(message, Result)]
    assert [result.race_id for result in results] == ["R1", "R2"]
    # the tick of the midnight that the machine knows of comes before them
    assert [result.known_at for result in results] == [NOON + HOUR + n * timedelta(microseconds=1) for n in (2, 3)]


def test_a_result_of_a_day_to_come_by_the_logs_clock_is_still_refused(store: Store) -> None:
    logged(store, GoingChange("R0", "Good", NOON - 400 * timedelta(days=1)))
    report = drained(store, Listed(encoded(sent_result())), fixed(NOON - timedelta(days=2000)))
    assert report.refused == {"race_date later than known_at": 1}
