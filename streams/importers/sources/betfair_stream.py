"""Betfair's historical stream files: one win market a file, NDJSON of market changes (`mcm`), as downloaded in bzip2.

Each file gives the messages of its race, each known at the instant that the exchange published it:

- a racecard at the first definition of the market, and again where its off or its runners change before the off;
- a withdrawal for each runner removed, with the exchange's reduction factor as `reduction_factor`;
- the last traded prices 65, 60, 35, 30, 15, 10, 5 and 1 minutes before the scheduled off (source `betfair`), of the runners not
  removed, with the stakes matched so far where the file has them: at the usual decision time, 5 minutes before the off, they
  give the drift over every span (contract 8);
- the result at settlement: `RAN`, at position 1 for a winner, since the exchange knows no places, with its starting price as odds. A
  market whose runners were all removed is a void race.

Ids are the exchange's: the market's is the race's, the selection's the horse's. Instants are UTC; `race_date` is the day in the
zone that the market names, but never later than the store's. A market of another sport or kind, and one without a settlement, is left
out and counted. A file that cannot be read refuses the load, and nothing is loaded.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from velo.errors import Refused, UserError
from velo.racing.clock import EPOCH, local_date
from velo.racing.deductions import known_factor
from velo.racing.messages import NON_RUNNER, RAN, VOID, Market, NonRunner
from velo.settings import zone_named
from velo.storage.log.writer import Clock, LogWriter, Progress, Recorded
from velo.storage.store import Store
from velo.streams.importers import dead_letters, parsers
from velo.streams.importers.dead_letters import DeadLetter, Row, letter
from velo.streams.importers.frames import contents
from velo.streams.importers.ingest import counts
from velo.streams.importers.json_rows import documents
from velo.streams.importers.race_maker import RaceMaker

SOURCE: Final = "betfair-stream"
PRICES: Final = "betfair"
"""The source of the market messages."""
LEADS: Final = tuple(timedelta(minutes=minutes) for minutes in (65, 60, 35, 30, 15, 10, 5, 1))
_HORSES: Final = "7"
_COUNTRIES: Final = {"IE": "IRE", "US": "USA", "AU": "AUS", "AE": "UAE", "ZA": "SAF", "SG": "SIN", "DE": "GER"}
_REMOVED: Final = frozenset({"REMOVED", "REMOVED_VACANT", "HIDDEN"})
_HIGHEST_PRICE: Final = 1000.0
_RACE_NO: Final = re.compile(r"R(\d{1,2}) ")
_DISTANCE: Final = re.compile(r"(?:R\d{1,2} )?((?:\d+m)?(?:\d+f)?|\d{3,4}m) ", re.IGNORECASE)
_CLOTH_NUMBER: Final = re.compile(r"^\d+\.\s*")


@dataclass(frozen=True, slots=True)
class StreamReport:
    """The outcome of a load: `markets` = `races` + those `left_out` by reason + those `refused` by reason."""

    markets: int
    races: int
    appended: int
    identical: int
    left_out: Mapping[str, int]
    refused: Mapping[str, int]

    def facts(self) -> list[tuple[str, Any]]:
        """Names and numbers to show."""
        return [
            ("markets", self.markets),
            ("races", self.races),
            ("left out", sum(self.left_out.values())),
            ("refused", sum(self.refused.values())),
            ("messages appended", self.appended),
            ("duplicates", self.identical),
        ]

    def notes(self) -> list[str]:
        """The parts that were left out or refused, one line each."""
        return counts(self.refused, self.left_out)


@dataclass(slots=True)
class _MarketState:
    """A market as its changes describe it: the definition in force, the last traded prices and the stakes by selection."""

    definition: Mapping[str, Any]
    prices: dict[str, float] = field(default_factory=dict)
    volumes: dict[str, float] = field(default_factory=dict)
    shown: list[tuple[Any, ...]] = field(default_factory=list)
    removed: set[str] = field(default_factory=set)
    priced: set[timedelta] = field(default_factory=set)

    @property
    def off(self) -> datetime:
        return datetime.fromisoformat(str(self.definition["marketTime"])).astimezone(UTC)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Makes the messages of one market."""

    maker: RaceMaker

    def messages(self, market_id: str, changes: Sequence[tuple[datetime, Mapping[str, Any]]]) -> Iterator[Recorded]:
        """Yield a market's messages. Raises `Refused` for one that is left out (`other market`, `not settled`) or breaks a rule."""
        definition = next((change["marketDefinition"] for _, change in changes if "marketDefinition" in change), None)
        if definition is None or definition.get("eventTypeId") != _HORSES or definition.get("marketType") != "WIN":
            raise Refused("other market", "it is no win market of a horse race")
        state = _MarketState(definition)
        settled = False
        for at, change in changes:
            if not state.definition.get("inPlay"):
                yield from self._prices(market_id, state, at)
            if "marketDefinition" in change:
                state.definition = change["marketDefinition"]
                yield from self._defined(market_id, state, at)
                if state.definition.get("status") == "CLOSED":
                    settled = True
                    yield Recorded(self.maker.result(market_id, 1, self._rows(market_id, state, at, settled=True)), {})
            for runner in change.get("rc", ()):
                if runner.get("ltp"):
                    state.prices[str(runner["id"])] = float(runner["ltp"])
                if runner.get("tv"):
                    state.volumes[str(runner["id"])] = float(runner["tv"])
        if not settled:
            raise Refused("not settled", "its last definition is not CLOSED")

    def _defined(self, market_id: str, state: _MarketState, at: datetime) -> Iterator[Recorded]:
        """Yield a racecard where the market's off or runners changed before the off, and each new withdrawal."""
        runners = state.definition["runners"]
        before_off = not state.definition.get("inPlay") and state.definition.get("status") != "CLOSED"
        shown = state.definition["marketTime"], *sorted(str(runner["id"]) for runner in runners)
        if before_off and shown not in state.shown:
            state.shown.append(shown)
            yield Recorded(self.maker.card(market_id, self._rows(market_id, state, at, settled=False)), {})
        for runner in runners:
            key = str(runner["id"])
            if runner.get("status") in _REMOVED and key not in state.removed and before_off:
                state.removed.add(key)
                factor = runner.get("adjustmentFactor")
                yield Recorded(NonRunner(market_id, key, "removed from the market", at, known_factor(factor)), {})

    def _prices(self, market_id: str, state: _MarketState, at: datetime) -> Iterator[Recorded]:
        """Yield the prices at each of the instants that passed before `at`, as they then were."""
        for lead in LEADS:
            instant = state.off - lead
            if lead in state.priced or instant > at:
                continue
            state.priced.add(lead)
            prices = {key: price for key, price in state.prices.items() if key not in state.removed and price > 1}
            if prices and state.shown:
                volumes = {key: stakes for key, stakes in state.volumes.items() if key in prices}
                yield Recorded(Market(market_id, prices, PRICES, instant, volumes or None), {})

    def _rows(self, market_id: str, state: _MarketState, at: datetime, *, settled: bool) -> list[Row]:
        definition = state.definition
        name = str(definition.get("name", ""))
        number, distance = _RACE_NO.match(name), _DISTANCE.match(name)
        country = str(definition.get("countryCode", "")) or None
        zone = zone_named(str(definition.get("timezone", "UTC")))
        store_zone = self.maker.store.timezone
        race: dict[str, Any] = {
            "race_id": market_id,
            "race_date": min(local_date(state.off, zone), local_date(state.off, store_zone)),
            "off_time": state.off,
            "race_no": int(number[1]) if number else None,
            "course": definition.get("venue"),
            "country": _COUNTRIES.get(country or "", country),
            "race_name": name or None,
            "distance_m": parsers.metres(distance[1]) if distance and distance[1] else None,
            "known_at": at,
        }
        runners = definition["runners"]
        void = settled and all(runner.get("status") in _REMOVED for runner in runners)
        return [race | self._runner(runner, void=void) for runner in runners]

    def _runner(self, runner: Mapping[str, Any], *, void: bool) -> dict[str, Any]:
        status = RAN if runner.get("status") not in _REMOVED else VOID if void else NON_RUNNER
        bsp = runner.get("bsp")
        return {
            "horse_id": str(runner["id"]),
            "horse": _CLOTH_NUMBER.sub("", str(runner.get("name", ""))) or None,
            "runner_no": runner.get("sortPriority"),
            "status": status,
            "position": 1 if runner.get("status") == "WINNER" else None,
            "sp_decimal": bsp if isinstance(bsp, int | float) and bsp <= _HIGHEST_PRICE else None,
        }


