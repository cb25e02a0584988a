"""A backtest as one HTML file that a person can read anywhere: no network, no script, no need of colour."""

from collections.abc import Mapping
from html import escape
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Final

from velo.resampling import Figure
from velo.storage.atomic_files import make_folder, write_atomically
from velo.svg import bar_chart
from velo.training.backtest_metrics import Bets
from velo.training.backtest_report import BacktestReport, Measurements
from velo.training.backtest_tables import (
    FLOOR_RULE,
    LUCK,
    NAMES,
    beside_lines,
    by_luck,
    closing_line,
    first_lines,
    in_words,
    kept_or_not,
    percent,
    shown,
    what_was_tested,
)
from velo.training.charts import equity_chart, floors_rows, interval_chart, reliability_chart
from velo.training.published_baseline import VERSIONS, Claim, PublishedModel
from velo.training.report_parts import Cell, charts, folded, items, paragraphs, section, table, tiles
from velo.training.windows import GateReport

SHOWN_FEATURES: Final = 15
SHOWN_DRIFT: Final = 10
SEED_NOTE: Final = (
    "The intervals of the seed's ROI take every winner at the average odds, and so are narrower than the truth. What is called "
    "in sample was measured on rows that were trained on: no evidence of anything."
)
SHIFTED: Final = 0.25
"""A population stability index above this is commonly called a shift."""


def write_report(report: BacktestReport, path: Path) -> Path:
    """Write the page, whole or not at all; returns its path."""
    make_folder(path.parent, "name a file in a folder you may write to")
    write_atomically(path, page(report).encode())
    return path


