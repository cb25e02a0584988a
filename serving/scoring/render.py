"""A scored race as a table for the terminal and as JSON."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime, timedelta
from math import exp, expm1
from typing import Any, Final

from rich.console import Group
from rich.text import Text

from velo.feature_repo.catalogue.market_moves import DRIFTS
from velo.racing.cards import DRIFT_MINUTES
from velo.racing.clock import to_text
from velo.serving.scoring.drivers import Driver
from velo.serving.scoring.scored import ScoredRace, ScoredRunner
from velo.text_tables import table_of

_FLAGGED_AT_MOST = 2
_MINUTE: Final = timedelta(minutes=1)
_OLD_ODDS: Final = 10 * _MINUTE
"""The desk calls older odds old, too."""
_DRIFT: Final = f"Drift %, {'/'.join(map(str, DRIFT_MINUTES))} min"


def race_card(scored: ScoredRace) -> Group:
    """The race card for the terminal; no information is in colour alone."""
    distance = f"{scored.distance_m:,.0f} m" if scored.distance_m is not None else "distance unknown"
    title = " · ".join(filter(None, (scored.race_id, scored.course, scored.race_name, distance, scored.going)))
    head = Text(title, style="bold")
    when = Text(
        f"off {scored.off_time:%Y-%m-%d %H:%M} UTC · as of {scored.as_of:%Y-%m-%d %H:%M:%S} UTC · runners by "
        f"{scored.declared_by} · features from {scored.features_from}"
    )
    model = Text(f"model {scored.model} · gate: {scored.gate} · {scored.mode}")
    left = ("Horse", "Jockey", "Trainer")
    columns = ("No", "Draw", *left, "Chance", "Fair", "Market", _DRIFT)
    table = table_of(None, columns, map(_cells, scored.runners), left)
    lines = [Text(f"non-runner: {name}", style="strike") for name in scored.withdrawn]
    if scored.odds_known_at:
        age = scored.as_of - scored.odds_known_at
        old = f": old, {age // _MINUTE} minutes before the score" if age > _OLD_ODDS else ""
        lines.append(Text(f"market odds known at {scored.odds_known_at:%Y-%m-%d %H:%M:%S} UTC{old}"))
        lines += [Text(f"drift over {minutes} minutes: {why}") for minutes, why in _unknown_drifts(scored)]
    lines += [Text("what drives it", style="bold"), *map(_drives, scored.runners)]
    return Group(head, when, model, table, *lines, *(Text(f"· {note}") for note in scored.notes))


def to_json(scored: ScoredRace) -> dict[str, Any]:
    """The race as plain JSON values: instants as ISO 8601 text in UTC."""
    plain: dict[str, Any] = _plain(asdict(scored))
    return plain


def _cells(runner: ScoredRunner) -> tuple[str, ...]:
    drifts = _drifts(runner)
    market = "–" if runner.market_odds is None else f"{runner.market_odds:.2f} {runner.market_source or ''}".rstrip()
    return (
        "–" if runner.runner_no is None else str(runner.runner_no),
        "–" if runner.draw is None else str(runner.draw),
        runner.horse,
        runner.jockey or "–",
        runner.trainer or "–",
        f"{runner.probability:.1%}",
        f"{runner.fair_odds:.1f}",
        market,
        "–" if set(drifts) == {None} else " ".join(map(_percent, drifts)),
    )


def _drifts(runner: ScoredRunner) -> list[float | None]:
    """The drift of a runner's odds over each of `DRIFTS`, as a share of them: above 0 they have lengthened."""
    moves = runner.moves or {}
    return [None if (drift := moves.get(name)) is None else expm1(drift) for name in DRIFTS]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100.0 * share:+.0f}"


def _unknown_drifts(scored: ScoredRace) -> Iterator[tuple[int, str]]:
    """The minutes over which no runner's drift is known, and why."""
    for minutes, name in zip(DRIFT_MINUTES, DRIFTS, strict=True):
        reasons = {(runner.unknown_moves or {}).get(name) for runner in scored.runners if runner.market_odds}
        if reasons and None not in reasons:
            yield minutes, "; ".join(sorted(filter(None, reasons)))


def _drives(runner: ScoredRunner) -> Text:
    """One line per runner: the drivers of its probability, and which of its views are missing or stale."""
    drives = "; ".join(_words(driver) for driver in runner.drivers) or "nothing sets it apart"
    flags = [*_flagged("no row", runner.missing), *_flagged("stale", runner.stale)]
    return Text(f"  {runner.runner_no or '–':>2} {runner.horse}: {drives}" + "".join(f" [{flag}]" for flag in flags))


def _words(driver: Driver) -> str:
    return f"{'▲' if driver.effect > 0 else '▼'} {driver.words} (×{exp(driver.effect):.2f})"


def _flagged(what: str, views: tuple[str, ...]) -> list[str]:
    if not views:
        return []
    shown = ", ".join(views[:_FLAGGED_AT_MOST])
    more = f" and {len(views) - _FLAGGED_AT_MOST} more" if len(views) > _FLAGGED_AT_MOST else ""
    return [f"{what}: {shown}{more}"]


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return to_text(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