def _markets(paths: Sequence[Path]) -> Iterator[tuple[str, list[tuple[datetime, Mapping[str, Any]]]]]:
    """Yield each market of the files with its changes, in order. Raises `UserError` for a file of another kind."""
    for path in paths:
        by_market: dict[str, list[tuple[datetime, Mapping[str, Any]]]] = {}
        for label, stream in contents(path):
            for root in documents(label, stream.read()):
                if not isinstance(root, dict) or root.get("op") != "mcm" or not isinstance(root.get("pt"), int):
                    raise UserError(
                        f'{label} is no stream file: its lines are market changes ("op":"mcm"): name another file'
                    )
                at = EPOCH + timedelta(milliseconds=root["pt"])
                for change in root.get("mc", ()):
                    by_market.setdefault(str(change["id"]), []).append((at, change))
        yield from by_market.items()


@dataclass(frozen=True, slots=True)
class _StreamImporter:
    source: str = SOURCE
    help: str = "Load Betfair's historical stream files (bz2): cards, prices before the off, withdrawals, winners, starting prices."

    def load(
        self, store: Store, files: Sequence[Path], *, late: bool = False, clock: Clock, progress: Progress | None = None
    ) -> StreamReport:
        """Append the messages of each market. Raises `UserError`, and appends nothing, for a file that cannot be read."""
        reader = _Reader(RaceMaker(store, store.keys or "id", Counter()))
        messages: list[Recorded] = []
        left_out: Counter[str] = Counter()
        letters: list[DeadLetter] = []
        count = 0
        for market_id, changes in _markets(files):
            count += 1
            try:
                messages += list(reader.messages(market_id, changes))
            except Refused as why:
                if why.reason in ("other market", "not settled"):
                    left_out[why.reason] += 1
                else:
                    letters.append(letter(SOURCE, market_id, None, why, ()))
            except (KeyError, ValueError, TypeError) as odd:
                unreadable = Refused(
                    "bad value", f"a change of the market cannot be read ({odd!r}): fetch the file again"
                )
                letters.append(letter(SOURCE, market_id, None, unreadable, ()))
        if not count:
            raise UserError("the files hold no market: name Betfair's historical stream files")
        with LogWriter.open(store, clock=clock) as writer:
            if messages:
                store.with_keys(store.keys or "id")
            report = writer.load(messages, late=late, progress=progress)
            letters += [letter(SOURCE, message.race_id, None, why, ()) for message, why in report.refused]
            dead_letters.write(store.home, letters, clock())
        return StreamReport(
            markets=count,
            races=count - sum(left_out.values()) - len({each.race_id for each in letters}),
            appended=report.appended,
            identical=report.identical,
            left_out=dict(left_out),
            refused=dict(Counter(each.reason for each in letters)),
        )


IMPORTER: Final = _StreamImporter()
