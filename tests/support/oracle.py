"""The plain twin of every fast path: contract 6 worked out again from the log for each question asked.

Grain: `Oracle.value(view, entity, as_of)` is the one row of `view` for one entity that is true at one instant. Nothing
is carried from one question to the next but the starts of each record, which are a pure function of that record.
Written from the contract alone, standard library only; it imports nothing of the product, so that an error must be
made twice to hide. Ratios, EWMAs, slopes and variances are exact fractions, made a float at the very end; instants
are aware UTC datetimes.

Where the contract can be read two ways, the probes under conformance/ decided (the other reading disagrees with them):
- A lower version that arrives late takes a place in the log, so it moves the +1 us bumps of what follows, but it is
  never applied: it changes no value and gives no key its first row.
- `ae` counts wins and expected wins over the same starts: those whose expected wins are known.
- A draw cell with third 0 has rows; a key whose starts were all retracted has counts 0, no ratios, and an
  `iv_shrunk` of 5/5.
- `valid_until` looks at the latest versions known at the instant and nothing else: neither superseded ones nor
  starts that become known later. It may lie past the log's end; views without windows have none.
- A start whose place is unknown (RAN) has no position, whatever its row says: a win is all that position 1 says.
- A refused version is as if never sent: the next valid version of its race is then the first.
Not shown by any shared file, but said by the contract: past the log's last instant, that instant's row still stands.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

from tests.support.oracle_elo import Ledger, balance
from tests.support.oracle_starts import E9, Record, Start, instant, local_date, local_midnight, starts_of

Value = int | float | datetime | None
Features = dict[str, Value]
Entity = Mapping[str, str]
Key = tuple[str, ...]

EPOCH_DAY = date(1970, 1, 1)

JOIN_KEYS: dict[str, Key] = {
    "trainer_velocity": ("trainer_id",),
    "jockey_velocity": ("jockey_id",),
    "partnership_velocity": ("trainer_id", "jockey_id"),
    "horse_form": ("horse_id",),
    "horse_course": ("horse_id", "course"),
    "horse_distance": ("horse_id", "distance_band"),
    "horse_going": ("horse_id", "going_group"),
    "draw_bias": ("draw_cell",),
    "horse_ability": ("horse_id",),
    "horse_running": ("horse_id",),
    "jockey_course": ("jockey_id", "course"),
    "horse_course_distance": ("horse_id", "course", "distance_band"),
    "horse_elo": ("horse_id",),
    "jockey_elo": ("jockey_id",),
    "trainer_elo": ("trainer_id",),
    "draw_elo": ("draw_cell",),
}
WINDOWS_DAYS: dict[str, tuple[int, ...]] = {
    "trainer_velocity": (14, 30, 90),
    "jockey_velocity": (14, 30, 90),
    "partnership_velocity": (90, 365),
    "horse_form": (90, 365),
    "horse_course": (),
    "horse_distance": (),
    "horse_going": (),
    "draw_bias": (1095,),
    "horse_ability": (),
    "horse_running": (),
    "jockey_course": (1095,),
    "horse_course_distance": (),
    "horse_elo": (),
    "jockey_elo": (),
    "trainer_elo": (),
    "draw_elo": (),
}


@dataclass(frozen=True)
class Version:
    """One version of a race's result as the log holds it: when it became known and the starts it gives."""

    known_at: datetime
    race_id: str
    starts: dict[str, dict[Key, tuple[Start, ...]]]


def ratio(numerator: int | Fraction, denominator: int | Fraction) -> float | None:
    return None if denominator == 0 else float(Fraction(numerator) / Fraction(denominator))


def placings(starts: list[Start]) -> list[int]:
    """Of the starts whose place is known, 1 for each that was placed."""
    return [start.place for start in starts if start.place is not None]


def mean_prb(starts: list[Start]) -> float | None:
    known = [start.prb_e9 for start in starts if start.prb_e9 is not None]
    return ratio(sum(known), len(known) * E9)


def actual_to_expected(starts: list[Start]) -> float | None:
    known = [start for start in starts if start.exp_e9 is not None]
    wins = sum(start.win for start in known)
    return ratio(wins * E9, sum(start.exp_e9 or 0 for start in known))


def last(values: list[Fraction], count: int) -> list[Fraction]:
    return values[-count:]


def ewma(values: list[Fraction]) -> float | None:
    """Weights 0.6^i from the newest over the last 10, normalised; `values` oldest first."""
    total, weights = Fraction(0), Fraction(0)
    for age, value in enumerate(reversed(last(values, 10))):
        weight = Fraction(3, 5) ** age
        total += weight * value
        weights += weight
    return ratio(total, weights)


