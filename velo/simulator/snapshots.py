"""A market that moves: snapshots of an exchange before each off of a simulated season, whose last prices are the season's own.

An early market knows less: each runner's probability begins with an error that money removes until the off, most of it late.
So a later price is better than an earlier one, and a move that has begun goes on. Results and starting prices stay as they are.
"""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from velo.simulator.segments import Floats, Segments
from velo.simulator.table import INSTANT

SOURCE: Final = "simulated exchange"
PATH: Final = (
    (90, 0.0), (60, 0.05), (45, 0.1), (30, 0.2), (20, 0.35), (15, 0.45), (10, 0.55), (7, 0.62), (5, 0.68), (4, 0.74), (2, 0.9),
    (1, 0.97),
)  # fmt: skip
"""Minutes before the off, and the share of its early error that the market has lost by then."""
WITHDRAWN_MINUTES: Final = 25
"""A runner that is withdrawn after betting began has no odds from here on."""
ABORTED_MINUTES: Final = 10
"""The market of a void race ends here."""
_EARLY_ERROR: Final = 0.45
"""Standard deviation of the log of a runner's early probability around that of its starting price."""
_NOISE: Final = 0.02
_MARGIN: Final = 1.02
_STAKES: Final = 200_000.0
"""The stakes of a race by the off."""
SCHEMA: Final = pa.schema(
    [
        ("race_id", pa.string()), ("known_at", INSTANT), ("source", pa.string()), ("horse_id", pa.string()),
        ("odds", pa.float64()), ("volume", pa.float64()),
    ]
)  # fmt: skip


def snapshots_of(season: pa.Table, seed: int) -> pa.Table:
    """The snapshots of a season's runner table, columns as `SCHEMA`, one row a runner and instant, by instant and race.

    `odds` are decimal, `volume` the stakes matched so far. Races without starting prices for all starters have none.
    """
    first = season.filter(pc.and_(pc.equal(season["result_version"], 1), pc.greater(season["sp_decimal"], 1.0)))
    counts = season.filter(pc.equal(season["result_version"], 1))
    unpriced = pc.unique(
        counts.filter(pc.and_(pc.not_equal(counts["status"], "NR"), pc.is_null(counts["sp_decimal"])))["race_id"]
    )
    void = pc.unique(counts.filter(pc.equal(counts["status"], "VOID"))["race_id"])
    runners = first.filter(pc.invert(pc.is_in(first["race_id"], value_set=unpriced)))
    if not runners.num_rows:
        return SCHEMA.empty_table()
    race = runners["race_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    aborted = pc.is_in(runners["race_id"], value_set=void).to_numpy(zero_copy_only=False)
    withdrawn = pc.equal(runners["status"], "NR").to_numpy(zero_copy_only=False)
    final = -np.log(runners["sp_decimal"].to_numpy())
    rng = np.random.default_rng([seed, 4])
    error = rng.normal(0.0, _EARLY_ERROR, final.size)
    off_us = runners["off_time"].cast(pa.int64()).to_numpy()
    matched, before = np.zeros(final.size), 0.0
    parts = []
    for minutes, known in PATH:
        noise = rng.normal(0.0, _NOISE, final.size)
        shown = ~(withdrawn & (minutes <= WITHDRAWN_MINUTES)) & ~(aborted & (minutes < ABORTED_MINUTES))
        chance = _chances(race, final + error * (1.0 - known) + noise, shown)
        matched += _STAKES * (known - before) * chance
        before = known
        parts.append(_part(runners, off_us - minutes * 60_000_000, chance, matched, shown))
    return pa.concat_tables(parts).sort_by(
        [("known_at", "ascending"), ("race_id", "ascending"), ("horse_id", "ascending")]
    )


def _chances(race: np.ndarray, logs: Floats, shown: np.ndarray) -> Floats:
    """Probabilities among the runners shown, which sum to 1 in each race that has any; 0 for the others."""
    chance = np.zeros(logs.size)
    _, codes = np.unique(race[shown], return_inverse=True)
    chance[shown] = Segments.of(codes).softmax(logs[shown])
    return chance


def _part(runners: pa.Table, at_us: np.ndarray, chance: Floats, matched: Floats, shown: np.ndarray) -> pa.Table:
    """One snapshot of every race that has runners shown."""
    odds = np.maximum(np.round(1.0 / (_MARGIN * np.where(shown, chance, 1.0)), 2), 1.01)
    rows = {
        "race_id": runners["race_id"].combine_chunks(),
        "known_at": pa.array(at_us).cast(INSTANT),
        "source": pa.array([SOURCE]).take(pa.array(np.zeros(odds.size, dtype=np.int64))),
        "horse_id": runners["horse_id"].combine_chunks(),
        "odds": pa.array(odds),
        "volume": pa.array(np.round(matched, 2)),
    }
    return pa.table(rows, schema=SCHEMA).filter(pa.array(shown))
