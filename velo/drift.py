"""What the values of features looked like in a model's training set, and how the values of other race days differ from that.

The unit is the race day: the runners of a day share its meetings, so its rows are not independent. Day by day the values are
compared with those of the training set under the same conditions (course, distance band, going), because the mix of races changes
from day to day.

Features are columns of doubles, NaN for null; a histogram has `BINS` bins by quantile of the training set and a last for null.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from io import BytesIO
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from velo.change_detection import LEAST_DAYS, Noise

Floats = NDArray[np.float64]
Dates = NDArray[np.datetime64]
Indices = NDArray[np.intp]
Conditions = NDArray[np.str_]

BINS: Final = 10
CHANNELS: Final = ("mean", "null share", "shape")
"""What alarms watch of each feature: the mean in standard deviations, the share of nulls, and the Jensen-Shannon divergence in bits."""
MOST_OFF: Final = 4.0
"""Values count as at most this many standard deviations from the mean, so that one value cannot move a day's mean."""
CONDITIONS: Final = ("course", "distance_band", "going_group")
"""The conditions of a race whose mix is allowed for."""
FORTNIGHT: Final = 14
"""Days of the training set are compared with a profile of the other fortnights, as later days are with one of all."""
ALL_ROWS: Final = 60.0
"""The weight, in rows, of all rows together in the values under one condition; conditions with fewer rows are strange."""
STRANGE: Final = 0.2
"""The weight of a runner under conditions that the training set has few rows of."""
LEAST_SHARE: Final = 1e-4
"""The smallest share of a bin in a PSI: an empty bin has a logarithm too."""


@dataclass(frozen=True, slots=True)
class Cohorts:
    """The values of some race days by day and feature, (days, features), in order of time.

    `rows` counts runners by day, `weights` those under conditions that the training set hardly has as `STRANGE` each. `channels` are the deviations from the training set under the same conditions, (days, `CHANNELS`,
    features), NaN where a day has no value. `counts` are histograms, (days, features, `BINS` + 1), `expected` the shares of the
    training set at the courses of the day. `least` and `most` are NaN, and `distinct` is 0, where every value is null.
    """

    days: Dates
    rows: Indices
    weights: Floats
    channels: Floats
    counts: Floats
    expected: Floats
    least: Floats
    most: Floats
    distinct: Floats

    def last(self, days: int) -> "Pooled":
        """The last race days together; raises `ValueError` for cohorts without a day."""
        if not self.days.size:
            raise ValueError("there is no race day")
        rows = self.rows[-days:]
        counts = self.counts[-days:].sum(axis=0)
        expected = (self.expected[-days:] * rows[:, None, None]).sum(axis=0) / rows.sum()
        known = counts[:, :-1].sum(axis=1)
        with np.errstate(invalid="ignore"):
            distinct = np.where(known > 0, self.distinct[-days:].sum(axis=0) / known, np.nan)
        shares = counts / rows.sum()
        return Pooled(
            self.days[-days:],
            int(rows.sum()),
            counts[:, -1] / rows.sum(),
            np.fmin.reduce(self.least[-days:]),
            np.fmax.reduce(self.most[-days:]),
            distinct,
            psi(shares, expected),
            jensen_shannon(shares, expected),
        )


@dataclass(frozen=True, slots=True)
class Pooled:
    """The values of some race days together, by feature; `distinct` is the mean share of distinct values among those of a day."""

    days: Dates
    rows: int
    null_share: Floats
    least: Floats
    most: Floats
    distinct: Floats
    psi: Floats
    js: Floats


