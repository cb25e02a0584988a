"""`velo monitor`: watch the served features and scores."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from velo.commands.edge import Json, facts, now, open_store, show, steps, table_of

if TYPE_CHECKING:
    from velo.serving.monitoring.report import MonitorAlarm, MonitorReport, WatchedFeature
    from velo.serving.monitoring.score_quality import ScoreQuality

SHOWN = 15
"""Features listed without --all: those that differ most from the training set."""
ALARMED = 1
"""Exit code while an alarm lasts."""


def monitor(
    model: Annotated[
        str | None,
        typer.Option(help="Version whose training set and scores to compare with (default: the one that serves)."),
    ] = None,
    make_profile: Annotated[
        bool,
        typer.Option(
            "--make-profile", help="Make the profile of a model stored without one, from the store's training set."
        ),
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="Show every feature, and alarms that are over.")] = False,
    as_json: Json = False,
) -> None:
    """Compare served features with the model's training set, and settled scores with the market; exits 1 while an alarm lasts.

    Race days are the units. The tests expect less than one false alarm a season over all features and scores together.
    """
    from velo.api import monitoring

    with steps(as_json) as progress:
        report = monitoring.monitor(open_store(), now(), version=model, make_profile=make_profile, progress=progress)
    show(report, as_json, lambda: _report(report, every=every))
    if report.active:
        raise typer.Exit(ALARMED)


def _report(report: "MonitorReport", *, every: bool) -> Group:
    span = f"{report.days[0]} to {report.days[-1]}" if report.days else "none"
    rows = [
        ("model", report.model),
        ("training set", f"{report.trained_from} to {report.trained_to}, profile {report.profile}"),
        ("served", f"{report.races:,} races, {report.runners:,} runners on {report.race_days:,} race days"),
        ("features shown of", f"{span} ({len(report.days)} race days)"),
        ("later than the tables", report.later),
        ("cannot be computed again", report.lost),
        ("damaged lines", report.damaged),
        ("expected false alarms", f"{report.false_alarms:g} a season, all tests together"),
    ]
    alarms = report.alarms if every else report.active
    features = sorted(report.features, key=lambda feature: -feature.js)
    parts = [facts(f"{len(report.active)} alarms" if report.active else "no alarm", rows)]
    parts += [_alarms(alarms)] if alarms else []
    parts += [_features(features if every else features[:SHOWN], len(features))] if features else []
    parts += [_scores(report.scores)] if report.scores else []
    return Group(*parts, *(Text(f"· {note}") for note in report.notes))


def _alarms(alarms: "tuple[MonitorAlarm, ...]") -> Table:
    rows = (
        (alarm.kind, alarm.subject, alarm.since, alarm.reported, alarm.cleared or "", alarm.says) for alarm in alarms
    )
    return table_of("alarms", ("kind", "of", "since", "reported", "over", "what was found"), rows)


def _features(features: "list[WatchedFeature]", count: int) -> Table:
    title = f"{len(features)} of {count} features, the most changed first (trained → served)"
    columns = ("feature", "PSI", "JS bits", "null", "range", "distinct", "stale", "days to report")
    rows = (
        (
            feature.feature,
            f"{feature.psi:.3f}",
            f"{feature.js:.3f}",
            f"{feature.null_share_trained:.0%} → {feature.null_share:.0%}",
            f"{_span(feature.least_trained, feature.most_trained)} → {_span(feature.least, feature.most)}"
            + " outside" * feature.outside,
            f"{_share(feature.distinct_trained)} → {_share(feature.distinct)}",
            _share(feature.stale),
            _number(feature.days_to_report),
        )
        for feature in features
    )
    return table_of(title, columns, rows, left=("feature",))


def _scores(scores: "tuple[ScoreQuality, ...]") -> Table:
    rows = (
        (score.of, score.races, score.log_loss.shown(), score.market_log_loss.shown(), score.margin.shown(),
         score.exponent.shown(), score.clv.percent())
        for score in scores
    )  # fmt: skip
    columns = ("score", "races", "log loss", "market", "margin", "exponent (1 is calibrated)", "CLV")
    return table_of("settled scores", columns, rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _span(least: float | None, most: float | None) -> str:
    return f"{_number(least)}…{_number(most)}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"
