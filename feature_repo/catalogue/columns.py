"""The columns a model may see: every feature of the catalogue by its full name, and how a row of them is put together.

One implementation for training and serving: both bring the stored values, the request-time ones and the race's own,
by name, and get the same matrix, to the last bit. numpy alone.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import date
from hashlib import blake2b
from itertools import chain
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from velo.errors import UserError
from velo.feature_repo.catalogue import request_time
from velo.feature_repo.catalogue.aggregates import Sum
from velo.feature_repo.catalogue.families import BY_VIEW, FAMILIES
from velo.feature_repo.catalogue.within_race import names_of, stacked, within_race

Floats = NDArray[np.float64]

ON_DEMAND: Final = request_time.SINCE_LAST_RUN.name
"""Name of Feast's on-demand view of the horse's last start, which prefixes its features."""

STORED: Final = tuple(f"{family.view}__{feature.name}" for family in FAMILIES for feature in family.features)
_DAYS: Final = frozenset(
    f"{family.view}__{feature.name}" for family in FAMILIES for feature in family.features if feature.calendar
)
CALENDAR: Final = _DAYS | {
    f"{view.name}__{feature.name}"
    for view in request_time.VIEWS
    for feature in view.features
    if feature.is_calendar(_DAYS)
}
"""The columns that mostly encode a date. A model must not see them: it would learn the calendar."""
REQUESTED: Final = tuple(name for view in request_time.VIEWS for name in view.columns)
"""The features made at request time."""
ASKED: Final = ("race_class", "distance_m", "weight_lbs", "official_rating", "draw", "body_weight_lbs")
"""The columns of the race and the runner itself: those of `request_time.REQUEST` without the day, which is the calendar."""
IN_HAND: Final = {
    "in_hand_last": "horse_ability__figure_last",
    "in_hand_ewma": "horse_ability__figure_ewma",
    "in_hand_best": "horse_ability__figure_best",
    "in_hand_peak": "horse_ability__figure_peak",
}
"""Pounds in hand: each of these less the weight carried now. The scale differs by race: compare runners of one race only."""
CAREER_MIDPOINT: Final = "seasoned_days"
"""Days from the mean day of a horse's starts to the race: half the length of its career if the starts are evenly spread."""
WEIGHT_SHARE: Final = "weight_share"
"""The weight carried as a share of the horse's body weight."""
BODY_CHANGE: Final = "body_weight_change_lbs"
"""The horse's body weight less that of its last start."""
ELO_HORSE_JOCKEY: Final = "elo_ridden"
"""The sum of a horse's Elo rating and that of its jockey today."""
ELO_TOTAL: Final = "elo_foretold"
"""The sum of a runner's Elo ratings. The difference between two runners of a race predicts their market odds, in doublings."""
DERIVED: Final = (*IN_HAND, CAREER_MIDPOINT, WEIGHT_SHARE, BODY_CHANGE, ELO_HORSE_JOCKEY, ELO_TOTAL)
"""The columns that are computed from other columns of the same runner."""
LED: Final = "horse_running__led"
RIVALS_LED: Final = "rivals_led"
"""How many of a runner's rivals are likely to lead: the sum of the shares of their starts that they led."""

