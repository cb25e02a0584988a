"""Tests of features that a person can write: a few starts, amendments and ticks as a table, and the values expected at instants.

    from velo.testing import check

    def test_a_trainers_runs() -> None:
        check(
            FAMILY,
            '''
            race  version  known_at          horse   trainer  position
            R1    1        2024-05-01T15:00  Arkle   Dreaper  1
            R1    1        2024-05-01T15:00  Enable  Gosden   2
            R1    2        2024-05-03T09:00  Arkle   Dreaper  2
            R1    2        2024-05-03T09:00  Enable  Gosden   1
            tick           2024-05-20T00:00
            ''',
            {("Dreaper",): {"2024-05-02T00:00": {"wins": 1}, "2024-05-03T10:00": {"wins": 0}}},
        )

Instants are UTC, and the table is in the order of `known_at`. `horse`, `trainer` and `jockey` are the keys. `-` is unknown. A
runner without a position did not finish, unless `status` says otherwise. `race_date`, `off_time` and every other column of the
runner table may be given; a column that it does not have is kept as in a user's own file.
"""

import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from textwrap import dedent
from typing import Any, Final
from zoneinfo import ZoneInfo

from velo.errors import UserError
from velo.feature_repo.catalogue.family import Family
from velo.racing.clock import local_date
from velo.racing.messages import FINISHED, Message, Race, Result, Runner, Tick
from velo.settings import DEFAULT_TIMEZONE
from velo.storage.log.reader import messages as log_messages
from velo.storage.store import Store
from velo.streams.importers.columns import RACE_COLUMNS, RUNNER_COLUMNS, value_of
from velo.streams.three_ways import MICROSECOND, Disagreement, ThreeWays

Expected = Mapping[tuple[str, ...], Mapping[str, Mapping[str, Any]]]
"""By key, by instant (UTC, ISO 8601): the expected values of some features."""
KEYS: Final = {"horse": "horse_id", "trainer": "trainer_id", "jockey": "jockey_id"}
UNKNOWN: Final = "-"
RELATIVE: Final = 1e-12


class WrongFeature(AssertionError):
    """A feature has another value than expected, or its SQL, its stream and brute force differ."""


def check(family: Family, table: str, expected: Expected | None = None, timezone: str = DEFAULT_TIMEZONE) -> None:
    """Compute a family three ways at every change, and compare the three with each other and with the expected values.

    Raises `WrongFeature` with the three values and the starts behind them; where the three differ, with the fewest messages
    and runners that still show it. Raises `UserError` for a table that cannot be read.
    """
    zone = ZoneInfo(timezone)
    messages = messages_of(table, zone)
    ways = ThreeWays(family, messages, zone)
    _refuse_disagreement(ways)
    for key, instants in (expected or {}).items():
        for text, features in instants.items():
            at = _instant(text)
            found = ways.at(key, at)
            for name, value in features.items():
                if name not in {feature.name for feature in family.features}:
                    raise UserError(f"{family.view} has no feature {name!r}: name one of its features")
                got = found[name][2] if found else None
                if not _close(got, value):
                    _, starts = ways.brute_force(key, at)
                    wrong = Disagreement(
                        family.view, key, at, name, *found.get(name, (None, None, None)), tuple(starts)
                    )
                    raise WrongFeature(f"expected {value!r}\n{described(wrong, family)}")


def _refuse_disagreement(ways: ThreeWays) -> None:
    """Raise `WrongFeature` where the three differ, with the fewest messages and runners that still show a difference."""
    wrong = next(ways.disagreements(), None)
    if wrong is None:
        return
    kept = list(ways.messages)

    def differs(messages: list[Message]) -> bool:
        nonlocal kept, wrong
        found = next(ThreeWays(ways.family, messages, ways.timezone).disagreements(), None) if messages else None
        if found is not None:
            kept, wrong = messages, found
        return found is not None

    size = len(kept) // 2
    while size:
        at = 0
        while at < len(kept):
            if not differs(kept[:at] + kept[at + size :]):
                at += size
        size //= 2
    for at, message in enumerate(kept):
        for runner in message.runners if isinstance(message, Result) else ():
            result = kept[at]
            assert isinstance(result, Result)
            fewer = tuple(other for other in result.runners if other != runner)
            if fewer:
                differs([*kept[:at], replace(result, runners=fewer), *kept[at + 1 :]])
    assert wrong is not None
    raise WrongFeature(f"{described(wrong, ways.family)}\nshown by {len(kept)} of {len(ways.messages)} messages")


