"""Amended results: placings reversed, disqualifications, corrected distances, void races, successful appeals."""

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
    """One version of a result, one entry per declared runner; units and missing values as in `race_day.RunOutcome`."""

    status: Ints
    position: Ints
    beaten_lengths: Floats
    finish_time_s: Floats

    def of(self, runners: Ints) -> "Placings":
        """The placings of some runners."""
        return Placings(
            self.status[runners], self.position[runners], self.beaten_lengths[runners], self.finish_time_s[runners]
        )

    @classmethod
    def concatenated(cls, parts: Sequence["Placings"]) -> "Placings":
        """Concatenate placings."""
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
    """The later versions of a race: one, and sometimes a second that restores the first after an appeal.

    Empty for a race with nothing to amend (void, or fewer than three placed).
    """
    if (first.position > 0).sum() < 3:
        return []
    changes: tuple[Callable[[np.random.Generator, Placings], Placings], ...] = (
        _reversed,
        _disqualified,
        _corrected,
        _voided,
    )
    change = changes[int(rng.choice(4, p=(0.34, 0.36, 0.20, 0.10)))]
    second = PublishedVersion(2, _later(rng, known_at), change(rng, first))
    if rng.random() >= _APPEALED:
        return [second]
    return [second, PublishedVersion(3, _later(rng, second.known_at), first)]


def _later(rng: np.random.Generator, known_at: datetime) -> datetime:
    """From eight minutes to a month later; from the next day on within office hours."""
    delay_s = int(np.exp(rng.uniform(np.log(480.0), np.log(30 * 86_400.0))))
    then = known_at + timedelta(seconds=delay_s)
    if delay_s < 4 * 3600:
        return then
    day = max(then.date(), known_at.date() + timedelta(days=1))
    return datetime.combine(day, _MORNING, tzinfo=UTC) + timedelta(seconds=int(rng.integers(0, _WORKDAY_S)))


def _reversed(_rng: np.random.Generator, was: Placings) -> Placings:
    """Swap first and second (of a dead heat for first, two of its horses)."""
    order = np.flatnonzero(was.position > 0)
    order = order[np.argsort(was.position[order], kind="stable")]
    first, second = int(order[0]), int(order[1])
    now = replace(was, **{name: getattr(was, name).copy() for name in ("position", "beaten_lengths", "finish_time_s")})
    for values in (now.position, now.beaten_lengths, now.finish_time_s):
        values[first], values[second] = values[second], values[first]
    if was.position[first] == was.position[second]:
        # The dead heat is resolved: one horse is a nose behind.
        now.position[second], now.beaten_lengths[second] = (was.position == 1).sum(), 0.05
    return now


def _disqualified(rng: np.random.Generator, was: Placings) -> Placings:
    """Disqualify the winner or another of the first three; horses behind move up, with lengths from the new winner."""
    out = int(rng.choice(np.flatnonzero((was.position > 0) & (was.position <= (1 if rng.random() < 0.7 else 3)))))
    status, position, lengths, seconds = (
        was.status.copy(), was.position.copy(), was.beaten_lengths.copy(), was.finish_time_s.copy()
    )  # fmt: skip
    status[out], position[out], lengths[out], seconds[out] = DSQ, 0, np.nan, np.nan
    placed = position > 0
    position[placed] = (position[placed][:, None] > position[placed][None, :]).sum(axis=1) + 1
    lengths[placed] = np.round(lengths[placed] - np.min(lengths[placed]), 2)
    return Placings(status, position, lengths, seconds)


def _corrected(rng: np.random.Generator, was: Placings) -> Placings:
    """Correct the distances: all scaled by one factor, the order unchanged."""
    factor = float(rng.choice((0.8, 0.9, 1.1, 1.25)))
    lengths = np.ceil(was.beaten_lengths * factor * 20.0) / 20.0
    return replace(was, beaten_lengths=np.round(lengths, 2))


def _voided(_rng: np.random.Generator, was: Placings) -> Placings:
    """Void the race: no horse is placed, and non-runners stay non-runners."""
    blank = np.full(len(was.status), np.nan)
    return Placings(np.where(was.status == NR, NR, VOID), np.zeros_like(was.position), blank, blank)