@dataclass(frozen=True, slots=True)
class Profile:
    """The values of a training set, (features,) each: what later values are compared with.

    `edges` are (features, `BINS` − 1), NaN where values are tied; `histogram` has shares, (features, `BINS` + 1). `conditions` are
    the courses, distance bands and goings, each as `kind=name`; `effects` is what each adds to the mean, in standard deviations,
    and to the share of nulls, (conditions, 2, features), and `condition_rows` counts its rows. `courses` have the shares of their bins in `course_histogram`. Both are
    drawn towards all rows where there are few. `noise` is how the days of the training set deviate, None for too few days.
    """

    features: tuple[str, ...]
    days: Dates
    rows: int
    mean: Floats
    sd: Floats
    least: Floats
    most: Floats
    distinct: Floats
    edges: Floats
    histogram: Floats
    conditions: tuple[str, ...]
    condition_rows: Indices
    effects: Floats
    courses: tuple[str, ...]
    course_histogram: Floats
    noise: Noise | None = None

    @classmethod
    def of(cls, features: Sequence[str], values: Floats, days: Dates, conditions: Conditions) -> "Profile":
        """The profile of some rows: values (rows, features), the local race date of each, and its `CONDITIONS`, (rows, 3)."""
        # column by column is how it is read
        values = np.asfortranarray(values)
        made = cls._without_noise(features, values, days, conditions)
        cohorts = made.cohorts(values, days, conditions)
        distinct = cohorts.last(cohorts.days.size).distinct
        if cohorts.days.size < LEAST_DAYS:
            return replace(made, distinct=distinct)
        # as later days are: compared with a profile of other days
        channels, weights = np.empty_like(cohorts.channels), np.empty_like(cohorts.weights)
        half = (days.astype("datetime64[D]").astype(np.int64) // FORTNIGHT) % 2 == 0
        for part in (half, ~half):
            if part.any() and not part.all():
                other = cls._without_noise(features, values[~part], days[~part], conditions[~part])
                of_part = other.cohorts(values[part], days[part], conditions[part], with_distinct=False)
                at = np.searchsorted(cohorts.days, of_part.days)
                channels[at], weights[at] = of_part.channels, of_part.weights
        later = days >= cohorts.days[cohorts.days.size // 2]
        before = cls._without_noise(features, values[~later], days[~later], conditions[~later])
        beyond = before.cohorts(values[later], days[later], conditions[later], with_distinct=False)
        # in standard deviations of the whole training set, as later days are
        beyond.channels[:, 0] *= _scales(before.sd) / _scales(made.sd)
        noise = Noise.of(cohorts.days, weights, channels, (beyond.weights, beyond.channels))
        return replace(made, distinct=distinct, noise=noise)

    @classmethod
    def _without_noise(cls, features: Sequence[str], values: Floats, days: Dates, conditions: Conditions) -> "Profile":
        names, course = np.unique(conditions[:, 0], return_inverse=True)
        levels, level = np.unique(_named(conditions), return_inverse=True)
        level = level.reshape(len(conditions), -1)
        combined = *_combinations(level), levels.size
        every = [_Column.of(values[:, at], course, names.size, *combined) for at in range(len(features))]
        mean, sd, least, most = (
            np.array([getattr(column, name) for column in every], dtype=np.float64)
            for name in ("mean", "sd", "least", "most")
        )
        return cls(
            features=tuple(features),
            days=np.unique(days),
            rows=days.size,
            mean=mean,
            sd=sd,
            least=least,
            most=most,
            distinct=np.zeros(len(every)),
            edges=np.array([column.edges for column in every]),
            histogram=np.array([column.histogram for column in every]),
            conditions=tuple(levels.tolist()),
            condition_rows=np.bincount(level.reshape(-1), minlength=levels.size),
            effects=np.moveaxis(np.array([column.effects for column in every]), 0, 2),
            courses=tuple(names.tolist()),
            course_histogram=np.array([column.shares for column in every]).swapaxes(0, 1),
        )

    def cohorts(self, values: Floats, days: Dates, conditions: Conditions, *, with_distinct: bool = True) -> Cohorts:
        """The race days of some rows, in any order, compared with this profile; `distinct` is 0 unless it is wanted."""
        order = np.argsort(days, kind="stable")
        # column by column is how it is read
        values, days, conditions = np.asfortranarray(values[order]), days[order], conditions[order]
        dates, day = np.unique(days, return_inverse=True)
        course, level = _places(self.courses, conditions[:, 0]), _places(self.conditions, _named(conditions))
        rows = np.bincount(day, minlength=dates.size)
        mix = np.bincount(day * (len(self.courses) + 1) + course + 1, minlength=dates.size * (len(self.courses) + 1))
        shares = mix.reshape(dates.size, -1) / np.maximum(rows, 1)[:, None]
        # a condition that the training set does not have adds nothing
        known = np.concatenate([self.histogram[None], self.course_histogram])
        expected = np.tensordot(shares, known, axes=1)
        combinations, combination = _combinations(level)
        known_rows = np.append(self.condition_rows, 0)[level[:, -1]]
        of_rows = np.where(known_rows < ALL_ROWS, STRANGE, 1.0)
        weights = np.bincount(day, of_rows, dates.size).astype(np.float64)
        effects = np.concatenate([np.zeros((1, *self.effects.shape[1:])), self.effects])
        counts = np.zeros((dates.size, len(self.features), BINS + 1))
        mean, nulls, least, most = (np.full((dates.size, len(self.features)), np.nan) for _ in range(4))
        distinct = np.zeros_like(mean)
        begins = np.searchsorted(days, dates)
        for at in range(len(self.features)):
            column = values[:, at]
            there = ~np.isnan(column)
            bins = _bins(self.edges[at], column)
            counts[:, at] = np.bincount(day * (BINS + 1) + bins, minlength=dates.size * (BINS + 1)).reshape(
                -1, BINS + 1
            )
            usual = effects[combinations + 1, :, at].sum(axis=1)[combination]
            off = np.where(there, _off(column, self.mean[at], self.sd[at]) - usual[:, 0], 0.0)
            with np.errstate(invalid="ignore"):
                mean[:, at] = np.bincount(day, off, dates.size) / np.bincount(day, there, dates.size)
            nulls[:, at] = np.bincount(day, ~there - self.histogram[at, -1] - usual[:, 1], dates.size) / rows
            if dates.size:
                least[:, at] = np.fmin.reduceat(column, begins)
                most[:, at] = np.fmax.reduceat(column, begins)
            if with_distinct:
                distinct[:, at] = _distinct(column, day, dates.size)
        taken = counts / np.maximum(rows, 1)[:, None, None]
        # a sample differs from what it is drawn from: without this, small days would look different
        by_chance = (np.count_nonzero(expected, axis=2) - 1) / (8 * np.log(2) * np.maximum(rows, 1)[:, None])
        shape = jensen_shannon(taken, expected) - np.maximum(by_chance, 0.0)
        channels = np.stack([mean, nulls, shape], axis=1)
        return Cohorts(dates, rows, weights, channels, counts, expected, least, most, distinct)

    def null_share(self) -> Floats:
        """The share of nulls of each feature."""
        return self.histogram[:, -1]

    def fields(self) -> dict[str, Any]:
        """The fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to_bytes(self) -> bytes:
        """As stored: arrays in a compressed file of numpy, without pickled objects; equal profiles give equal bytes."""
        stored = self.fields()
        stored |= {name: stored[name].astype(np.float32) for name in ("course_histogram", "effects")}
        noise = stored.pop("noise")
        arrays = {name: np.asarray(value) for name, value in stored.items()}
        arrays |= {} if noise is None else {f"noise_{name}": value for name, value in noise.arrays().items()}
        out = BytesIO()
        np.savez_compressed(out, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for options
        return out.getvalue()

    @classmethod
    def from_bytes(cls, stored: bytes) -> "Profile":
        """As `to_bytes` stored it; raises `ValueError` for anything else."""
        try:
            with np.load(BytesIO(stored), allow_pickle=False) as arrays:
                read: Mapping[str, Any] = dict(arrays)
            noise = {name.removeprefix("noise_"): value for name, value in read.items() if name.startswith("noise_")}
            plain = {field.name: read[field.name] for field in fields(cls) if field.name != "noise"}
        except (OSError, KeyError, EOFError, BadZipFile) as damaged:
            raise ValueError(f"not a profile ({damaged})") from damaged
        plain |= {name: tuple(plain[name].tolist()) for name in ("features", "conditions", "courses")} | {
            "rows": int(plain["rows"])
        }
        plain |= {name: plain[name].astype(np.float64) for name in ("course_histogram", "effects")}
        return cls(**plain, noise=Noise(**noise) if noise else None)


def psi(shares: Floats, expected: Floats) -> Floats:
    """The population stability index over the last axis: Σ (p − q) ln(p ÷ q); 0 for equal shares."""
    p, q = np.maximum(shares, LEAST_SHARE), np.maximum(expected, LEAST_SHARE)
    return np.asarray(((p - q) * np.log(p / q)).sum(axis=-1), dtype=np.float64)


def jensen_shannon(shares: Floats, expected: Floats) -> Floats:
    """The Jensen-Shannon divergence over the last axis, in bits: 0 for equal shares, 1 for shares without a common bin."""
    middle = (shares + expected) / 2.0
    return (_relative(shares, middle) + _relative(expected, middle)) / 2.0


def _relative(shares: Floats, to: Floats) -> Floats:
    ratio = np.divide(shares, to, out=np.ones_like(to), where=shares > 0)
    return np.asarray((shares * np.log2(ratio)).sum(axis=-1), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class _Column:
    """One feature of a training set."""

    mean: float
    sd: float
    least: float
    most: float
    edges: Floats
    histogram: Floats
    effects: Floats
    shares: Floats

    @classmethod
    def of(
        cls, values: Floats, course: Indices, courses: int, combinations: Indices, combination: Indices, levels: int
    ) -> "_Column":
        there = ~np.isnan(values)
        held = values[there]
        edges = np.full(BINS - 1, np.nan)
        mean = sd = least = most = np.nan
        if held.size:
            mean, sd, least, most = held.mean(), held.std(), held.min(), held.max()
            cuts = np.unique(np.quantile(held, np.arange(1, BINS) / BINS, method="nearest"))
            edges[: cuts.size] = cuts
        bins = _bins(edges, values)
        histogram = np.bincount(bins, minlength=BINS + 1) / max(values.size, 1)
        of_course = np.bincount(course * (BINS + 1) + bins, minlength=courses * (BINS + 1)).reshape(courses, BINS + 1)
        shares = (of_course + ALL_ROWS * histogram) / (of_course.sum(axis=1, keepdims=True) + ALL_ROWS)
        off = np.where(there, _off(values, mean, sd), 0.0)
        nulls = ~there - histogram[-1]
        sums = [
            np.bincount(combination, of_rows, len(combinations)).astype(np.float64)
            for of_rows in (off, there, nulls, np.ones_like(off))
        ]
        effects = np.stack([_effects(off, there, combinations, levels) for off, there in (sums[:2], sums[2:])], axis=1)
        return cls(mean, sd, least, most, edges, histogram, effects, shares)


def _effects(off: Floats, there: Floats, combinations: Indices, levels: int) -> Floats:
    """What each condition adds to a mean, (levels,), kind by kind, each kind to what the ones before it leave.

    `off` and `there` are sums over the rows of each combination of conditions.
    """
    effects = np.zeros(levels)
    for of in combinations.T:
        added = np.bincount(of, off, levels) / (np.bincount(of, there, levels) + ALL_ROWS)
        effects += added
        off = off - there * added[of]
    return effects


def _combinations(level: Indices) -> tuple[Indices, Indices]:
    """The distinct rows of some conditions, (combinations, kinds), and which of them each row has, (rows,)."""
    levels = int(level.max(initial=0)) + 2
    packed = (level + 1) @ (levels ** np.arange(level.shape[1], dtype=np.int64))
    _, first, of = np.unique(packed, return_index=True, return_inverse=True)
    return level[first], np.asarray(of, dtype=np.intp)


def _named(conditions: Conditions) -> Conditions:
    """The conditions of each row by kind, and last all of them together, (rows, 4): a course and a going may have one name."""
    kinds = np.array([f"{kind}=" for kind in CONDITIONS])
    named = np.char.add(kinds, conditions.astype(np.str_))
    together = named[:, 0]
    for kind in range(1, len(CONDITIONS)):
        together = np.char.add(np.char.add(together, "|"), named[:, kind])
    return np.column_stack([named, together])


def _places(names: Sequence[str], asked: Conditions) -> Indices:
    """The place of each name, −1 for one that is not there."""
    place = {name: at for at, name in enumerate(names)}
    distinct, of = np.unique(asked, return_inverse=True)
    places = np.array([place.get(name, -1) for name in distinct.tolist()], dtype=np.intp)
    return np.asarray(places[of.reshape(asked.shape)], dtype=np.intp)


def _scales(sd: Floats) -> Floats:
    """What deviations are divided by; a feature that is constant in the training set is measured in its own units."""
    return np.where(sd > 0.0, sd, 1.0)


def _off(values: Floats, mean: float, sd: float) -> Floats:
    """Standard deviations from the mean."""
    return np.asarray(np.clip((values - mean) / _scales(np.array(sd)), -MOST_OFF, MOST_OFF), dtype=np.float64)


def _bins(edges: Floats, values: Floats) -> Indices:
    """The bin of each value; `BINS` for null."""
    place = np.searchsorted(edges[~np.isnan(edges)], values, side="left")
    return np.asarray(np.where(np.isnan(values), BINS, place), dtype=np.intp)


def _distinct(values: Floats, day: Indices, days: int) -> Floats:
    """The number of distinct values of each day."""
    there = ~np.isnan(values)
    held, of = values[there], day[there]
    order = np.lexsort((held, of))
    held, of = held[order], of[order]
    new = np.r_[True, (np.diff(held) != 0) | (np.diff(of) != 0)] if held.size else np.zeros(0, dtype=np.bool_)
    return np.bincount(of, new, days).astype(np.float64)