def run_file(file: Path) -> dict[str, str]:
    """Run the functions `test_*` of a file; returns for each "ok" or what was wrong. Raises `UserError` without any."""
    if not file.is_file():
        raise UserError(f"{file} is not a file: name a file of tests, as `velo features new NAME` writes one")
    spec = spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.path.insert(0, str(file.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as broken:  # noqa: BLE001  a user's file may raise anything
        raise UserError(f"{file} does not import ({type(broken).__name__}: {broken}): correct it") from None
    tests = {name: value for name, value in vars(module).items() if name.startswith("test_") and callable(value)}
    if not tests:
        raise UserError(f"{file} has no function test_…: write one, as `velo features new NAME` does")
    report = {}
    for name, test in tests.items():
        try:
            test()
        except AssertionError as wrong:
            report[name] = str(wrong) or "an assertion failed"
        except Exception as broken:  # noqa: BLE001  a user's test may raise anything
            report[name] = f"{type(broken).__name__}: {broken}"
        else:
            report[name] = "ok"
    return report


def sampled(store: Store, races: int) -> dict[str, str]:
    """Compute each family of the user's own three ways from the last results of the log; returns for each "ok" or a difference.

    Raises `UserError` where no family is declared outside the package, or the log is empty.
    """
    from velo.feature_repo.catalogue.families import FAMILIES, SHIPPED

    own = FAMILIES[len(SHIPPED) :]
    if not own:
        raise UserError("no features of your own are declared: write some with `velo features new NAME`")
    results: deque[Message] = deque(maxlen=races)
    results.extend(message for _, message in log_messages(store.home) if isinstance(message, Result | Tick))
    if not results:
        raise UserError(f"the log at {store.home.log} is empty: load results with `velo ingest runners FILE` first")
    report = {}
    for family in own:
        try:
            _refuse_disagreement(ThreeWays(family, list(results), store.timezone))
        except WrongFeature as wrong:
            report[family.view] = str(wrong)
        else:
            report[family.view] = "ok"
    return report


def described(wrong: Disagreement, family: Family) -> str:
    """A difference, and the starts behind it, one a line."""
    measures = {measure for aggregate in (*family.career, *family.windowed) for measure in aggregate.measures}
    shown = sorted(measures | {aggregate.measure for aggregate in family.recent})
    starts = [
        f"  {values['race_id']} {values['off_time']:%Y-%m-%dT%H:%M} {values['horse_id']}: "
        + ", ".join(f"{name}={values[name]}" for name in shown)
        for values in wrong.starts
    ]
    return "\n".join(
        (
            f"{wrong.view}__{wrong.feature} of {', '.join(wrong.key)} at {wrong.at.isoformat()}",
            f"  SQL {wrong.sql!r}, stream {wrong.stream!r}, brute force {wrong.brute_force!r}",
            f"starts known then, newest first: {len(starts)}",
            *starts,
        )
    )


def messages_of(table: str, zone: ZoneInfo) -> list[Message]:
    """The messages of a table, stamped as the log stamps them."""
    lines = [line.split() for line in dedent(table).strip().splitlines() if line.strip()]
    header, *rows = lines
    if not {"race", "known_at", "horse"} <= set(header):
        raise UserError(f"the table begins with {' '.join(header)}: it needs the columns race, known_at and horse")
    grouped: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for cells in rows:
        if cells[0] == "tick":
            grouped[tuple(cells)] = []
            continue
        if len(cells) != len(header):
            raise UserError(
                f"the row {' '.join(cells)!r} has {len(cells)} cells, the header {len(header)}: write - for unknown"
            )
        row = dict(zip(header, cells, strict=True))
        grouped.setdefault((row["race"], row.get("version", "1")), []).append(row)
    messages: list[Message] = []
    last = datetime.min.replace(tzinfo=UTC)
    for key, runners in grouped.items():
        known_at = max(_instant(runners[0]["known_at"] if runners else key[-1]), last + MICROSECOND)
        if _is_midnight(known_at, zone):
            known_at += MICROSECOND
        last = known_at
        if runners:
            before = next(
                (message.race for message in messages if isinstance(message, Result) and message.race_id == key[0]),
                None,
            )
            messages.append(_result(runners, known_at, before, zone))
        else:
            messages.append(Tick(known_at - MICROSECOND, known_at))
    return messages


def _result(rows: Sequence[dict[str, str]], known_at: datetime, before: Race | None, zone: ZoneInfo) -> Result:
    """A result; a later version was run when its first version was."""
    first = rows[0]
    given = {name: _typed(first[name], kind) for name, kind in RACE_COLUMNS.items() if name in first}
    off_time = given.pop("off_time", None) or (before.off_time if before else known_at - timedelta(minutes=15))
    race_date = given.pop("race_date", None) or local_date(off_time, zone)
    assert isinstance(race_date, date)
    given.pop("known_at", None)
    course = given.pop("course", None) or "Ascot"
    race = Race(first["race"], race_date, off_time, course, **given)
    return Result(race, tuple(map(_runner, rows)), int(first.get("version", "1")), known_at)


def _runner(row: dict[str, str]) -> Runner:
    values: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    for name, text in row.items():
        if name in KEYS:
            values[KEYS[name]] = None if text == UNKNOWN else text
        elif name in RUNNER_COLUMNS:
            values[name] = _typed(text, RUNNER_COLUMNS[name])
        elif name not in RACE_COLUMNS and name not in ("race", "version") and text != UNKNOWN:
            kept[name] = text
    values.setdefault("status", FINISHED if values.get("position") else "PU")
    return Runner(**values, kept=kept)


def _typed(text: str, kind: str) -> Any:
    if text == UNKNOWN:
        return None
    try:
        return _instant(text) if kind == "instant" else value_of(text, kind)
    except (ValueError, TypeError) as wrong:
        raise UserError(f"{text!r} is not a {kind}: correct the table") from wrong


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"{text!r} is not an instant: write UTC as in 2024-05-01T15:00") from None
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def _is_midnight(instant: datetime, zone: ZoneInfo) -> bool:
    local = instant.astimezone(zone)
    return (local.hour, local.minute, local.second, local.microsecond) == (0, 0, 0, 0)


def _close(got: object, expected: object) -> bool:
    if isinstance(got, float) and isinstance(expected, int | float):
        return abs(got - expected) <= RELATIVE * max(1.0, abs(expected))
    return got == expected
