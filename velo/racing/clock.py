"""Instants and local days. Every instant is an aware UTC datetime of whole microseconds."""

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RESULT_DELAY = timedelta(minutes=15)
"""A result without `known_at` is taken to be known this long after its off (contract 3)."""
YEARS = range(1800, 2200)
"""The years a date may be in; nanoseconds since 1970 in 64 bits hold them and every window after them."""
FIRST_OFF = time(13, 0)
"""Assumed local off of race 1; each later race is `RACE_INTERVAL` after the previous one."""
RACE_INTERVAL = timedelta(minutes=30)
DAY_US = 24 * 3600 * 10**6
"""A day of UTC."""
MIDNIGHTS_CACHED = 4096
"""The most midnights in the cache: more than twice those of the longest window."""


@lru_cache(maxsize=65536)
def local_midnight(day: date, timezone: ZoneInfo) -> datetime:
    """Return the first instant of a local date, in UTC; if the clock skips midnight, the instant of the jump."""
    return datetime(day.year, day.month, day.day, tzinfo=timezone).astimezone(UTC)


def local_date(instant: datetime, timezone: ZoneInfo) -> date:
    """Return the local date of an instant."""
    return instant.astimezone(timezone).date()


def is_local_midnight(instant: datetime, timezone: ZoneInfo) -> bool:
    """Whether an instant is the first of a local date."""
    return instant == local_midnight(local_date(instant, timezone), timezone)


def assumed_off(race_date: date, race_no: int | None, timezone: ZoneInfo) -> datetime:
    """Return the assumed off of a race without an off time: local 13:00 plus 30 minutes per earlier race (contract 3)."""
    first = datetime.combine(race_date, FIRST_OFF, tzinfo=timezone).astimezone(UTC)
    return first + RACE_INTERVAL * ((race_no or 1) - 1)


def next_known_at(claimed: datetime | None, last: datetime | None, timezone: ZoneInfo) -> datetime:
    """Return the `known_at` of the log's next message: later than the last, and never a local midnight (contract 2).

    A midnight belongs to the clock: expiry rows carry it, so no message may share it.
    """
    if last is not None and (claimed is None or claimed <= last):
        claimed = last + MICROSECOND
    if claimed is None:
        raise ValueError("the first message of a log needs an instant")
    return claimed + MICROSECOND if is_local_midnight(claimed, timezone) else claimed


def to_us(instant: datetime) -> int:
    """Return the microseconds since 1970 UTC of an aware instant."""
    return (instant - EPOCH) // MICROSECOND


def from_us(instant_us: int) -> datetime:
    """Return the aware UTC instant of microseconds since 1970."""
    return EPOCH + timedelta(microseconds=instant_us)


def to_text(instant: datetime) -> str:
    """Return ISO 8601 in UTC with six decimals and a Z, the only format used in the log."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def from_text(text: str) -> datetime:
    """Parse an ISO 8601 instant. Raises ValueError for text without a UTC offset, whose meaning would be a guess."""
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"{text!r} has no UTC offset")
    return instant.astimezone(UTC)


class LocalDays:
    """Which local day an instant is in, and when a local day begins; caches each midnight."""

    def __init__(self, timezone: ZoneInfo) -> None:
        self.timezone = timezone
        self._midnights: dict[int, int] = {}

    def midnight_us(self, day: int) -> int:
        """The first instant of a local day, which is 23 or 25 hours from the next where the clock changes."""
        found = self._midnights.get(day)
        if found is None:
            if len(self._midnights) >= MIDNIGHTS_CACHED:
                self._midnights.clear()
            found = to_us(local_midnight((EPOCH + timedelta(days=day)).date(), self.timezone))
            self._midnights[day] = found
        return found

    def day_of(self, instant_us: int) -> int:
        """The local day of an instant."""
        # a zone is at most 14 hours from UTC, so the local day is the UTC day or one beside it
        day = instant_us // DAY_US
        if instant_us < self.midnight_us(day):
            return day - 1
        return day if instant_us < self.midnight_us(day + 1) else day + 1