def slope(values: list[Fraction]) -> float | None:
    n = len(values)
    if n < 3:
        return None
    mean_x, mean_y = Fraction(n - 1, 2), sum(values, Fraction(0)) / n
    over = sum(((x - mean_x) * (y - mean_y) for x, y in enumerate(values)), Fraction(0))
    return ratio(over, sum(((x - mean_x) ** 2 for x in range(n)), Fraction(0)))


def variance(values: list[Fraction]) -> float | None:
    n = len(values)
    if n < 2:
        return None
    mean = sum(values, Fraction(0)) / n
    return ratio(sum(((value - mean) ** 2 for value in values), Fraction(0)), n - 1)


def velocity(windows: dict[int, list[Start]]) -> Features:
    row: Features = {}
    for days, starts in windows.items():
        wins, known = sum(start.win for start in starts), placings(starts)
        row[f"runs_{days}d"] = len(starts)
        row[f"wins_{days}d"] = wins
        row[f"places_{days}d"] = sum(known)
        row[f"sr_{days}d"] = ratio(wins, len(starts))
        row[f"place_rate_{days}d"] = ratio(sum(known), len(known))
        row[f"prb_{days}d"] = mean_prb(starts)
        row[f"ae_{days}d"] = actual_to_expected(starts)
    return row


def career(starts: list[Start]) -> Features:
    wins, known = sum(start.win for start in starts), placings(starts)
    return {
        "starts": len(starts),
        "wins": wins,
        "places": sum(known),
        "sr": ratio(wins, len(starts)),
        "place_rate": ratio(sum(known), len(known)),
        "prb": mean_prb(starts),
    }


def form(starts: list[Start], windows: dict[int, list[Start]]) -> Features:
    ordered = sorted(starts, key=lambda start: (start.off_time, start.race_id))
    prb = [None if start.prb_e9 is None else Fraction(start.prb_e9, E9) for start in ordered]
    market = [None if start.exp_e9 is None else Fraction(start.exp_e9 * start.field_size, E9) for start in ordered]
    lengths = [
        None if start.beaten_lengths is None else min(Fraction(start.beaten_lengths), Fraction(30)) for start in ordered
    ]
    known_prb = [value for value in prb if value is not None]
    known_market = [value for value in market if value is not None]
    known_lengths = [value for value in lengths if value is not None]
    recent = last(known_prb, 6)
    newest = ordered[-1] if ordered else None
    row = career(starts)
    row |= {
        "prb_last": None if not prb or prb[-1] is None else float(prb[-1]),
        "prb_ewma": ewma(known_prb),
        "prb_slope": slope(recent),
        "prb_var": variance(recent),
        "prb_best": float(max(recent)) if recent else None,
        "market_last": None if not market or market[-1] is None else float(market[-1]),
        "market_ewma": ewma(known_market),
        "lengths_last": None if not lengths or lengths[-1] is None else float(lengths[-1]),
        "lengths_ewma": ewma(known_lengths),
        "position_last": newest.position if newest else None,
        "field_last": newest.field_size if newest else None,
        "last_race_day": (newest.race_date - EPOCH_DAY).days if newest else None,
        "last_class": newest.race_class if newest else None,
        "last_distance_m": newest.distance_m if newest else None,
        "last_weight_lbs": newest.weight_lbs if newest else None,
        "last_rating": newest.official_rating if newest else None,
    }
    row |= {f"runs_{days}d": len(inside) for days, inside in windows.items()}
    return row


def draw(windows: dict[int, list[Start]]) -> Features:
    row: Features = {}
    for days, starts in windows.items():
        wins, uniform = sum(start.win for start in starts), Fraction(sum(start.uni_e9 for start in starts), E9)
        row[f"runs_{days}d"] = len(starts)
        row[f"wins_{days}d"] = wins
        row[f"iv_{days}d"] = ratio(wins, uniform)
        row[f"iv_shrunk_{days}d"] = ratio(wins + 5, uniform + 5)
        row[f"prb_{days}d"] = mean_prb(starts)
    return row


