"""`velo monitor`: watch the served features and scores."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from velo.commands.edge import Json, facts, now, open_store, show, steps

if TYPE_CHECKING:
    from velo.serving.monitoring.report import MonitorAlarm, MonitorReport, WatchedFeature
    from velo.serving.monitoring.score_quality import ScoreQuality

SHOWN = 15
"""Features listed without --all: those that differ most from the training set."""
ALARMED = 1
"""Exit code while an alarm lasts."""


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(monitor)


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
    table = Table(title="alarms", title_justify="left")
    for name in ("kind", "of", "since", "reported", "over", "what was found"):
        table.add_column(name)
    for alarm in alarms:
        cells = (alarm.since, alarm.reported, alarm.cleared or "")
        table.add_row(alarm.kind, alarm.subject, *map(str, cells), alarm.says)
    return table


def _features(features: "list[WatchedFeature]", count: int) -> Table:
    table = Table(
        title=f"{len(features)} of {count} features, the most changed first (trained → served)", title_justify="left"
    )
    for name in ("feature", "PSI", "JS bits", "null", "range", "distinct", "stale", "days to report"):
        table.add_column(name, justify="left" if name == "feature" else "right")
    for feature in features:
        spans = (
            f"{_number(feature.least_trained)}…{_number(feature.most_trained)}",
            f"{_number(feature.least)}…{_number(feature.most)}",
        )
        table.add_row(
            feature.feature,
            f"{feature.psi:.3f}",
            f"{feature.js:.3f}",
            f"{feature.null_share_trained:.0%} → {feature.null_share:.0%}",
            " → ".join(spans) + (" outside" if feature.outside else ""),
            f"{_share(feature.distinct_trained)} → {_share(feature.distinct)}",
            _share(feature.stale),
            _number(feature.days_to_report),
        )
    return table


def _scores(scores: "tuple[ScoreQuality, ...]") -> Table:
    table = Table(title="settled scores", title_justify="left")
    for name in ("score", "races", "log loss", "market", "margin", "exponent (1 is calibrated)", "CLV"):
        table.add_column(name)
    for score in scores:
        losses = (score.log_loss, score.market_log_loss, score.margin, score.exponent)
        table.add_row(score.of, f"{score.races:,}", *(figure.shown() for figure in losses), score.clv.percent())
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"
