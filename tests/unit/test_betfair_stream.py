"""Betfair's historical stream: a market made up in its form gives a card, withdrawals, prices before the off and a result."""

import bz2
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from velo.errors import UserError
from velo.racing.messages import Market, NonRunner, Racecard, Result
from velo.settings import Settings
from velo.storage.log.reader import end, messages, records
from velo.storage.store import Store
from velo.streams.importers import registry

NOW = datetime(2024, 1, 1, tzinfo=UTC)
OFF = "2023-05-13T13:30:00.000Z"


def pt(clock: str) -> int:
    return int(datetime.fromisoformat(f"2023-05-13T{clock}+00:00").timestamp() * 1000)


def definition(statuses: Mapping[int, str], **fields: Any) -> dict[str, Any]:
    names = {1: "1. Alpha", 2: "2. Beta", 3: "3. Gamma"}
    runners = [
        {
            "id": number,
            "name": names[number],
            "status": status,
            "sortPriority": number,
            "adjustmentFactor": 20.5,
            "bsp": 3.1 * number,
        }
        for number, status in statuses.items()
    ]
    return {
        "eventTypeId": "7", "marketType": "WIN", "marketTime": OFF, "status": "OPEN", "inPlay": False, "venue": "Flemington",
        "countryCode": "AU", "timezone": "Australia/Melbourne", "name": "R3 1200m Hcap", "runners": runners,
    } | fields  # fmt: skip


def line(clock: str, **change: Any) -> dict[str, Any]:
    return {"op": "mcm", "clk": "1", "pt": pt(clock), "mc": [{"id": "1.2130"} | change]}


