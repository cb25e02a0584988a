"""Results that are published again: placings reversed, disqualifications, mended distances, races voided, appeals
upheld.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta

import numpy as np

from velo.simulator.race_day import DSQ, NR, VOID
from velo.simulator.segments import Floats, Ints

_APPEALED = 0.2
_MORNING, _WORKDAY_S = time(9, 30), 7 * 3600


@dataclass(frozen=True)
class Placings:
    """One version of a race's result, one entry a declared runner; units and blanks as in `race_day.RunOutcome`."""

    status: Ints
    position: Ints
    beaten_lengths: Floats
    finish_time_s: Floats

    def of(self, runners: Ints) -> "Placings":
        """Those runners' placings alone."""
        return Placings(
            self.status[runners], self.position[runners], self.beaten_lengths[runners], self.finish_time_s[runners]
        )

    @classmethod
    def joined(cls, parts: Sequence["Placings"]) -> "Placings":
        """The placings of several races in one."""
        return cls(
            np.concatenate([part.status for part in parts]),
            np.concatenate([part.position for part in parts]),
            np.concatenate([part.beaten_lengths for part in parts]),
            np.concatenate([part.finish_time_s for part in parts]),
        )


@dataclass(frozen=True)
class PublishedVersion:
    """A result as published: `number` counts from 1, `known_at` is UTC."""

    number: int
    known_at: datetime
    placings: Placings


def amend(rng: np.random.Generator, first: Placings, known_at: datetime) -> list[PublishedVersion]:
    """The later versions of a race: one, and now and then a second that upholds an appeal and restores the first.

    Empty for a race that offers nothing to amend (void, or fewer than three placed).
    """
    if (first.position > 0).sum() < 3:
        return []
    changes: tuple[Callable[[np.random.Generator, Placings], Placings], ...] = (
        _reversed,
        _disqualified,
        _mended,
        _voided,
    )
    change = changes[int(rng.choice(4, p=(0.34, 0.36, 0.20, 0.10)))]
    second = PublishedVersion(2, _later(rng, known_at), change(rng, first))
    if rng.random() >= _APPEALED:
        return [second]
    return [second, PublishedVersion(3, _later(rng, second.known_at), first)]


def _later(rng: np.random.Generator, known_at: datetime) -> datetime:
    """From eight minutes to a month on; from the next day on within office hours."""
    delay_s = int(np.exp(rng.uniform(np.log(480.0), np.log(30 * 86_400.0))))
    then = known_at + timedelta(seconds=delay_s)
    if delay_s < 4 * 3600:
        return then
    day = max(then.date(), known_at.date() + timedelta(days=1))
    return datetime.combine(day, _MORNING, tzinfo=UTC) + timedelta(seconds=int(rng.integers(0, _WORKDAY_S)))


def _reversed(_rng: np.random.Generator, was: Placings) -> Placings:
    """First and second change places (all of a dead heat go together: then the second is one of them)."""
    order = np.flatnonzero(was.position > 0)
    order = order[np.argsort(was.position[order], kind="stable")]
    one, two = int(order[0]), int(order[1])
    now = replace(was, **{name: getattr(was, name).copy() for name in ("position", "beaten_lengths", "finish_time_s")})
    for values in (now.position, now.beaten_lengths, now.finish_time_s):
        values[one], values[two] = values[two], values[one]
    if was.position[one] == was.position[two]:
        # A dead heat divided after all: the judge's second look finds one of them a nose behind.
        now.position[two], now.beaten_lengths[two] = (was.position == 1).sum(), 0.05
    return now


def _disqualified(rng: np.random.Generator, was: Placings) -> Placings:
    """The winner, or another of the first three, is disqualified; those behind move up, measured from the winner."""
    out = int(rng.choice(np.flatnonzero((was.position > 0) & (was.position <= (1 if rng.random() < 0.7 else 3)))))
    status, position, lengths, seconds = (
        was.status.copy(), was.position.copy(), was.beaten_lengths.copy(), was.finish_time_s.copy()
    )  # fmt: skip
    status[out], position[out], lengths[out], seconds[out] = DSQ, 0, np.nan, np.nan
    placed = position > 0
    position[placed] = (position[placed][:, None] > position[placed][None, :]).sum(axis=1) + 1
    lengths[placed] = np.round(lengths[placed] - np.min(lengths[placed]), 2)
    return Placings(status, position, lengths, seconds)


def _mended(rng: np.random.Generator, was: Placings) -> Placings:
    """The distances were wrong: all stretched or shrunk alike, the order stands."""
    factor = float(rng.choice((0.8, 0.9, 1.1, 1.25)))
    lengths = np.ceil(was.beaten_lengths * factor * 20.0) / 20.0
    return replace(was, beaten_lengths=np.round(lengths, 2))


def _voided(_rng: np.random.Generator, was: Placings) -> Placings:
    """The race is declared void: nobody is placed, who did not run still did not."""
    blank = np.full(len(was.status), np.nan)
    return Placings(np.where(was.status == NR, NR, VOID), np.zeros_like(was.position), blank, blank)
