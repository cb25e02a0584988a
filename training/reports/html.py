"""A backtest as one HTML file, from the template `report.html`: no network, no script, readable without colour."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from velo.resampling import Figure
from velo.storage.atomic_files import make_folder, write_atomically
from velo.svg import bar_chart
from velo.training.gate.criteria import Verdict
from velo.training.gate.windows import GateReport
from velo.training.registry.backtests import StoredBacktest
from velo.training.reports.backtest_report import BacktestReport, Measurements
from velo.training.reports.charts import equity_chart, floors_rows, interval_chart, reliability_chart
from velo.training.reports.tables import (
    BY_BUCKET,
    EARLIER,
    FLOOR_RULE,
    FLOORS,
    LUCK,
    NAMES,
    PLACES,
    QUALITY,
    SEGMENTS,
    basis_lines,
    beside_lines,
    bucket_rows,
    closing_line,
    criterion_cells,
    earlier_rows,
    exponent_lines,
    first_lines,
    floor_rows,
    in_words,
    place_rows,
    quality_rows,
    segment_rows,
    segments_in_words,
    strategy_cells,
    what_was_tested,
)

SHOWN_FEATURES: Final = 15
SHOWN_DRIFT: Final = 10
TERMS: Final = {
    "R²": "the share of what 1/N leaves open about the winner that the probabilities explain",
    "ΔR²": "R² beyond that of the market, sharpened by an exponent fitted on earlier days",
    "π": "the market's probabilities: inverse odds, made to sum to 1 in a race",
    "top-1": "how often the runner with the highest probability won",
    "AUC": "how often a winner had a higher probability than a loser, over all pairs",
    "calibration error": "how far probabilities lie from the rates at which such runners won, less what chance alone gives",
    "mean gap": "the same as a mean of absolute differences instead of squared ones",
    "10 bins": "the mean difference over ten bins of equal width, chance included",
    "slope": "1 if the probabilities are neither too bold (below 1) nor too timid",
    "A/E": "winners divided by expected winners, by the named probability; above 1 is more than expected",
    "expected winners": "the sum of the probabilities",
    "floor": "whether winners and expected winners agree",
    "ROI at SP": "profit divided by stakes, one unit a bet, at the starting price and before commission",
    "after": "the same ROI less a commission on the net winnings of each race",
    LUCK: "how often the same bets would return as much if winners were drawn from the market's probabilities",
    "closing-line value": "the price taken divided by the last one before the off, less 1",
    "unsettled": "bets without a price to settle at; they enter no figure",
    "drawdown": "the deepest fall of the running profit from its peak, in units staked",
    "Kelly bank": "a bank of 1 that stakes a quarter of Kelly's share, all bets of a race together, from each morning's money",
    "its largest fall": "the deepest fall of that bank from its peak",
    "places by": "the chance to finish in the first two, three or four, as many as a place bet pays on in the race",
    "λ": "how much the chances of winning say about the next place: 1 is Harville's formula; below 1 favourites are placed less often",
    "bound": "the side on which the whole interval must lie",
    "gate": "the criteria that a model must pass before the desk shows its edges as bets",
    "β": "the exponent that sharpens the market's probabilities",
}
"""Words of the page, and what they mean; each table explains those of its columns."""
LEAD: Final = ("R²", "ΔR²", "π", "calibration error", "A/E", "ROI at SP", "gate")
"""The words of the sentences and figures at the top."""
SHIFTED: Final = 0.25
"""A population stability index above this is commonly called a shift."""

Table = tuple[Sequence[str], list[tuple[str | Verdict, ...]]]
"""Column names and rows. A row's first cell is its name; an interval in square brackets is shown below its value."""


def write_report(report: BacktestReport, path: Path, earlier: Sequence[StoredBacktest] = ()) -> Path:
    """Write the page, whole or not at all; returns its path."""
    make_folder(path.parent, "name a file in a folder you may write to")
    write_atomically(path, page(report, earlier).encode())
    return path


def meanings(columns: Sequence[str]) -> list[tuple[str, str]]:
    """The words of some columns with their meanings."""
    return [(word, meaning) for word, meaning in TERMS.items() if any(name.startswith(word) for name in columns)]


