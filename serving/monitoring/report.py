"""`velo monitor`: the served features against a model's training set, and the served scores against their results.

Features are compared by race day. The report is written to `$VELO_HOME/monitor/report.json`, which the metrics and the desk show.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Final

import numpy as np

from velo import change_detection
from velo.change_detection import Change, changes, local_date
from velo.drift import CHANNELS, Cohorts, Pooled, Profile
from velo.feature_repo.catalogue import columns
from velo.serving.monitoring import score_quality as quality
from velo.serving.monitoring.score_quality import ScoreQuality, score_quality
from velo.serving.monitoring.served_races import ServedRaces, races_differing, served_races
from velo.serving.scoring.feature_matrix import VIEWS
from velo.serving.scoring.scorer import Scorer
from velo.storage.atomic_files import make_folder, write_atomically
from velo.storage.jsonl import plain
from velo.storage.store import Home

COHORT_DAYS: Final = 5
"""The race days whose values are shown together, and within which a change by the target is to be reported."""
SHOWN_RACES: Final = 5
FALSE_ALARMS_A_SEASON: Final = change_detection.FALSE_ALARMS + quality.FALSE_ALARMS
OTHERWISE: Final = "served otherwise"
"""The kind of an alarm about values that were served and are not those of the tables as of the same instant."""
CALIBRATION: Final = "calibration"


@dataclass(frozen=True, slots=True)
class MonitorAlarm:
    """What was found: `subject` is a feature, or a kind of score. `cleared` is the race day on which it ended, None while it lasts.

    `size` is the change of a mean in standard deviations of the training set, of a share of nulls, or of a divergence in bits.
    """

    kind: str
    subject: str
    since: date
    reported: date
    says: str
    size: float | None = None
    cleared: date | None = None


@dataclass(frozen=True, slots=True)
class WatchedFeature:
    """The served values of a feature over the last race days, each beside the training set's; None where all are null.

    `stale` is the share of runners with a stale row of the feature's view, None for a feature of the race itself. PSI and `js`
    (Jensen-Shannon, bits) compare with the training set at the same courses. `outside` says that a value is beyond the range of
    the training set. `days_to_report` is the mean number of race days to an alarm after a change by one standard deviation.
    """

    feature: str
    stale: float | None
    null_share: float
    null_share_trained: float
    least: float | None
    most: float | None
    least_trained: float | None
    most_trained: float | None
    outside: bool
    distinct: float | None
    distinct_trained: float | None
    psi: float
    js: float
    days_to_report: float | None


@dataclass(frozen=True, slots=True)
class MonitorReport:
    """The state of what is served. Dates are local race dates; `days` are the last race days, which `features` describe.

    `later`, `lost` and `damaged` are those of `ServedRaces`. `false_alarms` is the expected number of false alarms a season.
    """

    model: str
    written_at: datetime
    profile: str
    trained_from: date | None
    trained_to: date | None
    races: int
    runners: int
    race_days: int
    days: tuple[date, ...]
    later: int
    lost: int
    damaged: int
    alarms: tuple[MonitorAlarm, ...]
    features: tuple[WatchedFeature, ...]
    scores: tuple[ScoreQuality, ...]
    notes: tuple[str, ...] = ()
    false_alarms: float = field(default=FALSE_ALARMS_A_SEASON)

    @property
    def active(self) -> tuple[MonitorAlarm, ...]:
        """The alarms that last."""
        return tuple(alarm for alarm in self.alarms if alarm.cleared is None)


def monitored(
    scorer: Scorer,
    profile: Profile | None,
    origin: str,
    model: str,
    now: datetime,
    lead: timedelta,
    progress: Callable[[str, int, int], None] = lambda step, done, steps: None,
) -> MonitorReport:
    """Compare what was served with `profile` (its origin in words) and settle the scores of a model; writes the report.

    Without a profile only the scores, and values that were served otherwise, are reported.
    """
    served = served_races(scorer, lead, lambda done, total: progress("served races", done, total))
    progress("compare", 0, 1)
    days = sorted({race.day for race in served.races})[-COHORT_DAYS:]
    scores = score_quality([race for race in served.races if race.score.model == model])
    alarms = [*_otherwise(served, days), *_uncalibrated(scores)]
    features: tuple[WatchedFeature, ...] = ()
    notes = (
        [] if served.races else ["no race was served that the tables can reproduce: serve one, then run `velo build`"]
    )
    if profile is None:
        notes.append(f"model {model} has no profile of its training set: run `velo monitor --make-profile`")
    elif served.races:
        cohorts = _cohorts(profile, served)
        alarms = [*_drifted(profile, cohorts), *alarms]
        features = _features(profile, cohorts.last(COHORT_DAYS), served, days)
        if profile.noise is None:
            least = change_detection.LEAST_DAYS
            notes.append(
                f"the training set has {profile.days.size} race days, drift alarms need {least}: load more results"
            )
    report = MonitorReport(
        model,
        now,
        origin if profile else "none",
        local_date(profile.days[0]) if profile else None,
        local_date(profile.days[-1]) if profile else None,
        len(served.races),
        sum(len(race.horses) for race in served.races),
        len({race.day for race in served.races}),
        tuple(days),
        served.later,
        served.lost,
        served.damaged,
        tuple(sorted(alarms, key=lambda alarm: (alarm.cleared is not None, -alarm.reported.toordinal()))),
        features,
        scores,
        tuple(notes),
    )
    content = json.dumps(plain(report) | {"active": len(report.active)}, ensure_ascii=False)
    home = scorer.history.store.home
    make_folder(home.monitor)
    write_atomically(home.monitor_report, content.encode())
    progress("compare", 1, 1)
    return report


def last_report(home: Home) -> dict[str, Any] | None:
    """The last report as JSON values; None if there is none that can be read."""
    try:
        found: dict[str, Any] = json.loads(home.monitor_report.read_bytes())
    except (OSError, ValueError):
        return None
    return found


def _cohorts(profile: Profile, served: ServedRaces) -> Cohorts:
    values, days, conditions = served.rows()
    return profile.cohorts(values[:, columns.places(profile.features)], days, conditions)


def _drifted(profile: Profile, cohorts: Cohorts) -> list[MonitorAlarm]:
    if profile.noise is None:
        return []
    found = changes(profile.noise, cohorts.days, cohorts.weights, cohorts.channels)
    return [_drift(profile.features[change.feature], change) for change in found]


def _drift(feature: str, change: Change) -> MonitorAlarm:
    channel = CHANNELS[change.channel]
    amount = {
        "mean": f"its mean moved by {change.size:+.2f} standard deviations",
        "null share": f"its share of nulls moved by {change.size * 100:+.0f} points",
        "shape": f"its distribution moved by {change.size:+.2f} bits",
    }[channel]
    since = f"{amount} since about {change.since}"
    return MonitorAlarm(channel, feature, change.since, change.reported, since, change.size, change.cleared)


def _otherwise(served: ServedRaces, days: Sequence[date]) -> list[MonitorAlarm]:
    day_of = {race.score.race_id: race.day for race in served.races}
    found = []
    for name, races in sorted(races_differing(served.races).items()):
        first, last = day_of[races[0]], day_of[races[-1]]
        more = f" and {len(races) - SHOWN_RACES} more" if len(races) > SHOWN_RACES else ""
        says = f"other values were served than the tables have, in {', '.join(races[:SHOWN_RACES])}{more}"
        found.append(MonitorAlarm(OTHERWISE, name, first, first, says, None, None if last in days else last))
    return found


def _uncalibrated(scores: Sequence[ScoreQuality]) -> list[MonitorAlarm]:
    return [
        MonitorAlarm(
            CALIBRATION,
            score.of,
            score.unsure_since,
            score.unsure_since,
            f"the scores are {'over' if score.overconfident else 'under'}confident: p^{score.exponent.shown(2)} fits best",
            score.exponent.value,
        )
        for score in scores
        if score.unsure_since is not None
    ]


def _features(
    profile: Profile, pooled: Pooled, served: ServedRaces, days: Sequence[date]
) -> tuple[WatchedFeature, ...]:
    recent = ServedRaces(tuple(race for race in served.races if race.day in days), 0, 0, 0)
    stale: Mapping[str, float] = recent.stale_share()
    to_report = None if profile.noise is None else profile.noise.days_to_report()[0]
    found = []
    with np.errstate(invalid="ignore"):
        outside = (pooled.least < profile.least) | (pooled.most > profile.most)
    nulls = profile.null_share()
    for at, name in enumerate(profile.features):
        view = name.partition("__")[0]
        found.append(
            WatchedFeature(
                name,
                stale[view] if view in VIEWS else None,
                float(pooled.null_share[at]),
                float(nulls[at]),
                _known(pooled.least[at]),
                _known(pooled.most[at]),
                _known(profile.least[at]),
                _known(profile.most[at]),
                bool(outside[at]),
                _known(pooled.distinct[at]),
                _known(profile.distinct[at]),
                float(pooled.psi[at]),
                float(pooled.js[at]),
                None if to_report is None else float(to_report[at]),
            )
        )
    return tuple(found)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