COMPARED: Final = (
    "trainer_velocity__sr_14d",
    "trainer_velocity__sr_90d",
    "trainer_velocity__prb_90d",
    "trainer_velocity__ae_90d",
    "jockey_velocity__sr_30d",
    "jockey_velocity__sr_90d",
    "jockey_velocity__prb_90d",
    "jockey_velocity__ae_90d",
    "partnership_velocity__sr_365d",
    "partnership_velocity__prb_365d",
    "horse_form__starts",
    "horse_form__sr",
    "horse_form__place_rate",
    "horse_form__prb",
    "horse_form__prb_last",
    "horse_form__prb_ewma",
    "horse_form__prb_best",
    "horse_form__market_last",
    "horse_form__market_ewma",
    "horse_form__lengths_ewma",
    "horse_course__prb",
    "horse_distance__prb",
    "horse_going__prb",
    "draw_bias__iv_shrunk_1095d",
    "draw_bias__prb_1095d",
    f"{ON_DEMAND}__days_since_last_run",
    f"{ON_DEMAND}__rating_change",
    "horse_ability__over",
    "horse_ability__over_last",
    "horse_ability__over_ewma",
    "horse_ability__market_log",
    "horse_ability__market_log_last",
    "horse_ability__market_log_ewma",
    "horse_ability__pace_last",
    "horse_ability__pace_ewma",
    "horse_ability__pace_best",
    "horse_ability__speed",
    "horse_ability__speed_last",
    "horse_ability__speed_ewma",
    "horse_ability__speed_best",
    "jockey_course__prb_1095d",
    "jockey_course__over_1095d",
    "horse_course_distance__prb",
    "horse_course_distance__over",
    "horse_course_distance__market_log",
    "horse_course_distance__speed",
    "horse_running__early_ewma",
    "horse_running__early_speed_ewma",
    "horse_running__late_speed_ewma",
    "horse_running__late_speed_best",
    "horse_running__finishing_ewma",
    "horse_elo__elo",
    "jockey_elo__elo",
    "trainer_elo__elo",
    "draw_elo__elo",
    "horse_course_distance__elo",
    *DERIVED,
    "weight_lbs",
    "body_weight_lbs",
    "official_rating",
    "draw",
)
"""Features that pay for being set against the rest of the race: each adds its rank and its z-score."""

BASE: Final = (*STORED, *REQUESTED, *ASKED)
_MADE: Final = (*BASE, *DERIVED, RIVALS_LED)
COLUMNS: Final = (*_MADE, *names_of(COMPARED))

_CAREER: Final = ("horse_form__last_race_day", f"{ON_DEMAND}__days_since_last_run", "horse_ability__day")
_BODY: Final = ("weight_lbs", "body_weight_lbs", "horse_ability__body_weight_last")
_ELO: Final = tuple(
    f"{view}__elo" for view in ("horse_elo", "jockey_elo", "trainer_elo", "draw_elo", "horse_course_distance")
)
_MADE_OF: Final[Mapping[str, tuple[str, ...]]] = {
    **{name: (figure, "weight_lbs") for name, figure in IN_HAND.items()},
    CAREER_MIDPOINT: _CAREER,
    WEIGHT_SHARE: _BODY[:2],
    BODY_CHANGE: _BODY[1:],
    ELO_HORSE_JOCKEY: _ELO[:2],
    ELO_TOTAL: _ELO,
    RIVALS_LED: (LED,),
    **{made: (name,) for name in COMPARED for made in names_of((name,))},
}
"""The columns that each computed column reads."""

_STORED: Final = frozenset(STORED)
_REQUEST_FEATURES: Final = {
    name: feature for view in request_time.VIEWS for name, feature in zip(view.columns, view.features, strict=True)
}
_PLACE: Final = {name: at for at, name in enumerate(COLUMNS)}


def refuse_missing(read: Iterable[str], module: str, columns: Container[str] = _PLACE) -> None:
    """Raise `UserError` for a column that the code of a module reads and the catalogue does not have."""
    for name in read:
        if name not in columns:
            raise UserError(f"the catalogue has no {name!r}, which {module} reads: rename it there too, or remove it")


