"""The aggregation in arrays makes the rows of the plain fold, bit for bit, however its messages are cut into batches."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.integration.test_fold import messages_of
from tests.support.any_family import families
from tests.support.replay import MemorySpill, RaceState, Replay, Row, apply_version, changelog
from tests.support.strategies import RandomLog, busy_logs, random_logs
from velo.feature_repo.catalogue.families import BY_VIEW, FAMILIES, Family
from velo.racing.clock import LocalDays, to_us
from velo.racing.messages import Message, Result
from velo.streams.aggregation.array_fold import ArrayFold
from velo.streams.aggregation.delta_batch import NULL
from velo.streams.aggregation.key_codes import UNKNOWN, KeyCodes, PairCodes
from velo.streams.aggregation.ratings import Elo
from velo.streams.aggregation.result_delta import ResultDelta
from velo.streams.aggregation.vectorized import Rows, VectorizedColumns

pytestmark = pytest.mark.slow

SEVERAL_A_RACE: Final = (
    # one race gives these keys several starts: their order is that of the horses too
    replace(BY_VIEW["horse_ability"], view="trainer_ability", keys=("trainer_id",), career=()),
    replace(BY_VIEW["horse_form"], view="cell_form", keys=("draw_cell",), windows=(30, 14)),
)
EVERY: Final = (*FAMILIES, *SEVERAL_A_RACE)
Changelog = dict[str, dict[tuple[str, ...], list[Row]]]


def deltas_of(messages: Sequence[Message]) -> list[tuple[int, ResultDelta]]:
    """What each message changes, rated in log order."""
    elo, races = Elo(MemorySpill()), dict[str, RaceState]()
    deltas = []
    for message in messages:
        assert message.known_at is not None
        delta = ResultDelta(message.race_id or "")
        if isinstance(message, Result):
            races[message.race_id], delta = apply_version(races.get(message.race_id), message, elo.rate)
        deltas.append((to_us(message.known_at), delta))
    return deltas


def listed(family: Family, rows: Rows) -> list[Row]:
    """Rows as the plain fold gives them."""
    made = VectorizedColumns(family).of(rows).T.tolist()
    whole = [feature.kind == "int" for feature in family.features]
    values = [
        tuple(
            None if math.isnan(value) else int(value) if is_int else value
            for value, is_int in zip(of_row, whole, strict=True)
        )
        for of_row in made
    ]
    until = [None if each == NULL else each for each in rows.until_us.tolist()]
    return list(zip(rows.texts(), rows.event_us.tolist(), values, until, strict=True))


def rolled(fold: ArrayFold, batches: Iterable[Sequence[tuple[int, ResultDelta]]]) -> Changelog:
    made: Changelog = {}
    for batch in batches:
        for view, rows in fold.roll(batch):
            instants = rows.event_us.tolist()
            assert instants == sorted(instants)
            for row in listed(fold.families[view].family, rows):
                made.setdefault(view, {}).setdefault(row[0], []).append(row)
    return made


def plain_rows(replay: Replay, messages: Sequence[Message]) -> Changelog:
    """The rows of the plain fold, without the views that have none."""
    return {view: rows for view, rows in changelog(replay, messages).items() if rows}


def cut(deltas: list[tuple[int, ResultDelta]], places: Sequence[int]) -> list[list[tuple[int, ResultDelta]]]:
    ends = [0, *sorted(places), len(deltas)]
    return [deltas[begin:end] for begin, end in pairwise(ends) if begin < end]


@settings(max_examples=30, phases=(Phase.explicit, Phase.generate), suppress_health_check=[HealthCheck.too_slow])
@given(random_logs(), st.data())
def test_any_batches_make_the_rows_of_the_plain_fold(log: RandomLog, data: st.DataObject) -> None:
    """Late, tied, amended and void results, window edges and clock changes; message by message, all at once, or between."""
    messages, timezone = messages_of(log), ZoneInfo(log.timezone)
    expected = plain_rows(Replay(timezone, EVERY, shards=1), messages)
    deltas = deltas_of(messages)
    places = st.lists(st.integers(0, len(deltas)), max_size=len(deltas))
    cuts = data.draw(st.sampled_from([[], range(len(deltas))]) | places)
    fold = ArrayFold(EVERY, LocalDays(timezone), MemorySpill())
    assert rolled(fold, cut(deltas, cuts)) == expected


@settings(max_examples=8, phases=(Phase.explicit, Phase.generate), suppress_health_check=[HealthCheck.too_slow])
@given(busy_logs(), families(), st.data())
def test_any_family_has_the_rows_of_the_plain_fold(log: RandomLog, family: Family, data: st.DataObject) -> None:
    """Whatever its keys, windows and aggregates."""
    messages, timezone = messages_of(log), ZoneInfo(log.timezone)
    deltas = deltas_of(messages)
    cuts = data.draw(st.lists(st.integers(0, len(deltas)), max_size=4))
    fold = ArrayFold((family,), LocalDays(timezone), MemorySpill())
    assert rolled(fold, cut(deltas, cuts)) == plain_rows(Replay(timezone, (family,), shards=1), messages)


@settings(max_examples=10, phases=(Phase.explicit, Phase.generate), suppress_health_check=[HealthCheck.too_slow])
@given(random_logs(), st.data())
def test_a_state_of_the_current_results_goes_on_as_that_of_all(log: RandomLog, data: st.DataObject) -> None:
    """A stream restores its state from the results that are current, in any order; later rows are those of a full replay."""
    messages, timezone = messages_of(log), ZoneInfo(log.timezone)
    deltas = deltas_of(messages)
    place = data.draw(st.integers(1, len(deltas))) if deltas else 0
    current = {delta.race_id: delta for _, delta in deltas[:place] if delta}
    added = [(deltas[place - 1][0], replace(delta, retracted=())) for delta in current.values()]
    fold = ArrayFold(EVERY, LocalDays(timezone), MemorySpill())
    rolled(fold, [[(known_at_us, ResultDelta(""))] for known_at_us, _ in deltas[place - 1 : place]])
    fold.restore(fold.batch(data.draw(st.permutations(added)) if added else []))
    plain = Replay(timezone, EVERY, shards=1)
    changelog(plain, messages[:place])
    assert rolled(fold, cut(deltas[place:], [])) == plain_rows(plain, messages[place:])


@given(
    st.lists(st.lists(st.tuples(st.integers(-1, 40), st.integers(-1, 40)), min_size=1, max_size=60), max_size=12),
)
def test_a_pair_has_one_code_and_a_code_one_pair(batches: list[list[tuple[int, int]]]) -> None:
    """While the table grows and in whatever batches they come; a pair with an unknown half has none."""
    pairs, known = PairCodes(), dict[tuple[int, int], int]()
    for batch in batches:
        first, second = (np.array(each, np.int64) for each in zip(*batch, strict=True))
        for pair, code in zip(batch, pairs.codes(first, second).tolist(), strict=True):
            if UNKNOWN in pair:
                assert code == UNKNOWN
            else:
                assert known.setdefault(pair, code) == code
    assert sorted(known.values()) == list(range(len(pairs)))
    for pair, code in known.items():
        assert tuple(int(half[0]) for half in pairs.halves(np.array([code]))) == pair


def test_keys_are_read_back_from_their_codes() -> None:
    columns = ("horse_id", "course", "distance_band")
    keys = KeyCodes([columns, ("jockey_id",)])
    texts = {
        "horse_id": ["A", "B", "A"],
        "course": ["york", "ascot", "york"],
        "distance_band": ["mile", "mile", "sprint"],
    }
    known = keys.codes_of_texts(texts | {"jockey_id": ["J", None, "J"]})
    codes = keys.of(columns, known)
    assert keys.texts(columns, codes) == [("A", "york", "mile"), ("B", "ascot", "mile"), ("A", "york", "sprint")]
    assert known["jockey_id",].tolist() == [0, UNKNOWN, 0]
    assert keys.count(columns) == 3
