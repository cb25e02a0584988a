"""Whatever happens to the process, no bet is missed or made twice, and what was written is never cut away."""

import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from benchmarks.stores import forkserver
from tests.support.paper_days import (
    BET,
    DECISION,
    OFF,
    TRADER,
    a_copy,
    at,
    instants,
    plain_score,
    trade,
    traded,
)
from tests.support.seasons import opened
from velo.errors import UserError
from velo.racing.clock import to_text
from velo.serving.paper_trading.ledger import FILE, read, writing
from velo.serving.paper_trading.trader import step
from velo.storage.store import Home, Store
from velo.streams.unbuilt_log import UnbuiltLog


def test_a_race_is_decided_and_settled_once_however_often_it_is_asked(traded_store: Store, tmp_path: Path) -> None:
    made = a_copy(traded_store, tmp_path / "home")
    before = (made.home.paper / FILE).read_bytes()
    traded(made)
    assert (made.home.paper / FILE).read_bytes() == before


def test_killed_in_the_middle_of_writes_the_ledger_ends_as_if_nothing_had_happened(
    paper_store: Store, traded_store: Store, tmp_path: Path
) -> None:
    """SIGKILL with nothing, part, and all but the end of a line written; each time it goes on at the instant it died."""
    home = a_copy(paper_store, tmp_path / "home").home
    (home.root / "instants").write_text("\n".join(map(to_text, instants())))
    begin = 0
    for writes, torn in ((1, 0), (2, 37), (3, 10_000), (1, 200), (0, 0)):
        trader = forkserver().Process(target=trade, args=(home.root, begin, writes, torn))
        trader.start()
        trader.join()
        assert trader.exitcode == (-signal.SIGKILL if writes else 0)
        begin = int((home.root / "instant").read_text())
    assert (home.paper / FILE).read_bytes() == (traded_store.home.paper / FILE).read_bytes()


class Dead(BaseException):
    """The process ends here: nothing that follows in it happens."""


def test_dying_at_every_write_in_turn_no_bet_and_no_settlement_is_missed_or_made_twice(
    paper_store: Store, traded_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any line is begun, in the middle of it, and after it with nothing of what should follow; decisions and settlements."""
    home = a_copy(paper_store, tmp_path / "home").home
    write = os.write
    begun: set[bytes] = set()

    def dying(descriptor: int, content: bytes) -> int:
        if content in begun or not content.startswith(b'{"crc":'):
            return write(descriptor, content)
        begun.add(content)
        torn = (0, len(content) // 2, len(content) - 1, len(content))[len(begun) % 4]
        write(descriptor, content[:torn])
        raise Dead

    monkeypatch.setattr(os, "write", dying)
    every, at_instant, deaths = instants(), 0, 0
    while at_instant < len(every):
        try:
            with writing(home) as ledger:
                for now in every[at_instant:]:
                    step(
                        opened(home.root), UnbuiltLog(home), ledger, TRADER, partial(plain_score, paper_store), at(now)
                    )
                    at_instant += 1
        except Dead:
            deaths += 1
    lines = (traded_store.home.paper / FILE).read_bytes()
    assert deaths == lines.count(b"\n") >= 8
    assert b'"decision"' in lines
    assert b'"settlement"' in lines
    assert (home.paper / FILE).read_bytes() == lines


def test_no_bet_after_the_off_nor_two_on_a_horse_and_one_writer(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with writing(home) as ledger:
        with pytest.raises(ValueError, match="must be written before the off"):
            ledger.decide(replace(DECISION, written_at=OFF))
        with pytest.raises(ValueError, match="at most one bet per horse"):
            ledger.decide(replace(DECISION, bets=(BET, BET)))
        with pytest.raises(UserError, match="another `velo paper` writes"), writing(home):
            pass
        assert ledger.decide(DECISION)
        assert not ledger.decide(DECISION)
    assert list(read(home).decisions.values()) == [DECISION]


def test_damage_before_the_end_is_reported_and_never_cut_away(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with writing(home) as ledger:
        ledger.decide(DECISION)
        ledger.decide(replace(DECISION, race_id="r2"))
    path = home.paper / FILE
    content = path.read_bytes()
    path.write_bytes(content.replace(b"0.3", b"0.4", 1))
    with pytest.raises(UserError, match="is damaged in line 1"), writing(home):
        pass
    path.write_bytes(content[:-9])
    assert [decision.race_id for decision in read(home).decisions.values()] == ["r1"]