ACTIVE = {1: "ACTIVE", 2: "ACTIVE", 3: "ACTIVE"}
WITHOUT_3 = ACTIVE | {3: "REMOVED"}
SETTLED = {1: "LOSER", 2: "WINNER", 3: "REMOVED"}
DAY = [
    line("09:00:00", marketDefinition=definition(ACTIVE)),
    line("12:00:00", rc=[{"id": 1, "ltp": 3.0}, {"id": 2, "ltp": 2.5}, {"id": 3, "ltp": 4.0}]),
    line("12:45:00", rc=[{"id": 1, "ltp": 3.2, "tv": 75.5}]),
    line("13:05:00", marketDefinition=definition(WITHOUT_3)),
    line("13:24:00", rc=[{"id": 2, "ltp": 2.0}]),
    line("13:31:00", marketDefinition=definition(WITHOUT_3, inPlay=True)),
    line("13:32:00", rc=[{"id": 2, "ltp": 1.01}]),
    line("13:40:00", marketDefinition=definition(SETTLED, inPlay=True, status="CLOSED")),
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(Settings(home=tmp_path / "home"))


def load(store: Store, tmp_path: Path, lines: Sequence[object], name: str = "1.2130.bz2") -> Any:
    path = tmp_path / name
    path.write_bytes(bz2.compress("\n".join(map(json.dumps, lines)).encode()))
    return registry.importer("betfair-stream").load(
        store, [path], late=False, clock=lambda: NOW, progress=lambda done, total: None
    )


def at(clock: str) -> datetime:
    return datetime.fromisoformat(f"2023-05-13T{clock}+00:00")


def test_a_market_gives_its_card_prices_withdrawal_and_result_as_each_became_known(
    store: Store, tmp_path: Path
) -> None:
    report = load(store, tmp_path, DAY)
    assert (report.markets, report.races, report.left_out, report.refused) == (1, 1, {}, {})
    loaded = [message for _, message in messages(store.home)]
    kinds = [(type(message), message.known_at) for message in loaded]
    assert kinds == [
        (Racecard, at("09:00:00")),
        (Market, at("12:25:00")),
        (Market, at("12:30:00")),
        (Market, at("12:55:00")),
        (Market, at("13:00:00")),
        (NonRunner, at("13:05:00")),
        (Market, at("13:15:00")),
        (Market, at("13:20:00")),
        (Market, at("13:25:00")),
        (Market, at("13:29:00")),
        (Result, at("13:40:00")),
    ]
    markets = [message for message in loaded if isinstance(message, Market)]
    prices = [dict(message.prices) for message in markets]
    assert prices[1] == {"1": 3.0, "2": 2.5, "3": 4.0}, "an hour before the off, and not the later price of 3.2"
    assert prices[2] == prices[3] == {"1": 3.2, "2": 2.5, "3": 4.0}
    assert prices[4] == prices[5] == {"1": 3.2, "2": 2.5}, "the removed horse has no price"
    assert prices[6] == prices[7] == {"1": 3.2, "2": 2.0}
    assert [market.volumes for market in markets[:3]] == [None, None, {"1": 75.5}]
    result = loaded[-1]
    assert isinstance(result, Result)
    assert (result.race.off_time, result.race.race_no, result.race.distance_m) == (at("13:30:00"), 3, 1200.0)
    assert (result.race.course, result.race.country) == ("Flemington", "AUS")
    assert [(runner.horse, runner.status, runner.position, runner.sp_decimal) for runner in result.runners] == [
        ("Alpha", "RAN", None, 3.1),
        ("Beta", "RAN", 1, 6.2),
        ("Gamma", "NR", None, pytest.approx(9.3)),
    ]
    withdrawal = next(record for record in records(store.home) if record["type"] == "non_runner")
    assert (withdrawal["horse_id"], withdrawal["reduction_factor"]) == ("3", 20.5)


def test_the_markets_of_a_tar_are_loaded_as_one(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "2023_May_13.tar"
    with tarfile.open(path, "w") as archive:
        for market in ("1.2130", "1.2131"):
            content = bz2.compress("\n".join(json.dumps(each).replace("1.2130", market) for each in DAY).encode())
            member = tarfile.TarInfo(f"BASIC/2023/May/13/{market}.bz2")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    report = registry.importer("betfair-stream").load(
        store, [path], late=False, clock=lambda: NOW, progress=lambda done, total: None
    )
    assert dict(report.facts())["races"] == 2


def test_a_load_that_is_repeated_appends_nothing(store: Store, tmp_path: Path) -> None:
    first = load(store, tmp_path, DAY)
    again = load(store, tmp_path, DAY)
    assert (again.appended, again.identical) == (0, first.appended)


def test_a_market_whose_runners_were_all_removed_is_a_void_race(store: Store, tmp_path: Path) -> None:
    load(
        store,
        tmp_path,
        [*DAY[:3], line("13:40:00", marketDefinition=definition(dict.fromkeys(ACTIVE, "REMOVED"), status="CLOSED"))],
    )
    *_, result = (message for _, message in messages(store.home) if isinstance(message, Result))
    assert {runner.status for runner in result.runners} == {"VOID"}


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([line("09:00:00", marketDefinition=definition(ACTIVE, marketType="PLACE"))], "other market"),
        ([line("09:00:00", marketDefinition=definition(ACTIVE, eventTypeId="4339"))], "other market"),
        (DAY[:-1], "not settled"),
    ],
)
def test_another_market_and_one_without_a_settlement_are_left_out_and_counted(
    lines: list[object], reason: str, store: Store, tmp_path: Path
) -> None:
    report = load(store, tmp_path, lines)
    assert (report.markets, report.races, report.appended, report.left_out) == (1, 0, 0, {reason: 1})


def test_a_market_without_a_winner_is_a_dead_letter(store: Store, tmp_path: Path) -> None:
    report = load(
        store,
        tmp_path,
        [*DAY[:-1], line("13:40:00", marketDefinition=definition(ACTIVE | {1: "LOSER", 2: "LOSER"}, status="CLOSED"))],
    )
    assert (report.races, report.appended, report.refused) == (0, 0, {"no winner": 1})


@pytest.mark.parametrize("lines", [[{"op": "connection"}], [[1]], [{"hello": 1}]])
def test_a_file_of_another_kind_is_refused_in_a_line_and_nothing_is_loaded(
    lines: list[object], store: Store, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="is no stream file"):
        load(store, tmp_path, lines)
    assert end(store.home).next_seq == 0


def test_half_a_file_is_refused_and_nothing_is_loaded(store: Store, tmp_path: Path) -> None:
    load_all = bz2.compress("\n".join(map(json.dumps, DAY)).encode())
    path = tmp_path / "half.bz2"
    path.write_bytes(load_all[: len(load_all) // 2])
    with pytest.raises(UserError, match="is damaged"):
        registry.importer("betfair-stream").load(
            store, [path], late=False, clock=lambda: NOW, progress=lambda done, total: None
        )
    assert end(store.home).next_seq == 0