def page(report: BacktestReport, earlier: Sequence[StoredBacktest] = ()) -> str:
    """The page as text; `earlier` are the user's own backtests before it. Its headline is an alarm of the period if there is one, else the gate's verdict."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.globals["meanings"] = meanings
    headline, *below = first_lines(report)
    return templates.get_template("report.html").render(
        report=report,
        headline=headline,
        summary=[*below, *in_words(report)],
        first_chart=equity_chart(report.equity[report.served], NAMES[report.served]),
        tiles=_tiles(report),
        tested=what_was_tested(report),
        terms=meanings(LEAD),
        earlier=(EARLIER, earlier_rows(earlier)),
        calibration=_calibration(report),
        betting=[_betting(report, name) for name in report.bets],
        places=(PLACES, place_rows(report.places)),
        exponents=exponent_lines(report),
        gates=[_gate(name, gate) for name, gate in report.gate.items()],
        basis=basis_lines(report),
        segments={"words": segments_in_words(report.segments), "table": (SEGMENTS, segment_rows(report.segments))},
        features=_features(report),
        refits=_refits(report),
    )


def _tiles(report: BacktestReport) -> list[tuple[str, str, str]]:
    """Name, value and interval of each figure at the top."""
    by_model = {model.name: model for model in report.told}
    blend = next(pair for pair in report.beside if (pair.name, pair.than) == ("blend", "market"))
    served, name = by_model[report.served], report.equity[report.served].strategy
    bets = next(bets for bets in report.bets[report.served] if bets.strategy == name)
    return [
        ("R² of the market", *_tile(by_model["market"].r2, 4)),
        (f"R² of the {NAMES[report.served]} model", *_tile(served.r2, 4)),
        ("R² of model and market together", *_tile(by_model["blend"].r2, 4)),
        ("what the model adds, ΔR²", *_tile(blend.delta_r2, 4)),
        ("calibration error", *_tile(served.root_mean_gap, 2, 100.0, " %")),
        (f"A/E of {name}, 1/SP", *_tile(bets.ae_price, 2)),
        (f"ROI at SP of {name}", *_tile(bets.roi[0.0], 1, 100.0, " %")),
    ]


def _tile(figure: Figure, digits: int, times: float = 1.0, unit: str = "") -> tuple[str, str]:
    if figure.value is None:
        return "–", "not computable"
    value = f"{figure.value * times:.{digits}f}{unit}"
    if figure.low is None or figure.high is None:
        return value, "too few days for an interval"
    return value, f"{figure.low * times:.{digits}f} to {figure.high * times:.{digits}f}{unit}"


def _calibration(report: BacktestReport) -> dict[str, Any]:
    by_model: dict[str, Measurements] = {model.name: model for model in report.told}
    price, own = ([floor for floor in report.floors if floor.subject == name] for name in ("blend", report.served))

    names = ("the blend by price", "the model by its own fair price 1/p")
    return {
        "charts": (
            reliability_chart(by_model[report.served], NAMES[report.served]),
            reliability_chart(by_model["blend"], NAMES["blend"]),
            interval_chart("A/E by bucket", floors_rows(price, own), names, "p is true"),
        ),
        "quality": (QUALITY, quality_rows(report)),
        "floors": (FLOORS, floor_rows(report.floors)),
        "beside": beside_lines(report),
        "floor_rule": FLOOR_RULE,
    }


def _betting(report: BacktestReport, name: str) -> dict[str, Any]:
    bets, equity = report.bets[name], report.equity[name]
    main = next(each for each in bets if each.strategy == equity.strategy)
    whole = next(each for each in bets if each.strategy == "ALL by p")
    intervals = [(price, bucket.ae_price, whole.buckets[price].ae_price) for price, bucket in main.buckets.items()]
    chart_title, names = f"A/E at 1/SP by price, {NAMES[name]}", (main.strategy, "all starters")
    strategies: Table = (
        (
            "strategy", "bets", "unsettled", "A/E, model p", "A/E, π", "A/E, 1/SP", "ROI at SP", LUCK, "after 2 %",
            "after 5 %", "closing-line value", "drawdown, units", "Kelly bank from 1", "its largest fall",
        ),
        [
            (each.strategy, f"{each.n:,}", f"{each.unsettled:,}", *strategy_cells(each, report.luck[name]),
             each.clv.percent(), f"{each.drawdown:,.0f}", f"{each.kelly.final:.3f}", f"{each.kelly.drawdown:.0%}")
            for each in bets
        ],
    )  # fmt: skip

    return {
        "name": NAMES[name],
        "strategy": main.strategy,
        "charts": (
            *(() if name == report.served else (equity_chart(equity, NAMES[name]),)),
            interval_chart(chart_title, intervals, names, "a bet breaks even"),
        ),
        "buckets": (BY_BUCKET, bucket_rows(main)),
        "strategies": strategies,
        "closing_line": closing_line(main),
    }


def _gate(name: str, gate: GateReport) -> dict[str, Any]:
    windows = []
    for asked in gate.asked:
        window, no_edge, power = asked.window, asked.no_edge.by_interval, asked.power.by_interval
        criteria: Table = (
            ("criterion", "value", "bound", "n", "verdict"),
            [(*criterion_cells(judged), judged.verdict) for judged in window.judged],
        )
        chances = f"P(pass | no edge) {no_edge:.1%}; P(pass | the model is true) {power:.1%}."
        windows.append(
            {
                "caption": f"{window.first_day} to {window.last_day}: {window.verdict.value}",
                "criteria": criteria,
                "lines": [chances, *(f"ALARM: {alarm}" for alarm in window.alarms)],
            }
        )
    return {"title": f"{NAMES[name]}, {gate.strategy}: {gate.verdict.value}", "windows": windows}


def _features(report: BacktestReport) -> dict[str, Any]:
    shifted = sum(index > SHIFTED for index in report.drift.values())
    gain, drift = (
        dict(islice(values.items(), count))
        for values, count in ((report.importance, SHOWN_FEATURES), (report.drift, SHOWN_DRIFT))
    )
    return {
        "charts": (
            bar_chart("Features that brought most gain in the last refit", gain, ".1%"),
            bar_chart("Drift: population stability index, training days against tested days", drift, ".3f"),
        ),
        "drift": f"{shifted} of {len(report.drift)} features have an index above {SHIFTED}, commonly called a shift.",
    }


def _refits(report: BacktestReport) -> Table:
    return (
        ("days", "tested", "trained on", "records", "races", "β of the market"),
        [
            (refit.name, "yes" if refit.tested else "no", f"{refit.train_first_day} to {refit.train_last_day}",
             f"{refit.records:,}", f"{refit.races:,}", f"{refit.beta:.3f}")
            for refit in report.refits
        ],
    )  # fmt: skip
