"""Paper trading: each race decided once, before its off, at what was known then; settled on the weighed-in result."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cli import velo
from tests.support.paper_days import (
    DECISION,
    LEAD,
    OFF,
    TRADER,
    PlainRace,
    PlainRunner,
    a_copy,
    at,
    instants,
    plain_score,
)
from tests.support.seasons import BUILT_AT
from velo.errors import UserError
from velo.racing.cards import decision_time, declared_at, first_result
from velo.racing.messages import Market, Message, NonRunner, Race, Racecard, Reinstated, Result, Runner
from velo.racing.settlement import Bet, Outcome, Venue, edge, settle
from velo.racing.staking import race_stakes
from velo.serving.paper_trading.ledger import SettledBet, Settlement, read, writing
from velo.serving.paper_trading.report import paper_reports
from velo.serving.paper_trading.settlement import settled_race, withdrawals
from velo.serving.paper_trading.trader import (
    BY_EDGE,
    BY_P,
    MISSED,
    PaperRace,
    Rule,
    bets_on,
    decided_race,
    races_due,
    rule_of,
    step,
    trader_of,
)
from velo.serving.scoring.race_messages import messages_of_race
from velo.serving.scoring.scorer import score
from velo.storage.log.writer import LogWriter
from velo.storage.store import Home, Store
from velo.streams.batch.build import build
from velo.streams.unbuilt_log import UnbuiltLog
from velo.training import bundle
from velo.training.evaluation.betting import edges, kelly_stakes
from velo.training.model.trees import ModelOptions
from velo.training.train import train

pytestmark = pytest.mark.slow

# What a withdrawal takes


HORSE_OUT = NonRunner("r1", "b", "by mistake", OFF - timedelta(minutes=3))


def a_told_race(*more: Message, status: str) -> list[Message]:
    """A bet on `a` at 4.0 five minutes before the off; `b` stood at 2.0 and `a` wins."""
    race = Race("r1", date(2025, 6, 1), OFF, "Ascot")
    ran = Runner("b", status=status, position=2 if status == "FINISHED" else None)
    return [
        Racecard(race, (Runner("a"), Runner("b")), OFF - timedelta(hours=5)),
        Market("r1", {"a": 4.0, "b": 2.0}, "show", OFF - timedelta(minutes=30)),
        *more,
        Result(race, (Runner("a", status="FINISHED", position=1), ran), 1, OFF + timedelta(minutes=10)),
    ]


@pytest.mark.parametrize(
    ("more", "status", "price"),
    [
        ((HORSE_OUT,), "NR", 2.65),
        ((HORSE_OUT, Reinstated("r1", "b", OFF - timedelta(minutes=2))), "FINISHED", 4.0),
        ((HORSE_OUT,), "FINISHED", 4.0),
        ((replace(HORSE_OUT, known_at=OFF - timedelta(minutes=20)),), "NR", 4.0),
        ((replace(HORSE_OUT, horse_id="nobody of that name"),), "FINISHED", 4.0),
    ],
    ids=["stands", "taken back by a message", "taken back by the start", "before the bet", "about nobody"],
)
def test_only_a_withdrawal_that_stands_and_came_after_the_bet_takes_of_its_price(
    more: Sequence[Message], status: str, price: float
) -> None:
    """Evens against it is 45p in the pound by Rule 4: 1 + 3 × 0.55 = 2.65."""
    known = a_told_race(*more, status=status)
    result = first_result(known)
    assert result is not None
    settled = settle(Bet("r1", "a", 1.0, OFF - LEAD, 4.0), result, withdrawals(known, DECISION, result))
    assert settled.outcome is Outcome.WON
    assert settled.price == pytest.approx(price)


# Deciding


def test_every_carded_race_is_decided_once_at_its_decision_time_with_the_odds_known_then(traded_store: Store) -> None:
    book = read(traded_store.home)
    assert len(book.decisions) >= 3
    bets = 0
    for decision in book.decisions.values():
        messages = messages_of_race(traded_store.home, decision.race_id).messages
        assert decision.as_of == decision_time(messages, LEAD)
        assert decision.as_of is not None
        assert decision.as_of <= decision.written_at < decision.off_time
        then = declared_at(messages, decision.as_of)
        assert then is not None
        assert decision.runners == len(then.runners)
        p = 1.0 / len(then.runners)
        prices = dict(then.odds.prices) if then.odds else {}
        wanted = {
            runner.horse_id
            for runner in then.runners
            if p * prices.get(runner.horse_id, 0.0) - 1.0 >= TRADER.rule.least
        }
        assert {bet.horse_id for bet in decision.bets} == wanted
        assert all(bet.price == prices[bet.horse_id] for bet in decision.bets)
        bets += len(decision.bets)
    assert bets > 4


def test_a_decision_is_what_the_scorer_itself_says_as_of_then(paper_store: Store, tmp_path: Path) -> None:
    """With a trained model and Feast; what is bet is what `velo score --as-of` says."""
    made = a_copy(paper_store, tmp_path / "home")
    few = ModelOptions(rounds=6, patience=3, leaves=4, threads=1, seeds=1)
    train(made, now=BUILT_AT, model=few, validate_from=date(2023, 4, 23), test_from=date(2023, 5, 11))
    trader = trader_of(made.home)
    assert trader.mode == "paper only"
    assert trader.rule.least == 0.05

    def real(race_id: str, as_of: datetime, now: datetime) -> PaperRace:
        return score(made, race_id, log=UnbuiltLog(made.home), now=now, as_of=as_of)

    with writing(made.home) as ledger:
        for now in instants():
            step(made, UnbuiltLog(made.home), ledger, trader, real, at(now))
            if len(ledger.book.decisions) > 1:
                break
        book = ledger.book
    for decision in book.decisions.values():
        assert decision.as_of is not None
        scored = score(made, decision.race_id, log=UnbuiltLog(made.home), now=BUILT_AT, as_of=decision.as_of)
        found = {runner.horse_id: runner for runner in scored.runners}
        for bet in decision.bets:
            chosen = found[bet.horse_id].blended if trader.rule.blend else found[bet.horse_id].probability
            assert (bet.p, bet.price) == (chosen, found[bet.horse_id].market_odds)
        assert decision.bundle == scored.model


def test_a_starting_price_is_no_price_before_the_off() -> None:
    runners = [
        PlainRunner("a", "A", 0.5, 4.0, "SP"),
        PlainRunner("b", "B", 0.5, 4.0, "show"),
        PlainRunner("c", "C", 0.5, None, None),
    ]
    by_edge = bets_on(runners, Rule(BY_EDGE, 0.1, ""))
    assert [(each.horse_id, each.price) for each in by_edge] == [("b", 4.0)]
    by_p = bets_on(runners, Rule(BY_P, 0.4, ""))
    assert [(each.horse_id, each.price) for each in by_p] == [("a", None), ("b", 4.0), ("c", None)]


def test_the_strategy_is_the_one_the_gate_judged_cut_where_its_backtest_cut_it(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "v"
    folder.mkdir(parents=True)
    assert rule_of(Home(tmp_path), "v").least == 0.05
    (folder / bundle.GATE).write_text('{"strategy": "TOP20 by edge", "cut": 0.123, "backtest": "b"}')
    assert rule_of(Home(tmp_path), "v") == Rule(
        BY_EDGE, 0.123, "TOP20 by edge of the fundamental: edge ≥ 0.123, its cut in backtest b"
    )
    (folder / bundle.GATE).write_text('{"strategy": "TOP20 by edge", "cut": 0.1, "backtest": "b", "subject": "blend"}')
    assert rule_of(Home(tmp_path), "v").blend
    (folder / bundle.GATE).write_text('{"strategy": "TOP20 by edge", "cut": 0.1, "backtest": "b", "subject": "logit"}')
    with pytest.raises(UserError, match="'logit', which is not served"):
        rule_of(Home(tmp_path), "v")


def test_a_rule_of_the_blend_bets_on_it_where_the_odds_are_known_and_by_edge_on_nothing_else() -> None:
    runners = [
        PlainRunner("a", "A", 0.1, 4.0, "show", 0.5),
        PlainRunner("b", "B", 0.9, 4.0, "show", 0.2),
        PlainRunner("c", "C", 0.9, 4.0, "show", None),
    ]
    by_edge = bets_on(runners, Rule(BY_EDGE, 0.1, "", blend=True))
    assert [(each.horse_id, each.p, each.kelly) for each in by_edge] == [("a", 0.5, race_stakes([0.5], [4.0])[0])]
    by_p = bets_on(runners, Rule(BY_P, 0.4, "", blend=True))
    assert [(each.horse_id, each.p) for each in by_p] == [("a", 0.5), ("c", 0.9)]


def test_a_race_that_is_carded_after_the_last_build_is_due_too(paper_store: Store, tmp_path: Path) -> None:
    """A stream puts no messages into the tables: those of the day are in the log alone. A later card may move the off."""
    made = a_copy(paper_store, tmp_path / "home")
    now = BUILT_AT + timedelta(days=1)
    race = Race("late", now.date(), now + timedelta(minutes=2), "Ascot")
    log = UnbuiltLog(made.home)
    before = races_due(made.home, log, now, LEAD)
    with LogWriter.open(made, clock=lambda: now - timedelta(minutes=30)) as writer:
        writer.append(Racecard(race, (Runner("a"), Runner("b"))))
        writer.append(Racecard(replace(race, race_id="far", off_time=now + timedelta(hours=3)), (Runner("a"),)))
    assert races_due(made.home, log, now, LEAD) == [*before, "late"]
    assert "late" not in races_due(made.home, log, now - timedelta(hours=1), LEAD), "it was not known yet"
    with LogWriter.open(made, clock=lambda: now - timedelta(minutes=20)) as writer:
        writer.append(Racecard(replace(race, off_time=now + timedelta(hours=1)), (Runner("a"), Runner("b"))))
    assert "late" not in races_due(made.home, log, now, LEAD)


def test_place_bets_go_with_win_bets_and_settle_by_the_first_dividends_though_an_amendment_brings_them(
    paper_store: Store, tmp_path: Path
) -> None:
    runners = [PlainRunner("a", "A", 0.5, 4.0, "tote", place=0.8), PlainRunner("b", "B", 0.2, 2.0, "tote", place=0.6)]
    placed = bets_on(runners, Rule(BY_EDGE, 0.1, ""), places=True)
    assert [(bet.horse_id, bet.pool, bet.p, bet.price) for bet in placed] == [
        ("a", "win", 0.5, 4.0),
        ("a", "place", 0.8, None),
    ]
    made = a_copy(paper_store, tmp_path / "home")
    off = BUILT_AT + timedelta(days=1)
    decision = replace(DECISION, race_id="p", off_time=off, as_of=off - LEAD, written_at=off - LEAD, bets=placed)
    race = Race("p", off.date(), off, "Sha Tin", country="HK")
    card = tuple(Runner(f"{horse}", runner_no=number) for number, horse in enumerate("abcdefg", start=1))
    ran = tuple(replace(runner, status="FINISHED", position=at + 1, sp_decimal=4.0) for at, runner in enumerate(card))
    paid = "place 1 1.5; place 2 2.1; place 3 1.9"

    def told(minutes: float, *messages: Message) -> None:
        with LogWriter.open(made, clock=lambda: off + timedelta(minutes=minutes)) as writer:
            for message in messages:
                writer.append(message)

    told(-60, Racecard(race, card), Market("p", {"a": 4.0, "b": 2.0}, "tote"))
    told(10, Result(race, ran))
    log = UnbuiltLog(made.home)
    trader = replace(TRADER, rule=Rule(BY_EDGE, 0.1, ""), places=True)
    decided = decided_race(
        made.home, log, "p", trader, lambda *_: PlainRace(TRADER.bundle, runners), at(off - LEAD), off - 2 * LEAD
    )
    assert decided is not None
    assert decided.bets == placed
    with writing(made.home) as ledger:
        ledger.decide(decision)
        assert not settled_race(made.home, log, ledger, decision, off + timedelta(minutes=11)), "it waits for dividends"
        told(20, Result(replace(race, dividends=paid), ran, 2), Result(replace(race, dividends="place 1 9"), ran, 3))
        assert settled_race(made.home, log, ledger, decision, off + timedelta(minutes=21))
        [settlement] = [each for key, each in ledger.book.settlements.items() if key[0] == "p"]
        assert [(bet.pool, bet.outcome, bet.profit) for bet in settlement.bets] == [
            ("win", "won", 3.0), ("place", "won", pytest.approx(0.5)),
        ]  # fmt: skip
        report = paper_reports(ledger.book)[-1]
    assert report.places is not None
    assert (report.places.n, report.places.won) == (1, 1.0)
    assert report.places.profit == pytest.approx(0.5)
    assert report.places.ae_model.value == pytest.approx(1 / 0.8)
    # the tables have no dividends: a day later they are read from the log
    other = replace(decision, bundle="other")
    build(made, off + timedelta(days=1))
    with writing(made.home) as ledger:
        ledger.decide(other)
        assert not settled_race(made.home, UnbuiltLog(made.home), ledger, other, off + timedelta(hours=23))
        assert settled_race(made.home, UnbuiltLog(made.home), ledger, other, off + timedelta(hours=25))
        assert ledger.book.settlements[other.key].bets[1].profit == pytest.approx(0.5)


def test_what_could_not_be_decided_before_the_off_is_missed_and_nothing_is_bet(
    paper_store: Store, tmp_path: Path
) -> None:
    made = a_copy(paper_store, tmp_path / "home")
    every = instants()
    with writing(made.home) as ledger:

        def refusing(race_id: str, as_of: datetime, now: datetime) -> PlainRace:
            raise UserError("Redis is away")

        begun = next(
            number
            for number, now in enumerate(every)
            if step(made, UnbuiltLog(made.home), ledger, TRADER, partial(plain_score, made), at(now)).decided
        )
        waited = [
            line
            for now in every[begun + 1 :]
            for line in step(made, UnbuiltLog(made.home), ledger, TRADER, refusing, at(now)).waiting
        ]
        assert any("Redis is away" in line for line in waited)
        missed = [decision for decision in ledger.book.decisions.values() if decision.missed]
    assert missed
    for each in missed:
        assert each.bets == ()
        assert each.missed == MISSED
        assert each.as_of is None


def test_a_score_that_came_after_the_off_is_no_bet(paper_store: Store, tmp_path: Path) -> None:
    made = a_copy(paper_store, tmp_path / "home")
    with writing(made.home) as ledger:
        for now in instants():
            seen = iter((now, now, *[now + timedelta(minutes=5)] * 9))
            if step(
                made, UnbuiltLog(made.home), ledger, TRADER, partial(plain_score, made), partial(next, seen)
            ).missed:
                break
        (decision,) = ledger.book.decisions.values()
    assert (decision.missed, decision.bets, decision.as_of) == (MISSED, (), None)


# Settling


def test_bets_settle_on_version_1_and_the_report_adds_them_up(traded_store: Store) -> None:
    book = read(traded_store.home)
    assert not book.open()
    profit = staked = 0.0
    for key, settlement in book.settlements.items():
        result = first_result(messages_of_race(traded_store.home, settlement.race_id).messages)
        assert result is not None
        assert settlement.written_at >= settlement.result_known_at == result.known_at
        places = {each.horse_id: each for each in result.runners}
        for bet, found in zip(book.decisions[key].bets, settlement.bets, strict=True):
            runner = places[bet.horse_id]
            if found.outcome == "void":
                assert runner.status == "NR"
                continue
            if found.outcome == "unsettled":
                assert "not known" in found.reason
                continue
            assert (found.outcome == "won") == (runner.position == 1)
            assert found.closing == runner.sp_decimal
            assert found.profit is not None
            assert found.price is not None
            assert bet.price is not None
            assert found.price <= bet.price
            assert found.profit == pytest.approx(found.price - 1.0 if runner.position == 1 else -1.0)
            profit, staked = profit + found.profit, staked + bet.stake
    (report,) = paper_reports(book)
    assert report.n == staked > 4
    assert report.profit == pytest.approx(profit)
    assert report.roi.value == pytest.approx(profit / staked)
    assert report.roi.low is None, "of so few days no interval is told"
    assert report.open == 0


def test_intervals_come_with_ten_days(tmp_path: Path) -> None:
    with writing(Home(tmp_path)) as ledger:
        for day in range(12):
            off = OFF + timedelta(days=day)
            each = replace(
                DECISION, race_id=f"r{day}", race_date=off.date().isoformat(), off_time=off, written_at=off - LEAD
            )
            assert ledger.decide(each)
            won = day % 3 == 0
            found = SettledBet(
                "a", "won" if won else "lost", 4.0, float(won), 3.0 if won else -1.0, 3.2, "", "tattersalls-4c-5p"
            )
            assert ledger.settle(Settlement(each.race_id, "m", off, off, (found,)))
    (report,) = paper_reports(read(Home(tmp_path)))
    assert report.roi.value == pytest.approx((4 * 3 - 8) / 12)
    assert report.roi.low is not None
    assert report.roi.value is not None
    assert report.roi.low < report.roi.value
    assert report.clv.value == pytest.approx(0.25)
    assert report.ae_model.value == pytest.approx(4 / 3.6)
    assert report.ae_price.value == pytest.approx(4 / 3.0)


@given(st.floats(0.001, 0.999), st.floats(1.01, 500.0))
def test_one_bet_is_staked_as_a_whole_period_is(p: float, price: float) -> None:
    many = np.array([p]), np.array([price])
    assert edge(p, price) == edges(*many)[0]
    assert race_stakes([p], [price]) == kelly_stakes(*many, np.zeros(1, dtype=np.intp)).tolist()


def test_the_command_asks_what_to_do(tmp_path: Path) -> None:
    velo("paper", home=tmp_path).told("--follow", "--once", "--report", "give one")
    velo("paper", "--once", home=tmp_path).told("there is no model at", "run `velo train` first")
    assert velo("paper", "--report", "--json", home=tmp_path).document == {"step": None, "models": []}
    assert "no paper decisions yet" in velo("paper", "--report", home=tmp_path).out


def test_an_exchange_s_reduction_factors_reach_the_settlement() -> None:
    """By hand: 6.0 less 20 % is 4.8, and the second factor of that horse counts; a withdrawal without one leaves the bet open."""
    runners = (Runner("a", status="FINISHED", position=1), Runner("b", status="PU"))
    race = Race("r1", OFF.date(), OFF, "Ayr")
    later = OFF - timedelta(minutes=2)
    card = Racecard(race, tuple(Runner(horse) for horse in ("a", "b", "gone", "lost")), OFF - timedelta(hours=3))
    result = Result(race, runners, 1, OFF + timedelta(minutes=15))
    gone = NonRunner("r1", "gone", None, later, 15.0), NonRunner("r1", "gone", None, later + timedelta(seconds=1), 20.0)
    bet = Bet("r1", "a", 1.0, DECISION.written_at, 6.0, Venue.EXCHANGE)
    payout = settle(bet, result, withdrawals([card, *gone, result], DECISION, result))
    assert payout.outcome is Outcome.WON
    assert (payout.price, payout.profit) == pytest.approx((4.8, 3.8))
    lost = NonRunner("r1", "lost", None, later)
    payout = settle(bet, result, withdrawals([card, *gone, lost, result], DECISION, result))
    assert (payout.outcome, payout.reason) == (Outcome.UNSETTLED, "the reduction factor of lost is not known")
