"""Local days and midnights of the store's time zone, as whole numbers."""

from datetime import timedelta
from typing import Final
from zoneinfo import ZoneInfo

from velo.racing.clock import EPOCH, local_midnight, to_us

DAY_US: Final = 24 * 3600 * 10**6
"""A day of UTC."""

REMEMBERED: Final = 4096
"""The most midnights in the cache: more than twice those of the longest window."""


class LocalDays:
    """Which local day an instant is in, and when a local day begins; caches each midnight."""

    def __init__(self, timezone: ZoneInfo) -> None:
        self.timezone = timezone
        self._midnights: dict[int, int] = {}

    def midnight_us(self, day: int) -> int:
        """The first instant of a local day, which is 23 or 25 hours from the next where the clock changes."""
        found = self._midnights.get(day)
        if found is None:
            if len(self._midnights) >= REMEMBERED:
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
