"""The desk's page about what is served (`/monitor`): the last report of `velo monitor` as HTML, without a script."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

SHOWN: Final = 20
"""Features listed before the fold: those that differ most from the training set."""
NO_REPORT: Final = "There is no report yet: run `velo monitor`, or let `velo up` run it at night."


def page(report: Mapping[str, Any] | None) -> str:
    """The page of a report as JSON values (`velo.serving.monitoring.report`), or of none."""
    body = [f'<p class="empty">{escape(NO_REPORT)}</p>'] if report is None else _body(report)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        '<title>What is served – VÉLØ desk</title><link rel="icon" href="/desk/icon.svg" type="image/svg+xml">'
        '<link rel="stylesheet" href="/desk/desk.css"><link rel="stylesheet" href="/desk/print.css" media="print"></head><body><a class="skip" href="#main">Skip to the report</a>'
        '<header class="top"><a class="brand" href="/">VÉLØ</a><p class="model">what is served</p>'
        '<a href="/">the day’s races</a></header><div class="page"><main id="main" class="report" tabindex="-1">'
        f"<h1>What is served</h1>{''.join(body)}</main></div></body></html>"
    )


def _body(report: Mapping[str, Any]) -> list[str]:
    lasting = [alarm for alarm in report["alarms"] if alarm["cleared"] is None]
    over = [alarm for alarm in report["alarms"] if alarm["cleared"] is not None]
    state = (
        f'<p class="flag warn" role="alert">{_count(len(lasting), "alarm")} to look at</p>'
        if lasting
        else '<p class="flag">No alarm lasts.</p>'
    )
    about = (
        f"Model {report['model']}, trained on {report['trained_from']} to {report['trained_to']} (profile "
        f"{report['profile']}). {report['races']:,} served races on {_count(report['race_days'], 'race day')}; "
        f"written at {report['written_at']}. The tests expect {report['false_alarms']:g} false alarms a season, all together."
    )
    parts = [f'<p class="facts">{escape(about)}</p>', state]
    parts += [f'<p class="quiet">{escape(note)}</p>' for note in report["notes"]]
    parts += [_alarms("Alarms", lasting)] if lasting else []
    parts += [_scores(report["scores"])] if report["scores"] else []
    features = sorted(report["features"], key=lambda feature: -feature["js"])
    if features:
        span = f"{report['days'][0]} to {report['days'][-1]}, against the training set at the same courses"
        parts.append(_features(f"Features, the most changed first: {span}", features[:SHOWN]))
        rest = _features("The other features", features[SHOWN:])
        parts.append(f"<details><summary>all {len(features)} features</summary>{rest}</details>")
    parts += (
        [f"<details><summary>{_count(len(over), 'earlier alarm')}</summary>{_alarms('', over)}</details>"]
        if over
        else []
    )
    return parts


def _alarms(title: str, alarms: Sequence[Mapping[str, Any]]) -> str:
    rows = (
        (alarm["subject"], alarm["kind"], alarm["since"], alarm["reported"], alarm["cleared"] or "lasts", alarm["says"])
        for alarm in alarms
    )
    return _table(title, ("of", "kind", "since", "reported", "until", "what was found"), rows)


def _scores(scores: Sequence[Mapping[str, Any]]) -> str:
    rows = (
        (
            score["of"],
            f"{score['races']:,}",
            *(_figure(score[name], 3) for name in ("log_loss", "market_log_loss", "margin", "exponent")),
            _figure(score["clv"], 1, 100.0, " %"),
        )
        for score in scores
    )
    heads = ("score", "races", "log loss", "the market's", "margin", "exponent, 1 is calibrated", "closing-line value")
    return _table("Settled scores, with 95 % intervals over race days", heads, rows)


def _features(title: str, features: Sequence[Mapping[str, Any]]) -> str:
    rows = (
        (
            feature["feature"],
            f"{feature['psi']:.3f}",
            f"{feature['js']:.3f}",
            f"{feature['null_share_trained']:.0%} → {feature['null_share']:.0%}",
            f"{_number(feature['least'])} to {_number(feature['most'])}" + (" (outside)" if feature["outside"] else ""),
            _share(feature["distinct"]),
            _share(feature["stale"]),
        )
        for feature in features
    )
    return _table(title, ("feature", "PSI", "JS, bits", "null: trained → served", "range", "distinct", "stale"), rows)


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = "".join(
        f'<tr><th scope="row">{escape(str(first))}</th>{"".join(f"<td>{escape(str(cell))}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    columns = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    named = f"<h2>{escape(title)}</h2>" if title else ""
    label = escape(title or "a table", quote=True)
    return (
        f'{named}<div class="wide" tabindex="0" role="region" aria-label="{label}"><table><thead><tr>{columns}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _figure(figure: Mapping[str, Any], digits: int, times: float = 1.0, unit: str = "") -> str:
    if figure["value"] is None:
        return "–"
    text = f"{figure['value'] * times:.{digits}f}"
    if figure["low"] is not None:
        text += f" [{figure['low'] * times:.{digits}f}, {figure['high'] * times:.{digits}f}]"
    return text + unit


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
