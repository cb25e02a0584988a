"""Local days of the store's time zone, as whole numbers."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from velo.racing.clock import EPOCH, MICROSECOND, local_date, local_midnight
from velo.racing.measures import days_since_1970


def to_us(instant: datetime) -> int:
    """Microseconds since 1970 UTC of an aware instant."""
    return (instant - EPOCH) // MICROSECOND


def from_us(instant_us: int) -> datetime:
    """The aware UTC instant of microseconds since 1970."""
    return EPOCH + timedelta(microseconds=instant_us)


class LocalDays:
    """Which local day an instant belongs to, and when a local day begins; remembers what it was asked."""

    def __init__(self, timezone: ZoneInfo) -> None:
        self.timezone = timezone
        self._midnights: dict[int, int] = {}
        self._day = 0
        self._begins_us = self._ends_us = 0

    def midnight_us(self, day: int) -> int:
        """The first instant of a local day, which is 23 or 25 hours from the next where the clock changes."""
        found = self._midnights.get(day)
        if found is None:
            found = to_us(local_midnight((EPOCH + timedelta(days=day)).date(), self.timezone))
            self._midnights[day] = found
        return found

    def day_of(self, instant_us: int) -> int:
        """The local day an instant falls on."""
        if not self._begins_us <= instant_us < self._ends_us:
            self._day = days_since_1970(local_date(from_us(instant_us), self.timezone))
            self._begins_us, self._ends_us = self.midnight_us(self._day), self.midnight_us(self._day + 1)
        return self._day
