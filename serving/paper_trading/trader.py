"""`velo paper`: bets on paper, decided at each race's decision time with what was known then, settled on the weighed-in result.

One `step` decides every race whose decision time has come and settles every bet whose result is known; it may be repeated at any
moment, after any crash: what the ledger has is not done again, and what can no longer be done before the off is said to be missed.
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
from velo.racing.staking import edge, kelly_stake
from velo.serving.paper_trading.ledger import Decision, Ledger, PaperBet
from velo.serving.paper_trading.settlement import known_of, settled_race
from velo.serving.scoring.history import LogView
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
    """What is read of a scored runner."""

    @property
    def horse_id(self) -> str: ...  # noqa: D102 as `velo.serving.scoring.scorer` tells it
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


class PaperRace(Protocol):
    """What is read of a scored race."""

    @property
    def model(self) -> str: ...  # noqa: D102 as `velo.serving.scoring.scorer` tells it
    @property
    def runners(self) -> Sequence[PaperRunner]: ...  # noqa: D102


Score = Callable[[str, datetime, datetime], PaperRace]
"""Score a race as of an instant: (race_id, as_of, now)."""


Clock = Callable[[], datetime]
"""The time it is, UTC."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a model bets on: runners whose p or edge is at least so much. `says` it in words, with where it is from.

    p is the model's own, or with the market put to it (`blend`): where every runner has odds, else by p the model's own and
    by edge none.
    """

    by: str
    least: float
    says: str
    blend: bool = False


@dataclass(frozen=True, slots=True)
class Trader:
    """A model on paper: its version, what it may be used for, how long before the off it decides, what it bets on."""

    bundle: str
    mode: str
    lead: timedelta
    rule: Rule


@dataclass(frozen=True, slots=True)
class PaperStep:
    """What a step did: races decided, bets written, races missed, decisions settled; and what keeps a race waiting."""

    decided: int = 0
    bets: int = 0
    missed: int = 0
    settled: int = 0
    waiting: tuple[str, ...] = ()


def trader_of(home: Home) -> Trader:
    """The current model; raises `UserError` where there is none."""
    version = current(home)
    kept = described(home, version)
    return Trader(
        version,
        str(kept["mode"]),
        timedelta(seconds=float(kept["lead_s"])),
        rule_of(home, version, blends=kept.get("blend") is not None),
    )


def rule_of(home: Home, version: str, *, blends: bool = False) -> Rule:
    """The strategy that the gate judged the model by, of the probabilities it judged, cut where its backtest cut it.

    Without a verdict an edge of 5 %, as the desk shows it: of the blend where the model `blends`, else of its own chance.
    Raises `UserError` for a verdict of probabilities that are not served.
    """
    try:
        told: dict[str, Any] = json.loads((home.models / version / GATE).read_bytes())
    except FileNotFoundError:
        told = {}
    name, cut = told.get("strategy"), told.get("cut")
    if name is None or cut is None:
        of = BLEND if blends else FUNDAMENTAL
        says = f"edge ≥ {DEFAULT_EDGE:g} of the {of}, for want of a judged strategy"
        return Rule(BY_EDGE, DEFAULT_EDGE, says, blends)
    subject = str(told.get("subject", FUNDAMENTAL))
    if subject not in (FUNDAMENTAL, BLEND):
        raise UserError(
            f"the gate judged model {version} by {subject!r}, which is not served: run `velo gate` without --of"
        )
    by = BY_P if name.endswith(f"by {BY_P}") else BY_EDGE
    says = f"{name} of the {subject}: {by} ≥ {cut:.4g}, its cut in backtest {told.get('backtest')}"
    return Rule(by, float(cut), says, subject == BLEND)


def step(store: Store, log: LogView, ledger: Ledger, trader: Trader, score: Score, clock: Clock) -> PaperStep:
    """Decide and settle whatever can be now; `score` is asked for races whose decision time has come.

    `clock` (UTC) is asked again after each score, which takes its time: a bet that would come after the off is none.
    A race is missed where its off came before it could be decided; of races whose off lies before the ledger's first line
    nothing is said.
    """
    now = clock()
    begun = min((one.written_at for one in ledger.book.decisions.values()), default=now)
    decided = bets = missed = 0
    waiting = []
    for race_id in races_due(store.home, now, trader.lead):
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
    settled = sum(settled_race(store.home, log, ledger, one, now) for one in ledger.book.open())
    return PaperStep(decided, bets, missed, settled, tuple(waiting))


def decided_race(
    home: Home, log: LogView, race_id: str, trader: Trader, score: Score, clock: Clock, begun: datetime
) -> Decision | None:
    """What is decided of a race now; None where its time has not come, or its off came before `begun`.

    It is scored as of its decision time, also where that is past; as of now where no card was told by then. A race with
    a result is missed, also before its scheduled off. Raises
    `UserError` where it cannot be scored yet.
    """
    now = clock()
    known = known_of(home, log, race_id, now)
    at = decision_time(known, trader.lead)
    stands = declared_at(known, now)
    if at is None or stands is None or at > now:
        return None
    race = stands.race
    whole = Decision(
        race_id=race_id,
        bundle=trader.bundle,
        mode=trader.mode,
        race_date=race.race_date.isoformat(),
        off_time=race.off_time,
        as_of=None,
        written_at=now,
        rule=trader.rule.says,
        runners=len(stands.runners),
        bets=(),
        missed=MISSED,
    )
    if now >= race.off_time or result_known_at(known) is not None:
        return whole if race.off_time > begun else None
    then = declared_at(known, at)
    as_of = at if then is not None and then.source == FROM_CARD else now
    scored = score(race_id, as_of, now)
    if scored.model != trader.bundle:
        raise UserError(f"model {scored.model} took over from {trader.bundle}: it decides in the next step")
    written_at = clock()
    if written_at >= race.off_time:
        return replace(whole, written_at=written_at)
    return replace(whole, as_of=as_of, written_at=written_at, bets=bets_on(scored.runners, trader.rule), missed=None)


def bets_on(runners: Sequence[PaperRunner], rule: Rule) -> tuple[PaperBet, ...]:
    """One unit on each runner that the rule wants, at the price known; a rule by p takes SP where there is none."""
    placed = []
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
            kelly = None if price is None else kelly_stake(p, price)
            placed.append(PaperBet(runner.horse_id, runner.horse, p, price, source, UNIT, kelly))
    return tuple(placed)


def races_due(home: Home, now: datetime, lead: timedelta) -> list[str]:
    """Races with a card told by `now` and an off from three days before it to `lead` after it, by off.

    Raises `UserError` where there are no tables.
    """
    parts = Snapshot().parts(home.offline / "runners")
    listed = ", ".join(changelog.text(part) for part in parts)
    query = (
        f"SELECT race_id, arg_max(off_time, seq) AS off FROM read_parquet([{listed}])"  # noqa: S608 paths are quoted
        " WHERE type = 'racecard' AND known_at <= $now GROUP BY race_id"
        " HAVING off BETWEEN $since AND $until ORDER BY off, race_id"
    )
    bound = {"now": now, "since": now - LOOK_BACK, "until": now + lead}
    with changelog.engine("500MB") as connection:
        return [str(row[0]) for row in connection.execute(query, bound).fetchall()]
