"""Backtests a model on the features of `tests.support.leaking_features` over three files of results. Run as a program.

Its argument is a folder whose `velo.toml` names the module. Prints the alarms of each file, and the columns
that `velo sentinel` names, as JSON:

- `honest`: the place noted beside a start is that of the start itself, known with its result.
- `next race`: it is the horse's place in its next race, as a shift of the wrong sign in the user's own table makes it.
- `rated after`: the official rating is one that the race itself made, and no racecard says another before it.
"""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from tests.support.seasons import BUILT_AT, FIRST_DAY, a_season, a_store
from velo.racing.messages import Message, Racecard, Result, Runner
from velo.training.dataset.training_set import kept_training_set
from velo.training.evaluation.backtest import backtest
from velo.training.evaluation.sentinel import RESULT, tried
from velo.training.model.trees import FEATURES, ModelOptions

DAYS = 240
SMALL = ModelOptions(rounds=30, patience=10, leaves=5, learning_rate=0.1, threads=1, seeds=1)


def changed(results: Iterable[Result], change: Callable[[Result, Runner], Runner]) -> list[Message]:
    return [replace(result, runners=tuple(change(result, runner) for runner in result.runners)) for result in results]


def honest(results: Sequence[Result]) -> list[Message]:
    return changed(results, lambda result, runner: replace(runner, kept={"noted_place": runner.position}))


def next_race(results: Sequence[Result]) -> list[Message]:
    following: dict[tuple[str, str], int | None] = {}
    later: dict[str, int | None] = {}
    for result in reversed(results):
        for runner in result.runners:
            following[result.race_id, runner.horse_id] = later.get(runner.horse_id)
        later |= {runner.horse_id: runner.position for runner in result.runners}
    return changed(
        results,
        lambda result, runner: replace(runner, kept={"noted_place": following[result.race_id, runner.horse_id]}),
    )


def rated_after(results: Sequence[Result]) -> list[Message]:
    return changed(results, lambda result, runner: replace(runner, official_rating=90 - 3 * (runner.position or 20)))


def main(folder: Path) -> None:
    assert {"horse_noted__noted_last", "rated_above__rise"} <= {*FEATURES}
    season = [message for message in a_season(DAYS) if not isinstance(message, Racecard)]
    # first versions alone: an amended place is another leak
    results = [message for message in season if isinstance(message, Result) and message.result_version == 1]
    found = {}
    for name, file in (("honest", honest), ("next race", next_race), ("rated after", rated_after)):
        store = a_store(folder / name.replace(" ", "-"), file(results))
        report = backtest(
            store, now=BUILT_AT, model=SMALL, since=FIRST_DAY + timedelta(days=180), refit_months=1, past=2
        )
        alarms = [alarm.says for alarm in report.alarms if alarm.subject == "fundamental"]
        leaks = [column.column for column in tried(kept_training_set(store)) if column.leak == RESULT]
        found[name] = {"alarms": alarms, "leaks": leaks}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
