"""`velo paper`: decide paper bets at each race's decision time with what was known then, and settle them on the weighed-in result.

A `step` decides every race whose decision time has come and settles every bet whose result is known. It may be repeated at any
moment, also after a crash: the ledger's entries are not repeated, and a race whose off has passed is recorded as missed.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from velo.errors import UserError
from velo.feature_repo.stores import changelog
from velo.feature_repo.stores.parts import Snapshot
from velo.racing.cards import FROM_CARD, decision_time, declared_at, result_known_at
from velo.racing.pools import PLACE
from velo.racing.settlement import edge
from velo.racing.staking import race_stakes
from velo.serving.paper_trading.ledger import Decision, Ledger, PaperBet
from velo.serving.paper_trading.settlement import known_of, settled_race
from velo.serving.scoring.history import LogView
from velo.storage import table_versions
from velo.storage.store import Home, Store
from velo.training.bundle import GATE, current, described

LOOK_BACK: Final = timedelta(days=3)
DEFAULT_EDGE: Final = 0.05
UNIT: Final = 1.0
SP: Final = "SP"
MISSED: Final = "the off, or the result, had come before it could be decided"
BY_P: Final = "p"
BY_EDGE: Final = "edge"
FUNDAMENTAL: Final = "fundamental"
BLEND: Final = "blend"


class PaperRunner(Protocol):
    """The attributes of a scored runner that paper trading reads."""

    @property
    def horse_id(self) -> str: ...  # noqa: D102 as in `velo.serving.scoring.scored`
    @property
    def horse(self) -> str: ...  # noqa: D102
    @property
    def probability(self) -> float: ...  # noqa: D102
    @property
    def blended(self) -> float | None: ...  # noqa: D102
    @property
    def market_odds(self) -> float | None: ...  # noqa: D102
    @property
    def market_source(self) -> str | None: ...  # noqa: D102
    @property
    def place(self) -> float | None: ...  # noqa: D102


class PaperRace(Protocol):
    """The attributes of a scored race that paper trading reads."""

    @property
    def model(self) -> str: ...  # noqa: D102 as in `velo.serving.scoring.scored`
    @property
    def runners(self) -> Sequence[PaperRunner]: ...  # noqa: D102


Score = Callable[[str, datetime, datetime], PaperRace]
"""Score a race as of an instant: (race_id, as_of, now)."""
Clock = Callable[[], datetime]
"""Returns the current time, UTC."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A model's betting rule: bet on runners whose p or edge is at least `least`. `says` describes it and its origin.

    p is the fundamental probability, or the blend's if `blend`. Where the blend is missing because a runner has no odds, a
    rule by p uses the fundamental probability and a rule by edge does not bet.
    """

    by: str
    least: float
    says: str
    blend: bool = False


@dataclass(frozen=True, slots=True)
class Trader:
    """A model that bets on paper: its version, its permitted use, its lead before the off, and its rule.

    With `places` it also bets a unit for a place on each runner that it bets on to win.
    """

    bundle: str
    mode: str
    lead: timedelta
    rule: Rule
    places: bool = False


@dataclass(frozen=True, slots=True)
class PaperStep:
    """The counts of a step: races decided, bets written, races missed, decisions settled; and why races wait, one line each."""

    decided: int = 0
    bets: int = 0
    missed: int = 0
    settled: int = 0
    waiting: tuple[str, ...] = ()


def trader_of(home: Home) -> Trader:
    """The current model; raises `UserError` if there is none."""
    version = current(home)
    stored = described(home, version)
    return Trader(
        version,
        str(stored["mode"]),
        timedelta(seconds=float(stored["lead_s"])),
        rule_of(home, version, blends=stored.get("blend") is not None),
    )


def rule_of(home: Home, version: str, *, blends: bool = False) -> Rule:
    """The strategy that the gate judged, on the probabilities that it judged, with the cut of its backtest.

    Without a verdict: an edge of 5 %, as on the desk, of the blend if the model `blends`, else of its own probability.
    Raises `UserError` for a verdict about probabilities that are not served.
    """
    try:
        verdict: dict[str, Any] = json.loads((home.models / version / GATE).read_bytes())
    except FileNotFoundError:
        verdict = {}
    name, cut = verdict.get("strategy"), verdict.get("cut")
    if name is None or cut is None:
        of = BLEND if blends else FUNDAMENTAL
        says = f"edge ≥ {DEFAULT_EDGE:g} of the {of}, the default without a judged strategy"
        return Rule(BY_EDGE, DEFAULT_EDGE, says, blends)
    subject = str(verdict.get("subject", FUNDAMENTAL))
    if subject not in (FUNDAMENTAL, BLEND):
        raise UserError(
            f"the gate judged model {version} by {subject!r}, which is not served: run `velo gate` without --of"
        )
    by = BY_P if name.endswith(f"by {BY_P}") else BY_EDGE
    says = f"{name} of the {subject}: {by} ≥ {cut:.4g}, its cut in backtest {verdict.get('backtest')}"
    return Rule(by, float(cut), says, subject == BLEND)


def step(store: Store, log: LogView, ledger: Ledger, trader: Trader, score: Score, clock: Clock) -> PaperStep:
    """Decide every race whose decision time has come, by `score`, and settle every bet whose result is known.

    `clock` (UTC) is read again after each score: a bet after the off is not written. A race is missed if its off came before
    its decision; races with an off before the ledger's first line are skipped.
    """
    now = clock()
    begun = min((decision.written_at for decision in ledger.book.decisions.values()), default=now)
    decided = bets = missed = 0
    waiting = []
    for race_id in races_due(store.home, log, now, trader.lead):
        if (race_id, trader.bundle) in ledger.book.decisions:
            continue
        try:
            decision = decided_race(store.home, log, race_id, trader, score, clock, begun)
        except UserError as refused:
            waiting.append(f"{race_id}: {refused}")
            continue
        if decision is not None and ledger.decide(decision):
            decided += decision.missed is None
            missed += decision.missed is not None
            bets += len(decision.bets)
    settled = sum(settled_race(store.home, log, ledger, decision, now) for decision in ledger.book.open())
    return PaperStep(decided, bets, missed, settled, tuple(waiting))


def decided_race(
    home: Home, log: LogView, race_id: str, trader: Trader, score: Score, clock: Clock, begun: datetime
) -> Decision | None:
    """The decision about a race now; None before its decision time, and for a race whose off came before `begun`.

    It is scored as of its decision time, even if that is past, or as of now if no card was known by then. A race with a
    result is missed, even before its scheduled off. Raises `UserError` if it cannot be scored yet.
    """
    now = clock()
    known = known_of(home, log, race_id, now)
    at = decision_time(known, trader.lead)
    declared = declared_at(known, now)
    if at is None or declared is None or at > now:
        return None
    race = declared.race
    missed = Decision(
        race_id=race_id,
        bundle=trader.bundle,
        mode=trader.mode,
        race_date=race.race_date.isoformat(),
        off_time=race.off_time,
        as_of=None,
        written_at=now,
        rule=trader.rule.says,
        runners=len(declared.runners),
        bets=(),
        missed=MISSED,
    )
    if now >= race.off_time or result_known_at(known) is not None:
        return missed if race.off_time > begun else None
    then = declared_at(known, at)
    as_of = at if then is not None and then.source == FROM_CARD else now
    scored = score(race_id, as_of, now)
    if scored.model != trader.bundle:
        raise UserError(f"model {scored.model} replaced {trader.bundle}: it decides in the next step")
    written_at = clock()
    if written_at >= race.off_time:
        return replace(missed, written_at=written_at)
    bets = bets_on(scored.runners, trader.rule, places=trader.places)
    return replace(missed, as_of=as_of, written_at=written_at, bets=bets, missed=None)


def bets_on(runners: Sequence[PaperRunner], rule: Rule, *, places: bool = False) -> tuple[PaperBet, ...]:
    """One unit on each runner that the rule selects, at its known price; without one a rule by p bets at SP.

    With `places` also a unit for a place on each, where the race has place bets; the pool's dividend pays it.
    """
    placed: list[PaperBet] = []
    for runner in runners:
        price = None if runner.market_source == SP else runner.market_odds
        source = None if price is None else runner.market_source
        if price is None and rule.by == BY_EDGE:
            continue
        p = runner.blended if rule.blend else runner.probability
        if p is None and rule.by == BY_P:
            p = runner.probability
        if p is None:
            continue
        ranked = p if price is None or rule.by == BY_P else edge(p, price)
        if ranked >= rule.least:
            placed.append(PaperBet(runner.horse_id, runner.horse, p, price, source, UNIT, None))
    stakes = race_stakes([bet.p for bet in placed], [bet.price for bet in placed])
    wins = [bet if bet.price is None else replace(bet, kelly=stake) for bet, stake in zip(placed, stakes, strict=True)]
    chances = {runner.horse_id: runner.place for runner in runners if places and runner.place is not None}
    return (
        *wins,
        *(
            PaperBet(bet.horse_id, bet.horse, chances[bet.horse_id], None, None, UNIT, None, PLACE)
            for bet in wins
            if bet.horse_id in chances
        ),
    )


def races_due(home: Home, log: LogView, now: datetime, lead: timedelta) -> list[str]:
    """Races with a card known by `now` and an off between `LOOK_BACK` before it and `lead` after it, by off.

    The cards are those of the tables and of the log after them. Raises `UserError` if no tables were built.
    """
    look = Snapshot()
    parts = look.parts(home.offline / "runners")
    query = (
        f"SELECT race_id, arg_max(off_time, seq) AS off FROM {changelog.scan(parts)}"  # noqa: S608 paths are quoted
        " WHERE type = 'racecard' AND known_at <= $now GROUP BY race_id HAVING off BETWEEN $since AND $until"
    )
    bound = {"now": now, "since": now - LOOK_BACK, "until": now + lead}
    with changelog.engine("500MB") as connection:
        offs = dict(connection.execute(query, bound).fetchall())
    built = table_versions.manifest_of(look.folder(home.offline / "runners").parent).next_seq
    offs |= {race_id: off for race_id, known_at, off in log.offs_after(built) if known_at <= now}
    due = [(off, race_id) for race_id, off in offs.items() if bound["since"] <= off <= bound["until"]]
    return [race_id for _, race_id in sorted(due)]