_RATED: Final = "official_rating"
_OF_RATINGS: Final = (_RATED, "horse_form__last_rating", f"{ON_DEMAND}__rating_change")
refuse_missing(chain(*_MADE_OF.values(), _OF_RATINGS), "velo/feature_repo/catalogue/columns.py")
_COMPARED_AT: Final = np.array([_PLACE[name] for name in COMPARED])
_IN_HAND_AT: Final = np.array([_PLACE[name] for name in IN_HAND.values()])
_WEIGHT_AT: Final = _PLACE["weight_lbs"]
_DAYS_AT: Final = np.array([_PLACE[name] for name in _CAREER])
_LED_AT: Final = _PLACE[LED]
_DAY_1970: Final = date(1970, 1, 1).toordinal()
_BODY_AT: Final = np.array([_PLACE[name] for name in _BODY])
_ELO_AT: Final = np.array([_PLACE[name] for name in _ELO])

_RATED_AT: Final = _PLACE[_RATED]
_OF_RATINGS_AT: Final = np.array([_PLACE[name] for name in _OF_RATINGS])

_LAYOFF: Final = f"{ON_DEMAND}__layoff_band"
_LAYOFF_CODES: Final = {name: float(code) for code, name in enumerate((*request_time.LAYOFF_BANDS, request_time.DEBUT))}


def requested(inputs: Mapping[str, ArrayLike]) -> dict[str, NDArray[np.float64] | NDArray[np.object_]]:
    """The columns of `REQUESTED`, from what the race says and the columns of `STORED`, by full names."""
    return {
        name: values
        for view in request_time.VIEWS
        for name, values in zip(view.columns, view.computed(inputs).values(), strict=True)
    }


def inputs_of(names: Iterable[str]) -> set[str]:
    """The columns of `BASE` that some columns are computed from; raises `UserError` for one that is not declared."""
    wanted, found = set(names), set[str]()
    refuse_unknown(wanted)
    while wanted:
        name = wanted.pop()
        if name in BASE:
            found.add(name)
        wanted.update(_MADE_OF.get(name, ()))
    return found


def stored_of(names: Iterable[str]) -> list[tuple[str, str]]:
    """The stored features that some columns read, (view, feature), sorted; also those that request-time features read."""
    inputs = inputs_of(names)
    read = {tuple(name.split("__", 1)) for name in inputs if name in _STORED}
    read |= {
        (stored.view, stored.feature)
        for name in inputs & _REQUEST_FEATURES.keys()
        for stored in _REQUEST_FEATURES[name].stored
    }
    return sorted((view, feature) for view, feature in read)


def views_of(names: Iterable[str]) -> tuple[str, ...]:
    """The stored views that some columns read, sorted."""
    return tuple(dict.fromkeys(view for view, _ in stored_of(names)))


def request_formulas(names: Iterable[str] = REQUESTED) -> dict[str, str]:
    """The fingerprint of the formula of each request-time feature that some columns read, by full name."""
    inputs = inputs_of(names)
    return {
        name: blake2b(text.encode(), digest_size=8).hexdigest()
        for view in request_time.VIEWS
        for name, text in view.definitions.items()
        if name in inputs
    }


def marker_of(view: str) -> str:
    """A column of a view that is null only where the view has no row: a sum."""
    family = BY_VIEW[view]
    sums = [aggregate.name for aggregate in family.career if isinstance(aggregate, Sum)]
    sums += [
        f"{aggregate.name}_{family.windows[0]}d"
        for aggregate in family.windowed
        if isinstance(aggregate, Sum) and family.windows
    ]
    return f"{view}__{sums[0]}"


def refuse_unknown(names: Iterable[str]) -> None:
    """Raise `UserError` for a column that the catalogue does not declare, such as one that is known after the race."""
    strange = sorted(set(names) - set(COLUMNS))
    if strange:
        raise UserError(
            f"{', '.join(strange)} {'is' if len(strange) == 1 else 'are'} no feature of the catalogue: a model may see "
            "only what is declared in feature_repo/catalogue"
        )