def mean_e9(values: list[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return ratio(sum(known), len(known) * E9)


def ability(starts: list[Start]) -> Features:
    ordered = sorted(starts, key=lambda start: (start.off_time, start.race_id))
    row: Features = {
        "runs": len(ordered),
        "over": mean_e9([start.over_e9 for start in ordered]),
        "market_log": mean_e9([start.market_log_e9 for start in ordered]),
        "pace": mean_e9([start.pace_e9 for start in ordered]),
        "speed": mean_e9([start.speed_e9 for start in ordered]),
        "day": ratio(sum(start.race_date.toordinal() for start in ordered), len(ordered)),
    }
    for name, best in (("over", True), ("market_log", False), ("pace", True), ("speed", True), ("figure", True)):
        values = [getattr(start, f"{name}_e9") for start in ordered]
        known = [Fraction(value, E9) for value in values if value is not None]
        row[f"{name}_last"] = None if not values or values[-1] is None else float(Fraction(values[-1], E9))
        row[f"{name}_ewma"] = ewma(known)
        if best:
            row[f"{name}_best"] = float(max(last(known, 6))) if known else None
    figures = [Fraction(start.figure_e9, E9) for start in ordered if start.figure_e9 is not None]
    row["figure_peak"] = float(max(last(figures, 10))) if figures else None
    row["body_weight_last"] = ordered[-1].body_weight_lbs if ordered else None
    return row


def share(flags: list[bool]) -> float | None:
    return ratio(sum(flags), len(flags))


def running(starts: list[Start]) -> Features:
    ordered = [start.running for start in sorted(starts, key=lambda start: (start.off_time, start.race_id))]
    called = [each for each in ordered if each.early_e9 is not None]
    newest = ordered[-1] if ordered else None
    row: Features = {
        "runs": len(ordered),
        "early": mean_e9([each.early_e9 for each in ordered]),
        "led": share([each.led for each in called]),
        "held_up": share([each.held_up for each in called]),
        "slow_away": share([each.slow_away for each in ordered if each.slow_away is not None]),
        "hampered_last": None if newest is None or newest.hampered is None else int(newest.hampered),
        "widest_last": newest.widest_path if newest else None,
    }
    for name, with_last, with_best in (
        ("early", True, False),
        ("gained", True, False),
        ("straight", True, False),
        ("early_speed", False, False),
        ("late_speed", True, True),
        ("finishing", True, False),
    ):
        values = [getattr(each, f"{name}_e9") for each in ordered]
        known = [Fraction(value, E9) for value in values if value is not None]
        row[f"{name}_ewma"] = ewma(known)
        if with_last:
            row[f"{name}_last"] = None if not values or values[-1] is None else float(Fraction(values[-1], E9))
        if with_best:
            row[f"{name}_best"] = float(max(last(known, 6))) if known else None
    return row


def suited(starts: list[Start]) -> Features:
    return {
        "runs": len(starts),
        "prb": mean_prb(starts),
        "over": mean_e9([start.over_e9 for start in starts]),
        "market_log": mean_e9([start.market_log_e9 for start in starts]),
        "speed": mean_e9([start.speed_e9 for start in starts]),
    }


def against_the_odds(windows: dict[int, list[Start]]) -> Features:
    row: Features = {}
    for days, starts in windows.items():
        row[f"runs_{days}d"] = len(starts)
        row[f"sr_{days}d"] = ratio(sum(start.win for start in starts), len(starts))
        row[f"prb_{days}d"] = mean_prb(starts)
        row[f"ae_{days}d"] = actual_to_expected(starts)
        row[f"over_{days}d"] = mean_e9([start.over_e9 for start in starts])
    return row


FEATURES: dict[str, Callable[[list[Start], dict[int, list[Start]]], Features]] = {
    "trainer_velocity": lambda starts, windows: velocity(windows),
    "jockey_velocity": lambda starts, windows: velocity(windows),
    "partnership_velocity": lambda starts, windows: velocity(windows),
    "horse_form": form,
    "horse_course": lambda starts, windows: career(starts),
    "horse_distance": lambda starts, windows: career(starts),
    "horse_going": lambda starts, windows: career(starts),
    "draw_bias": lambda starts, windows: draw(windows),
    "horse_ability": lambda starts, windows: ability(starts),
    "horse_running": lambda starts, windows: running(starts),
    "jockey_course": lambda starts, windows: against_the_odds(windows),
    "horse_course_distance": lambda starts, windows: (
        suited(starts) | balance(JOIN_KEYS["horse_course_distance"], starts)
    ),
    "horse_elo": lambda starts, windows: dict(balance(("horse_id",), starts)),
    "jockey_elo": lambda starts, windows: dict(balance(("jockey_id",), starts)),
    "trainer_elo": lambda starts, windows: dict(balance(("trainer_id",), starts)),
    "draw_elo": lambda starts, windows: dict(balance(("draw_cell",), starts)),
}


WHO = {"horse": "horse_id", "jockey": "jockey_id", "trainer": "trainer_id"}


class Keys:
    """Contract 11: which key each key means by the aliases known so far; a runner remembers the key it was sent under."""

    def __init__(self) -> None:
        self.means: dict[tuple[str, str], str | None] = {}

    def told(self, alias: Record) -> None:
        self.means[WHO[alias["of"]], alias["key"]] = alias.get("same_as")

    def under(self, result: Record) -> Record:
        return {**result, "runners": [self._runner(runner) for runner in result["runners"]]}

    def _runner(self, runner: Record) -> Record:
        sent = runner.get("sent", {column: runner.get(column) for column in WHO.values()})
        return {**runner, "sent": sent, **{column: self._meant(column, key) for column, key in sent.items()}}

    def _meant(self, column: str, key: str | None) -> str | None:
        while key is not None and self.means.get((column, key)) is not None:
            key = self.means[column, key]
        return key


def as_sent(record: Record) -> Record:
    """A log's result as its source sent it."""
    runners = [dict(runner) for runner in record["runners"]]
    for place, column, key in record.get("alias_given", ()):
        runners[place][column] = key
    return {**record, "runners": runners}


class Oracle:
    """Every stored feature at any instant, from a log's records in log order; `timezone` is the store's IANA name."""

    def __init__(self, records: Iterable[Record], timezone: str) -> None:
        self.zone = ZoneInfo(timezone)
        self.end: datetime | None = None
        self.applied: list[Version] = []  # those that changed anything: higher than all known before of the same race
        highest: dict[str, int] = {}
        ledger = Ledger()
        current: dict[str, Record] = {}
        keys, waiting = Keys(), dict[str, Record]()
        for record in records:
            self.end = instant(record["known_at"])
            repeats = record.get("alias_repeats", False)
            assert repeats or not waiting, f"an alias left {waiting.keys()} under their old keys"
            if record["type"] == "alias":
                keys.told(record)
                now = {race_id: keys.under(result) for race_id, result in current.items()}
                waiting = {race_id: result for race_id, result in now.items() if result != current[race_id]}
            if record["type"] != "result":
                continue
            race_id = record["race_id"]
            number = record.get("alias_source_version", record.get("result_version", 1))
            if repeats:
                result = waiting.pop(race_id)
            elif race_id not in highest or number > highest[race_id]:
                result = keys.under(as_sent(record))
            else:
                continue
            highest[race_id], current[race_id] = number, result
            rated = ledger.rated(race_id, starts_of(result))
            starts = {view: _by_key(view, rated) for view in JOIN_KEYS}
            self.applied.append(Version(self.end, race_id, starts))
        assert not waiting, f"an alias left {waiting.keys()} under their old keys"

    def entities(self, view: str) -> list[dict[str, str]]:
        """Every key that any applied version ever gave a start, sorted by its join keys."""
        keys = {key for version in self.applied for key in version.starts[view]}
        return [dict(zip(JOIN_KEYS[view], key, strict=True)) for key in sorted(keys)]

    def value(self, view: str, entity: Entity, as_of: datetime) -> Features | None:
        """The row true at `as_of`, its `valid_until` a UTC datetime or None; None where the key has no row yet.

        The changelog ends with the log, so past its last instant the row of that last instant still stands.
        """
        if self.end is None:
            return None
        at = min(as_of, self.end)
        key = tuple(entity[name] for name in JOIN_KEYS[view])
        latest = {version.race_id: version for version in self.applied if version.known_at <= at}
        ever_started = any(key in version.starts[view] for version in self.applied if version.known_at <= at)
        if not ever_started:
            return None
        starts = [start for version in latest.values() for start in version.starts[view].get(key, ())]
        today = local_date(at, self.zone)
        windows = {
            days: [start for start in starts if start.race_date > today - timedelta(days=days)]
            for days in WINDOWS_DAYS[view]
        }
        row = FEATURES[view](starts, windows)
        leaving = [midnight for start in starts for midnight in self._leaves(view, start) if midnight > at]
        row["valid_until"] = min(leaving, default=None)
        return row

    def change_points(self, view: str, entity: Entity) -> list[datetime]:
        """Every instant, ascending and within the log, at which the entity's row may become another or first exist."""
        if self.end is None:
            return []
        key = tuple(entity[name] for name in JOIN_KEYS[view])
        points: set[datetime] = set()
        latest: dict[str, Version] = {}
        for version in self.applied:
            old = latest.get(version.race_id)
            latest[version.race_id] = version
            if key in version.starts[view] or (old is not None and key in old.starts[view]):
                points.add(version.known_at)
            for start in version.starts[view].get(key, ()):
                points.update(at for at in self._leaves(view, start) if version.known_at < at <= self.end)
        return sorted(points)

    def _leaves(self, view: str, start: Start) -> list[datetime]:
        return [local_midnight(start.race_date + timedelta(days=days), self.zone) for days in WINDOWS_DAYS[view]]


def _by_key(view: str, starts: list[Start]) -> dict[Key, tuple[Start, ...]]:
    found: dict[Key, tuple[Start, ...]] = {}
    for start in starts:
        if all(name in start.keys for name in JOIN_KEYS[view]):
            key = tuple(start.keys[name] for name in JOIN_KEYS[view])
            found[key] = (*found.get(key, ()), start)
    return found
