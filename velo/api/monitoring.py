"""Compare what is served with a model's training set: the profile, the served races, and the training values of the same races."""

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from velo.api.opened import Progress, silent
from velo.drift import Profile
from velo.storage.atomic_files import make_folder, write_atomically
from velo.storage.store import Store

if TYPE_CHECKING:
    from velo.serving.monitoring.report import MonitorReport
    from velo.training.evaluation.sentinel import ColumnTried

STORED: Final = "stored with the model"
MADE: Final = "made of the store's training set"


def monitor(
    store: Store,
    now: datetime,
    *,
    version: str | None = None,
    make_profile: bool = False,
    progress: Progress = silent,
) -> "MonitorReport":
    """Report on what is served with a model, the current one by default.

    `make_profile` makes the profile of a model that was stored without one, from the store's training set up to the last day
    that the model was trained on. Raises `UserError` for an unknown version and for a store without a model.
    """
    from velo.serving.monitoring.report import monitored
    from velo.serving.scoring.scorer import scorer_of
    from velo.streams.unbuilt_log import UnbuiltLog
    from velo.training import bundle

    chosen = version or bundle.current(store.home)
    described = bundle.described(store.home, chosen)
    lead = timedelta(seconds=described["lead_s"])
    profile, origin = bundle.stored_profile(store.home, chosen), STORED
    if profile is None:
        profile, origin = _made_profile(store, described, lead, progress, again=make_profile), MADE
    scorer = scorer_of(store, UnbuiltLog(store.home))
    return monitored(scorer, profile, origin, chosen, now, lead, progress)


def _made_profile(
    store: Store, described: dict[str, object], lead: timedelta, progress: Progress, *, again: bool
) -> Profile | None:
    """The profile made earlier for a model without one, or now; None if it was not made."""
    from velo.training.dataset.entity_rows import Period
    from velo.training.dataset.training_set import kept_training_set

    path = store.home.monitor / f"{described['version']}.npz"
    if not again:
        try:
            return Profile.from_bytes(path.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
    periods = described["periods"]
    features = described["features"]
    assert isinstance(periods, dict)
    assert isinstance(features, list)
    period = Period(until=date.fromisoformat(periods["train"]["last_day"]))
    profile = kept_training_set(store, lead=lead, period=period, progress=progress).profile(features)
    make_folder(path.parent)
    write_atomically(path, profile.to_bytes())
    return profile


def sentinel(
    store: Store, *, lead: timedelta, columns: Path | None = None, progress: Progress = silent
) -> "list[ColumnTried]":
    """Try each column of the training set, and those of a user's Parquet file, for what it cannot know before the race.

    Races that were served are compared value by value. Raises `UserError` for a file that cannot be read or joined.
    """
    from velo.serving.monitoring.served_races import at_decision_time, served_races
    from velo.serving.scoring.scorer import scorer_of
    from velo.streams.unbuilt_log import UnbuiltLog
    from velo.training.dataset.training_set import kept_training_set
    from velo.training.evaluation.sentinel import ServedValues, columns_of, read_columns, tried

    rows = kept_training_set(store, lead=lead, progress=progress)
    extra = columns_of(read_columns(columns), rows) if columns else None
    held = set(rows.identity.column("race_id").to_pylist())
    scorer = scorer_of(store, UnbuiltLog(store.home))
    served = served_races(scorer, lead, lambda done, total: progress("served races", done, total)).races
    served = tuple(race for race in served if race.score.race_id in held)
    decided = at_decision_time(scorer, served, lead)
    differing = {race.score.race_id: race.differing for race in served}
    values = {race_id: ServedValues(*of_race, differing[race_id]) for race_id, of_race in decided.items()}
    return tried(rows, extra, served=values)
