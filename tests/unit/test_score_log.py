"""The score log is bounded: repeats make no line each, old days give way, and each client has its share."""

from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from tests.support.score_races import SCORED_AT as NOW
from tests.support.score_races import a_score
from velo.feature_repo.catalogue import columns
from velo.serving.api.limits import Allowance
from velo.serving.api.problems import Refusal
from velo.serving.scoring.score_log import UNNAMED, NotKept, ScoreLog, Served, served
from velo.serving.scoring.scored import ScoredRace
from velo.storage.atomic_files import make_folder
from velo.storage.store import Home

SECOND = timedelta(seconds=1)


@pytest.fixture
def score() -> Callable[..., ScoredRace]:
    return a_score


def kept(home: Home) -> list[Served]:
    lines = [found for _, found in served(home)]
    assert None not in lines
    return [line for line in lines if line is not None]


def test_a_score_served_again_is_kept_once_a_minute_and_counted(
    tmp_path: Path, score: Callable[..., ScoredRace]
) -> None:
    log = ScoreLog(Home(tmp_path))
    for number in range(125):
        log(score(scored_at=NOW + number * SECOND))
    log.close()
    lines = kept(Home(tmp_path))
    assert [(line.scored_at - NOW) / SECOND for line in lines] == [0, 60, 120]
    assert [line.repeats for line in lines] == [0, 59, 59]


def test_one_that_stands_on_later_instants_is_kept_once_a_second(
    tmp_path: Path, score: Callable[..., ScoredRace]
) -> None:
    log = ScoreLog(Home(tmp_path))
    for number in range(50):
        now = NOW + number * SECOND / 10
        log(score(scored_at=now, as_of=now))
    log.close()
    assert [(each.as_of - NOW) / SECOND for each in kept(Home(tmp_path))] == [0, 1, 2, 3, 4]


def test_what_differs_in_anything_is_kept_at_once(tmp_path: Path, score: Callable[..., ScoredRace]) -> None:
    log = ScoreLog(Home(tmp_path))
    first = score()
    (runner,) = first.runners
    others = (
        score(race_id="S"),
        score(fingerprint="g"),
        replace(first, model="n"),
        replace(first, odds_known_at=NOW),
        replace(first, runners=(replace(runner, market_odds=2.0),)),
        replace(first, runners=(replace(runner, blended=0.5),)),
    )
    for each in (first, *others, first, *others):
        log(each)
    log.close()
    assert len(kept(Home(tmp_path))) == 7


def test_days_that_are_too_old_are_removed_and_the_oldest_while_all_are_too_long(
    tmp_path: Path, score: Callable[..., ScoredRace]
) -> None:
    home = Home(tmp_path)
    folder = make_folder(home.scores)
    for day in ("2026-05-01", "2026-05-29", "2026-05-30", "2026-05-31"):
        (folder / f"{day}.ndjson").write_bytes(b"\n" * 600_000)
    log = ScoreLog(home, days=10, megabytes=2)
    log(score())
    assert sorted(path.stem for path in folder.iterdir()) == ["2026-05-29", "2026-05-30", "2026-05-31", "2026-06-01"]
    log = ScoreLog(home, days=10, megabytes=1)
    log(score(fingerprint="g"))
    assert sorted(path.stem for path in folder.iterdir()) == ["2026-05-31", "2026-06-01"]
    (folder / "2026-06-01.ndjson").write_bytes(b"\n" * 2_000_000)
    with pytest.raises(NotKept, match="VELO_SCORES_MB=1"):
        ScoreLog(home, days=10, megabytes=1)(score(fingerprint="h"))


def test_a_score_differs_in_what_its_model_reads_and_another_catalogue_s_columns_are_not_compared(
    tmp_path: Path,
) -> None:
    digests = np.zeros(len(columns.BASE), dtype="<u2")
    digests[[2, 5]] = 7
    here, there = (b64encode(each.tobytes()).decode() for each in (np.zeros_like(digests), digests))
    ScoreLog(Home(tmp_path))(replace(a_score(), column_digests=here))
    [line] = kept(Home(tmp_path))
    third, sixth = columns.BASE[2], columns.BASE[5]
    assert line.differing("f", there, {third}) == ()
    assert line.differing("other", there, {third, sixth}) == (third, sixth)
    assert line.differing("other", there, {sixth, columns.BASE[3]}) == (sixth,)
    assert line.differing("other", here, {third}) == UNNAMED
    assert replace(line, column_digests=None).differing("other", there, {third}) == UNNAMED
    assert replace(line, columns="00000000").differing("other", there, {third}) == ()
    shorter = b64encode(digests[1:].tobytes()).decode()
    assert replace(line, columns=None, column_digests=shorter).differing("other", there, {third}) == ()


def test_a_line_of_an_earlier_release_is_read(tmp_path: Path, score: Callable[..., ScoredRace]) -> None:
    log = ScoreLog(Home(tmp_path))
    log(score())
    log.close()
    (path,) = Home(tmp_path).scores.iterdir()
    rest = path.read_bytes().split(b",", 1)[1].replace(b',"repeats":0', b"")
    path.write_bytes(b'{"crc":"%08x",%s' % (crc32(rest.rstrip(b"\n")), rest))
    (line,) = kept(Home(tmp_path))
    assert line.repeats == 0


def test_a_client_that_asks_without_end_is_asked_to_slow_down_and_another_is_not() -> None:
    allowance = Allowance(a_second=10.0, burst=5)
    for _ in range(5):
        allowance.spend("one", 0.0)
    with pytest.raises(Refusal, match="ask more slowly") as refused:
        allowance.spend("one", 0.0)
    assert refused.value.status == 429
    allowance.spend("another", 0.0)
    allowance.spend("one", 0.11)
    with pytest.raises(Refusal):
        allowance.spend("one", 0.11)