def page(report: BacktestReport) -> str:
    """The whole page as text; its first line is an alarm of the period, if one went off, else the verdict."""
    style = files("training").joinpath("report.css").read_text(encoding="utf-8")
    head, *below = first_lines(report)
    head = escape(head)
    body = [
        f"<main><h1>{head}</h1>",
        paragraphs([*below, *in_words(report)], "lead"),
        _tiles(report),
        items("Before you lean on it", report.caveats),
        section("What was tested", paragraphs([what_was_tested(report)])),
        section("Beside the models before", _seed(report)),
        section("Was it true?", _truth(report)),
        section("What betting by it would have done", "".join(_bets(report, name) for name in report.bets)),
        section("The gate", _gates(report)),
        section("What it leans on, and what moved", _features(report)),
        section("The refits", folded("Each refit, what it was trained on and what it predicted", _refits(report))),
        f'</main><footer class="fine">{escape(_imprint(report))}</footer>',
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"/><title>{head}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"/><style>{style}</style></head>\n<body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _imprint(report: BacktestReport) -> str:
    return (
        f"Backtest {report.backtest}, recipe {report.recipe[:12]}. Intervals are 95 %, from whole race days drawn anew. "
        "Nothing on this page is fetched."
    )


def _tiles(report: BacktestReport) -> str:
    told = {one.name: one for one in report.told}
    blend = next(one for one in report.beside if (one.name, one.than) == ("blend", "market"))
    served, name = told[report.served], report.equity[report.served].strategy
    bets = next(one for one in report.bets[report.served] if one.strategy == name)
    return tiles(
        (
            ("R² of the market", *_tile(told["market"].r2, 4)),
            (f"R² of the {NAMES[report.served]} model", *_tile(served.r2, 4)),
            ("R² of model and market together", *_tile(told["blend"].r2, 4)),
            ("what the model adds, ΔR²", *_tile(blend.delta_r2, 4)),
            ("calibration error", *_tile(served.root_mean_gap, 2, 100.0, " %")),
            (f"A/E of {name}, 1/SP", *_tile(bets.ae_price, 2)),
            (f"ROI of {name}", *_tile(bets.roi[0.0], 1, 100.0, " %")),
        )
    )


def _tile(figure: Figure, digits: int, times: float = 1.0, unit: str = "") -> tuple[str, str]:
    if figure.value is None:
        return "–", "cannot be told"
    value = f"{figure.value * times:.{digits}f}{unit}"
    if figure.low is None or figure.high is None:
        return value, "too few days for an interval"
    return value, f"{figure.low * times:.{digits}f} to {figure.high * times:.{digits}f}{unit}"


def _seed(report: BacktestReport) -> str:
    now = next(one for one in report.told if one.name == report.served)
    by_p = {one.strategy: one for one in report.bets[report.served]}
    told = "not told"
    rows = [
        ("training records", *(f"{one.records:,}" if one.records else told for one in VERSIONS), f"{report.records:,}"),
        (
            "AUC",
            *(f"{one.auc:.3f}" if one.auc else told for one in VERSIONS),
            "–" if now.auc is None else f"{now.auc:.3f}",
        ),
        ("calibration error", *(f"{one.calibration_error:.2%}" for one in VERSIONS), percent(now.root_mean_gap, 2)),
        *(
            (
                f"{measure}, {name}",
                *(_claimed(one, name, measure) for one in VERSIONS),
                _now(by_p[f"{name} by p"], measure),
            )
            for name in ("TOP10", "TOP20", "ALL")
            for measure in ("bets", "A/E, model p", "ROI")
        ),
    ]
    best = next(one for version in VERSIONS for one in version.claims)
    columns = ("", *(f"{one.name}, {one.measured}" for one in VERSIONS), "now, out of sample")
    return table(
        columns, rows, "The seed's figures with the intervals that its own counts allow, and this backtest's"
    ) + paragraphs((_seed_in_words(best), SEED_NOTE), "fine")


def _seed_in_words(best: Claim) -> str:
    return (
        f"In the seed's {best.strategy}, {best.wins} of {best.bets} bets won at average odds of {best.mean_odds:.1f}, where such "
        f"odds lead one to expect about {best.bets / best.mean_odds:.0f}. Its interval shows that chance does not do that: a "
        "leak does, or a cut chosen on the tested rows."
    )


def _claimed(version: PublishedModel, name: str, measure: str) -> Cell:
    claim: Claim | None = next((one for one in version.claims if one.strategy == name), None)
    if claim is not None:
        if measure == "bets":
            return f"{claim.bets:,}"
        return shown(claim.ae_figure(), 2) if measure == "A/E, model p" else percent(claim.roi_figure())
    value = {"A/E, model p": version.ae_top20, "ROI": version.roi_top20}.get(measure) if name == "TOP20" else None
    if value is None:
        return "not told"
    return f"{value:.2f} [not told]" if measure == "A/E, model p" else f"{value:.1%} [not told]"


def _now(bets: Bets, measure: str) -> str:
    if measure == "bets":
        return f"{bets.n:,}"
    return shown(bets.ae_model, 2) if measure == "A/E, model p" else percent(bets.roi[0.0])


def _truth(report: BacktestReport) -> str:
    told: dict[str, Measurements] = {one.name: one for one in report.told}
    price, own = ([one for one in report.floors if one.subject == name] for name in ("blend", report.served))
    return (
        charts(
            reliability_chart(told[report.served], NAMES[report.served]),
            reliability_chart(told["blend"], NAMES["blend"]),
            interval_chart(
                "A/E by bucket", floors_rows(price, own), ("the blend by price", "the model by its own fair price 1/p"),
                "p is true",
            ),
        )
        + table(
            ("", "R²", "top-1", "AUC", "calibration error", "mean gap", "10 equal-width bins", "slope"),
            (
                (NAMES[one.name], shown(one.r2, 4), shown(one.top1), "–" if one.auc is None else f"{one.auc:.3f}",
                 percent(one.root_mean_gap, 2), percent(one.mean_gap, 2), f"{one.plain_error:.2%}", shown(one.slope))
                for one in report.told
            ),
            "Out-of-fold probabilities",
        )
        + folded("Put beside one another, and which blend was chosen", paragraphs(beside_lines(report), "fine"))
        + table(
            ("p of", "bucket of", "bucket", "starters", "expected winners", "A/E", "floor"),
            (
                (NAMES[one.subject], one.by, one.bucket, f"{one.n:,}", f"{one.expected:,.0f}", shown(one.ae, 3), kept_or_not(one))
                for one in report.floors
            ),
            "A/E of all starters by bucket",
        )
        + paragraphs([f"A floor {FLOOR_RULE}."], "fine")
    )  # fmt: skip


def _bets(report: BacktestReport, name: str) -> str:
    bets, equity = report.bets[name], report.equity[name]
    main = next(one for one in bets if one.strategy == equity.strategy)
    whole = next(one for one in bets if one.strategy == "ALL by p")
    rows = [(price, one.ae_price, whole.buckets[price].ae_price) for price, one in main.buckets.items()]
    strategies = table(
        (
            "strategy", "bets", "unsettled", "A/E, model p", "A/E, π", "A/E, 1/SP", "ROI at SP", LUCK, "after 2 %",
            "after 5 %", "closing-line value", "drawdown, units", "Kelly bank from 1",
        ),
        (
            (one.strategy, f"{one.n:,}", f"{one.unsettled:,}", shown(one.ae_model, 2), shown(one.ae_market, 2),
             shown(one.ae_price, 2), percent(one.roi[0.0]), by_luck(report.luck[name].get(one.strategy)),
             *(percent(figure) for rate, figure in one.roi.items() if rate), percent(one.clv), f"{one.drawdown:,.0f}", f"{one.kelly.final:.3f}")
            for one in bets
        ),
        f"By {NAMES[name]}, one unit a bet",
    )  # fmt: skip
    buckets = table(
        ("price", "bets", "A/E, model p", "A/E, π", "A/E, 1/SP", "ROI at SP"),
        (
            (price, f"{one.n:,}", shown(one.ae_model, 2), shown(one.ae_market, 2), shown(one.ae_price, 2), percent(one.roi))
            for price, one in main.buckets.items()
        ),
        f"{main.strategy} by price",
    )  # fmt: skip
    return (
        f"<h3>By {escape(NAMES[name])}</h3>"
        + charts(
            equity_chart(equity, NAMES[name]),
            interval_chart(
                f"A/E at 1/SP by price, {NAMES[name]}", rows, (main.strategy, "all starters"), "a bet breaks even"
            ),
        )
        + buckets
        + paragraphs([closing_line(main) + "."])
        + folded(f"All strategies by {NAMES[name]}", strategies)
    )


def _gates(report: BacktestReport) -> str:
    if not report.gate:
        return paragraphs(["Not asked: the period is shorter than 12 months."])
    return "".join(_gate(name, gate) for name, gate in report.gate.items())


def _gate(name: str, gate: GateReport) -> str:
    parts = [f"<h3>{escape(NAMES[name])}, {escape(gate.strategy)}: {gate.verdict.value}</h3>"]
    for asked in gate.asked:
        window = asked.window
        parts.append(
            table(
                ("criterion", "value", "bound", "n", "verdict"),
                (
                    (one.criterion.says, f"{one.figure.value:,.0f}" if one.criterion.counted else shown(one.figure, 4),
                     one.criterion.bound, f"{one.figure.n:,}", one.verdict)
                    for one in window.judged
                ),
                f"{window.first_day} to {window.last_day}: {window.verdict.value}",
            )
        )  # fmt: skip
        line = f"P(pass | no edge) {asked.no_edge.by_interval:.1%}; P(pass | the model is true) {asked.power.by_interval:.1%}."
        parts.append(paragraphs([line, *(f"ALARM: {alarm}" for alarm in window.alarms)]))
    return "".join(parts)


def _features(report: BacktestReport) -> str:
    shifted = sum(one > SHIFTED for one in report.drift.values())
    return charts(
        bar_chart(
            "Features that brought most gain in the last refit", _first(report.importance, SHOWN_FEATURES), ".1%"
        ),
        bar_chart(
            "Drift: population stability index, training days against tested days",
            _first(report.drift, SHOWN_DRIFT),
            ".3f",
        ),
    ) + paragraphs(
        [f"{shifted} of {len(report.drift)} features have an index above {SHIFTED}, commonly called a shift."]
    )


def _refits(report: BacktestReport) -> str:
    return table(
        ("days", "tested", "trained on", "records", "races", "β of the market"),
        (
            (one.name, "yes" if one.tested else "no", f"{one.train_first_day} to {one.train_last_day}",
             f"{one.records:,}", f"{one.races:,}", f"{one.beta:.3f}")
            for one in report.refits
        ),
        "Each refit, and what it predicted",
    )  # fmt: skip


def _first(values: Mapping[str, float], count: int) -> dict[str, float]:
    return dict(islice(values.items(), count))
