"""In-running data of a simulated season: calls, sections, trips, derived from its results by each horse's running style.

Every horse has a lasting style, from held up to front-running, so its early places repeat. From the first call to the finish a
field moves from that order to the order of the result, and the section times fit the finishing times. The data hold
the placings and the styles, and nothing else of a horse's ability. Results, prices and cards stay as they are.
"""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from velo.racing.messages import IN_RUNNING
from velo.simulator.segments import Floats, Ints, Segments

_STYLE_WEIGHT: Final = 0.8
"""The share of a horse's early place that is its style; the rest is chance."""
_FRONT_RUNNER: Final = 1.0
"""A style above this wants the lead; each such starter makes the first section faster."""
_LAST_CALL_WEIGHT: Final = 0.6
"""The share of the finishing order in the order at the last call."""
_SLOW_AWAY: Final = 0.04
_SLOW_AWAY_LOSS: Final = 2.0
_HAMPERED: Final = (0.03, 0.06)
"""The chance of a clear run spoilt for the leader at the first call, and what is added for the last horse."""
_FIRST_SHARE: Final = 0.26
_BEFORE_LAST_SHARE: Final = 0.755
"""The shares of the winner's time at which the leader passes the first and the last call: a start, and a slower middle."""
_SECONDS_A_PLACE: Final = 0.13
_MOST_SECONDS_BEHIND: Final = 2.0
_DID_NOT_START: Final = ("NR", "VOID")
_TYPES: Final = {name: pa.bool_() if name in ("slow_away", "hampered") else pa.int32() for name in IN_RUNNING}


def in_running(season: pa.Table, seed: int) -> pa.Table:
    """The runner table of a season with the columns of `IN_RUNNING`, null for runners that did not start.

    Every version of a result has the data of the first. A starter that did not finish has a first call alone, and a race without
    times has no sections. The same season and seed give the same data on one numpy version.
    """
    first = pc.equal(season["result_version"], 1)
    started = pc.invert(pc.is_in(season["status"], pa.array(_DID_NOT_START)))
    starters = season.filter(pc.and_(first, started))
    made = _made(np.random.default_rng([seed, 5]), starters) if starters.num_rows else {}
    of = pc.index_in(_keys(season), value_set=_keys(starters))
    of = pc.if_else(started, of, pa.scalar(None, pa.int32()))
    at = season.schema.get_field_index("sp_decimal") + 1
    for place, (name, kind) in enumerate(_TYPES.items(), at):
        values = made.get(name, pa.nulls(0)).cast(kind)
        season = season.add_column(place, name, values.take(of))
    return season


def _keys(rows: pa.Table) -> pa.Array:
    keys = pc.binary_join_element_wise(rows["race_id"], rows["horse_id"], "\n")
    return keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys


def _made(rng: np.random.Generator, starters: pa.Table) -> dict[str, pa.Array]:
    """The columns of the starters of first results, whose races lie together."""
    races = Segments.of(starters["race_id"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64))
    horse = np.unique(starters["horse_id"].to_numpy(zero_copy_only=False), return_inverse=True)[1]
    style = rng.normal(0.0, 1.0, int(horse.max()) + 1)[horse]
    count = style.size
    slow = rng.random(count) < _SLOW_AWAY
    chance = rng.normal(0.0, 1.0, count)
    early = _STYLE_WEIGHT * style + (1.0 - _STYLE_WEIGHT) * chance - _SLOW_AWAY_LOSS * slow
    call = races.ranks(-early)
    position = _floats(starters["position"])
    finished = ~np.isnan(position)
    # those that do not finish are behind all that do
    finish = races.ranks(np.where(finished, position, np.inf))
    order = _LAST_CALL_WEIGHT * finish + (1.0 - _LAST_CALL_WEIGHT) * call + rng.normal(0.0, 0.7, count)
    late = races.ranks(np.where(finished, order, np.inf))
    spoilt = rng.random(count) < _HAMPERED[0] + _HAMPERED[1] * call / races.sizes[races.race]
    path = 1 + np.minimum(rng.poisson(0.6 + 0.08 * late), 8)
    pressed = races.sums((style > _FRONT_RUNNER).astype(np.float64))
    first_ms, last_ms = _sections(races, _floats(starters["finish_time_s"]), call, late, pressed)
    return {
        "first_call_position": pa.array(call + 1),
        "last_call_position": pa.array(late + 1, mask=~finished),
        "first_section_ms": _whole(first_ms),
        "last_section_ms": _whole(last_ms),
        "widest_path": pa.array(path),
        "slow_away": pa.array(slow),
        "hampered": pa.array(spoilt),
    }


def _sections(races: Segments, seconds: Floats, call: Ints, late: Ints, pressed: Floats) -> tuple[Floats, Floats]:
    """Milliseconds of the first and of the last section of each starter, NaN where the starter or its race has no time."""
    fastest = -races.maxima(np.where(np.isnan(seconds), -np.inf, -seconds))
    winner = np.where(np.isfinite(fastest), fastest, np.nan)
    # a contested lead costs the leaders the end of the race, since every finishing time is given
    to_first = winner * _FIRST_SHARE * (1.0 - 0.005 * np.minimum(pressed, 4.0)) + _behind(call)
    to_last = winner * _BEFORE_LAST_SHARE + _behind(late)
    known = ~np.isnan(seconds)
    return np.where(known, np.rint(1000 * to_first), np.nan), np.rint(1000 * (seconds - to_last))


def _behind(place: Ints) -> Floats:
    """Seconds behind the leader at a call."""
    seconds: Floats = np.minimum(place * _SECONDS_A_PLACE, _MOST_SECONDS_BEHIND)
    return seconds


def _floats(column: pa.ChunkedArray) -> Floats:
    values: Floats = pc.fill_null(column.cast(pa.float64()), float("nan")).to_numpy()
    return values


def _whole(values: Floats) -> pa.Array:
    known = ~np.isnan(values)
    return pa.array(np.where(known, values, 0.0).astype(np.int64), mask=~known)