def matrix(base: Mapping[str, ArrayLike], race: ArrayLike) -> Floats:
    """Rows of `COLUMNS`, (runners, columns), NaN for null.

    `base` has the columns of `BASE`, each (runners,): numbers with NaN for null, the lay-off band as its text or None.
    `race` is (runners,), whole numbers: the race of each row. All declared runners of a race must be present, because they are
    compared with each other.

    Ratings are null for a whole race in which a runner has none. Results are often collected years later, and whether a horse has a
    rating then can depend on whether it had retired: a missing rating would leak the future.
    """
    return _filled(base, 0, race)


def matrix_beside(stored: Floats, base: Mapping[str, ArrayLike], race: ArrayLike) -> Floats:
    """As `matrix`, with the columns of `STORED` as an array, (runners, columns); `base` has the others."""
    return _filled(base, len(STORED), race, stored)


def places(names: Sequence[str]) -> tuple[int, ...]:
    """The indices of columns in `COLUMNS`; raises `UserError` for one that the catalogue does not declare."""
    refuse_unknown(names)
    return tuple(_PLACE[name] for name in names)


def layoff_band(code: float) -> str | None:
    """The band that a code in the matrix stands for; None for NaN."""
    return next((name for name, of in _LAYOFF_CODES.items() if of == code), None)


def _filled(base: Mapping[str, ArrayLike], first: int, race: ArrayLike, stored: Floats | None = None) -> Floats:
    table = np.empty((len(np.asarray(race)), len(COLUMNS)), dtype=np.float64)
    if stored is not None:
        table[:, :first] = stored
    for place, name in enumerate(BASE[first:], first):
        table[:, place] = _codes(base[name]) if name == _LAYOFF else np.asarray(base[name], dtype=np.float64)
    table[np.ix_(_partly_rated(table[:, _RATED_AT], race), _OF_RATINGS_AT)] = np.nan
    table[:, len(BASE) : len(_MADE) - 1] = _derived(table)
    table[:, len(_MADE) - 1] = _rivals_total(table[:, _LED_AT], race)
    table[:, len(_MADE) :] = stacked(within_race(table[:, _COMPARED_AT], race))
    return table


def _derived(table: Floats) -> Floats:
    """The columns of `DERIVED`."""
    in_hand = table[:, _IN_HAND_AT] - table[:, _WEIGHT_AT, None]
    last, since, mean = table[:, _DAYS_AT].T
    carried, body, body_last = table[:, _BODY_AT].T
    share = np.divide(carried, body, out=np.full(body.shape, np.nan), where=body > 0)
    horse, *others = table[:, _ELO_AT].T
    # an unrated jockey, trainer, draw or distance counts as 0; an unrated horse makes both sums unknown
    jockey, trainer, draw, course_distance = map(np.nan_to_num, others)
    horse_jockey = horse + jockey
    elo_total = horse_jockey + trainer + draw + course_distance
    return np.column_stack([in_hand, last + since + _DAY_1970 - mean, share, body - body_last, horse_jockey, elo_total])


def _rivals_total(values: Floats, race: ArrayLike) -> Floats:
    """The sum of a share over the other runners of each race, (runners,); unknown shares count as 0.

    In billionths, so that the order of the runners does not change a bit.
    """
    races = np.unique(np.asarray(race), return_inverse=True)[1].reshape(-1)
    shares = np.rint(np.nan_to_num(values) * 1e9)
    return np.asarray((np.bincount(races, shares)[races] - shares) / 1e9 if shares.size else shares)


def _partly_rated(ratings: Floats, race: ArrayLike) -> NDArray[np.bool_]:
    """Whether each runner's race has a runner without a rating, (runners,)."""
    numbers = np.asarray(race)
    return np.asarray(np.isin(numbers, numbers[np.isnan(ratings)]), dtype=np.bool_)


def _codes(bands: ArrayLike) -> Floats:
    """Lay-off bands as numbers in their order, a debut last; numbers are unchanged."""
    given = np.asarray(bands)
    if given.dtype.kind == "f":
        return given
    return np.array([np.nan if band is None else _LAYOFF_CODES[band] for band in given.tolist()], dtype=np.float64)
