"""A backtest and the gate's verdict for the terminal; nothing is shown by colour alone."""

from collections.abc import Mapping, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from velo.resampling import Figure
from velo.text_tables import table_of
from velo.training.dataset.races import AT_DECISION
from velo.training.evaluation.metrics import Bets
from velo.training.evaluation.place_quality import PlacesMeasured
from velo.training.evaluation.segments import MARKET, MODEL, SegmentReport
from velo.training.gate.criteria import Judged
from velo.training.gate.windows import MANY_EXPECTED, NEAR, Floor, GateReport, looked_at_words
from velo.training.registry.backtests import StoredBacktest
from velo.training.reports.backtest_report import BacktestReport, Raised

Rows = list[tuple[str, ...]]
"""Rows of a table, a text per cell."""
QUALITY: Final = ("model", "R²", "top-1", "AUC", "calibration error", "mean gap", "10 bins", "slope")
FLOORS: Final = ("p of", "bucket of", "bucket", "starters", "expected winners", "A/E", "floor")
SEGMENT_WORDS: Final = ("segment", "value", "who was right")
SEGMENTS: Final = (
    "segment", "value", "races", "starters", "mean gap", "A/E above the market, blend", "A/E of those, market",
    "gain, nats per 1,000", "p", "who was right",
)  # fmt: skip
PLACES: Final = (
    "places by", "runners", "races", "calibration error", "of the market", "R²", "R² of the market",
    "A/E where above the market", "A/E of those by the market",
)  # fmt: skip
BY_BUCKET: Final = ("price", "bets", "A/E, model p", "A/E, π", "A/E, 1/SP", "ROI at SP")
EARLIER: Final = (
    "backtest",
    "days",
    "model",
    "races",
    "R² of the blend",
    "ΔR² of the blend",
    "strategy",
    "bets",
    "ROI at SP",
)
LUCK: Final = "P(gain | no edge)"
NAMES = {
    "pi": "market π",
    "market": "market π^β",
    "logit": "plain logit",
    "fundamental": "fundamental",
    "calibrated": "fundamental, calibrated",
    "blend_raw": "blend, uncalibrated",
    "blend": "blend",
    "direct": "blend, direct model",
}


def backtest_tables(report: BacktestReport) -> Group:
    """The report for rich: the verdict, then what was tested, the figures and the caveats."""
    return Group(
        *(Text(line, style="bold") for line in first_lines(report)),
        *(Text(line) for line in in_words(report)),
        Text(what_was_tested(report)),
        table_of(
            "out-of-fold probabilities, 95 % intervals over whole days", QUALITY, quality_rows(report), left=QUALITY[:1]
        ),
        *(Text(line) for line in beside_lines(report)),
        *(_strategies(name, bets, report.luck[name]) for name, bets in report.bets.items()),
        *(
            Text(f"{NAMES[name]}, {closing_line(strategy)}")
            for name, bets in report.bets.items()
            for strategy in _served_strategy(report, bets)
        ),
        *(
            table_of(f"{bets[-1].strategy}, {NAMES[name]}, by price", BY_BUCKET, bucket_rows(bets[-1]), left=())
            for name, bets in report.bets.items()
        ),
        table_of(
            f"A/E of all starters by bucket, model p expected ({FLOOR_RULE})",
            FLOORS,
            floor_rows(report.floors),
            left=("p of", "bucket of", "floor"),
        ),
        table_of("Where the blend and the market differ", SEGMENTS, segment_rows(report.segments), left=SEGMENT_WORDS),
        Text(segments_in_words(report.segments)),
        *([places_table(report.places)] if report.places else []),
        *(Text(line) for line in exponent_lines(report)),
        *(gate_tables(name, gate) for name, gate in report.gate.items()),
        *(Text(line) for line in basis_lines(report)),
        *(Text(f"· {line}") for line in report.caveats),
    )


def _served_strategy(report: BacktestReport, bets: tuple[Bets, ...]) -> list[Bets]:
    return [strategy for strategy in bets if strategy.strategy == report.equity[report.served].strategy]


def first_lines(report: BacktestReport) -> list[str]:
    """The alarms of the period, then the gate's verdict, each in one line."""
    each = " · ".join(f"{NAMES[name]}: {gate.verdict.value}" for name, gate in report.gate.items())
    verdict = f"gate: {report.verdict} ({each or 'not asked: the period is shorter than 365 days'})"
    return [*(alarm_line(alarm) for alarm in report.alarms), verdict]


def alarm_line(alarm: Raised) -> str:
    """An alarm in one line: its subject, the figure, and what to do."""
    over = f"{alarm.n:,} bets of {alarm.strategy}" if alarm.strategy else f"n = {alarm.n:,}"
    value = f"{alarm.value:.3f}" if alarm.value <= 1.0 and alarm.strategy is None else f"{alarm.value:+.0%}"
    return f"ALARM: {NAMES[alarm.subject]}, {value} over {over}: {alarm.says}"


def in_words(report: BacktestReport) -> list[str]:
    """The result in two sentences: the model beside the market, and what the bets returned. A warning comes first after an alarm."""
    blend = next(pair for pair in report.beside if (pair.name, pair.than) == ("blend", "market"))
    lines = ["An alarm went off: do not believe these figures before a leak is looked for."] if report.alarms else []
    lines.append(
        f"Together with the market the model predicted {_side(blend.delta_r2)} than the market alone "
        f"(ΔR² {blend.delta_r2.shown(4)}, the share of what a race leaves open that it explains more)."
    )
    name = report.equity[report.served].strategy
    bets = next(bets for bets in report.bets[report.served] if bets.strategy == name)
    if not bets.n:
        return [*lines, f"{name} made no bet."]
    roi = bets.roi[0.0]
    share = report.luck[report.served].get(name)
    luck = "" if share is None else f"; P(a gain this large | no edge) is {by_luck(share)}"
    return [*lines, f"{bets.n:,} bets of {name} returned {roi.percent()} at level stakes: {_money(roi)}{luck}."]


def summary_lines(report: BacktestReport, page: str) -> list[str]:
    """The report in ten lines or less: verdict, result, figures of what serves, caveats; `page` is where all of it is."""
    by_model = {row.name: row for row in report.told}
    served = by_model[report.served]
    name = report.equity[report.served].strategy
    bets = next(bets for bets in report.bets[report.served] if bets.strategy == name)
    more = f" (and {len(report.caveats) - 1} more)" if len(report.caveats) > 1 else ""
    lines = [
        *first_lines(report)[:2],
        *in_words(report)[-2:],
        f"{report.since} to {report.until}, {report.races:,} races, model {report.model}; trial {report.trials} of these days",
        f"R²: market {by_model['pi'].r2.shown(4)}, {NAMES[report.served]} {served.r2.shown(4)}, blend {by_model['blend'].r2.shown(4)}",
        f"calibration error of {NAMES[report.served]}: {served.root_mean_gap.percent(2)}, slope {served.slope.shown()}{_of_places(report)}",
        f"A/E of {name} against 1/SP: {bets.ae_price.shown(2)}; drawdown {bets.drawdown:,.0f} units; {_bank(bets)}",
        f"beware: {report.caveats[0]}{more}" if report.caveats else "",
        f"every figure: --full, or {page}",
    ]
    return [line for line in lines if line]


def _bank(bets: Bets) -> str:
    return f"Kelly bank 1 to {bets.kelly.final:.2f}, largest fall {bets.kelly.drawdown:.0%}"


def _of_places(report: BacktestReport) -> str:
    row = next((row for row in report.places if (row.subject, row.field) == ("blend", "all")), None)
    return "" if row is None else f"; of the blend's places {row.error.percent(2)}"


def by_luck(share: float | None) -> str:
    """P(a gain this large | no edge) in percent; a dash without a gain."""
    return "–" if share is None else "below 0.1 %" if share < 0.001 else f"{share * 100:.1f} %"


def _side(figure: Figure) -> str:
    """Better, worse, or neither beyond chance, by the whole interval."""
    if figure.low is None or figure.high is None:
        return "not measurably better or worse"
    return "better" if figure.low > 0 else "worse" if figure.high < 0 else "no better and no worse, beyond chance,"


def _money(roi: Figure) -> str:
    if roi.low is None or roi.high is None:
        return "too few days for an interval"
    return (
        "money was made" if roi.low > 0
        else "money was lost" if roi.high < 0
        else "neither a profit nor a loss is shown"
    )  # fmt: skip


def closing_line(bets: Bets) -> str:
    """The bets' prices against the last ones before the off, or that none is known."""
    if bets.clv.value is None:
        return f"{bets.strategy}: no price before the off, so no closing-line value"
    return (
        f"{bets.strategy}: closing-line value {bets.clv.percent()} over {bets.clv.n:,} bets, "
        f"{bets.beat_close.percent(0)} of them at a longer price than the last; without the margins of both markets {bets.fair_clv.percent()}"
    )


def kept_or_not(floor: Floor) -> str:
    """Whether a floor holds, in words."""
    return "too few days" if floor.holds is None else "holds" if floor.holds else "broken"


FLOOR_RULE = f"holds where the 95 % interval contains 1, or A/E is within {NEAR:.0%} with {MANY_EXPECTED:,.0f} expected winners or more"


def what_was_tested(report: BacktestReport) -> str:
    """The days, the training data, the model and the number of trials."""
    races = "race" if report.left_out == 1 else "races"
    left_out = f", {report.left_out:,} {races} without a market left out" if report.left_out else ""
    look = f", look {report.look} at a locked window" if report.look else ""
    rounds = f", {report.rounds} rounds of trees" if report.rounds else ""
    return (
        f"backtest {report.backtest}: {report.since} to {report.until}, {report.races:,} races and {report.runners:,} starters "
        f"on {report.race_days:,} days{left_out}; trained on {report.records:,} records or more, refitted every "
        f"{report.months} months; model {report.model}{rounds}; trial {report.trials} of these days{look}"
    )


def beside_lines(report: BacktestReport) -> list[str]:
    """The comparisons, and which blend was chosen."""
    lines = [
        f"ΔR² of {NAMES[pair.name]} over {NAMES[pair.than]}: {pair.delta_r2.shown(4)}, margin {pair.margin.shown(4)} nats a race"
        for pair in report.beside
    ]
    for choice in report.choices:
        spread = f" ± {choice.alpha_se:.3f}" if choice.alpha_se is not None else ""
        losses = (
            ", ".join(f"{kind} {loss:.4f}" for kind, loss in choice.losses.items())
            + f" over {choice.races:,} past races"
            if choice.losses
            else "not compared"
        )
        lines.append(
            f"{choice.fold}: {choice.kind} blend ({losses}); Benter α {choice.alpha:.3f}{spread}, β {choice.beta:.3f}; "
            f"market β {choice.market_beta:.3f}"
        )
    return lines


def gate_tables(name: str, gate: GateReport) -> Group:
    """The gate on one set of probabilities: the alarms, then each criterion with its value, interval and bound."""
    alarms = dict.fromkeys(alarm for asked in gate.asked for alarm in asked.window.alarms)
    parts: list[RenderableType] = [
        *(Text(f"ALARM: {alarm}", style="bold") for alarm in alarms),
        Text(f"gate on {NAMES.get(name, name)}, {gate.strategy}: {gate.verdict.value}", style="bold"),
    ]
    for asked in gate.asked:
        window = asked.window
        title = f"{window.first_day} to {window.last_day}: {window.verdict.value}"
        columns = ("criterion", "value, 95 % interval", "bound", "n", "verdict")
        rows: Rows = [(*criterion_cells(judged), judged.verdict.value) for judged in window.judged]
        parts.append(table_of(title, columns, rows, left=("criterion",)))
        parts.append(
            Text(
                f"P(pass | no edge) {asked.no_edge.by_interval:.1%}, were values alone judged {asked.no_edge.by_value:.1%}; "
                f"P(pass | the model is true) {asked.power.by_interval:.1%}"
            )
        )
        parts += [Text(f"ALARM in this window: {alarm}") for alarm in window.alarms]
    return Group(*parts)


def quality_rows(report: BacktestReport) -> Rows:
    """One row per set of probabilities, in the order of `QUALITY`."""
    return [
        (NAMES[row.name], row.r2.shown(4), row.top1.shown(), "–" if row.auc is None else f"{row.auc:.3f}",
         row.root_mean_gap.percent(2), row.mean_gap.percent(2), f"{row.plain_error:.2%}", row.slope.shown())
        for row in report.told
    ]  # fmt: skip


def floor_rows(floors: tuple[Floor, ...]) -> Rows:
    """One row per floor, in the order of `FLOORS`."""
    return [
        (NAMES[floor.subject], floor.by, floor.bucket, f"{floor.n:,}", f"{floor.expected:,.0f}", floor.ae.shown(3),
         kept_or_not(floor))
        for floor in floors
    ]  # fmt: skip


def segment_rows(report: SegmentReport) -> Rows:
    """One row per compared segment, the surest first, in the order of `SEGMENTS`."""
    return [
        (segment.by, segment.value, f"{segment.races:,}", f"{segment.runners:,}", f"{segment.differ:.2%}",
         segment.ae_model.shown(2), segment.ae_market.shown(2), segment.gain.shown(2), f"{segment.p_value:.3f}",
         {MODEL: "the blend", MARKET: "the market"}.get(segment.right or "", "not shown"))
        for segment in report.segments
    ]  # fmt: skip


def segments_in_words(report: SegmentReport) -> str:
    """How many segments were compared, and in how many one of the two was right."""
    small = f"; {report.too_small} have too few race days or winners" if report.too_small else ""
    return (
        f"{report.compared} segments were compared{small}. In {len(report.shown)} the blend or the market was right after the correction "
        f"of Benjamini and Hochberg, which names a segment by chance in at most {report.rate:.0%} of the named ones on average. "
        "Bet nowhere for another reason."
    )


def basis_lines(report: BacktestReport) -> list[str]:
    """What the gate's verdict rests on: which price was used, and how many strategies were looked at."""
    closing = " Market π in the tables is of the closing prices." if report.prices.blend == AT_DECISION else ""
    return [f"{report.prices.words}{closing}", looked_at_words(report.trials)]


def places_table(places: Sequence[PlacesMeasured]) -> Table:
    """Place chances by field size."""
    return table_of(
        "places, beside those that the market's odds imply by the same formula",
        PLACES,
        place_rows(places),
        left=PLACES[:2],
    )


def place_rows(places: Sequence[PlacesMeasured]) -> Rows:
    """One row per set of probabilities and group of field sizes, in the order of `PLACES`."""
    return [
        (NAMES[row.subject], row.field, f"{row.races:,}", row.error.percent(2), row.market_error.percent(2), row.r2.shown(4),
         row.market_r2.shown(4), row.ae.shown(2), row.ae_market.shown(2))
        for row in places
    ]  # fmt: skip


def exponent_lines(report: BacktestReport) -> list[str]:
    """λ of each place by field size, with its interval."""
    lines = []
    for subject in dict.fromkeys(exponent.subject for exponent in report.exponents):
        own = [exponent for exponent in report.exponents if exponent.subject == subject]
        for field in dict.fromkeys(exponent.field for exponent in own):
            said = ", ".join(
                f"place {exponent.place}: {exponent.figure.shown(2)} ({exponent.figure.n:,} races)"
                for exponent in own
                if exponent.field == field
            )
            lines.append(f"λ of {NAMES[subject]}, {field} runners: {said}")
    return lines


def earlier_rows(earlier: Sequence[StoredBacktest]) -> Rows:
    """One row per earlier backtest, in the order of `EARLIER`."""
    return [
        (each.backtest, f"{each.since} to {each.until}", each.model, f"{each.races:,}", each.blend_r2.shown(4), each.blend_delta_r2.shown(4),
         each.strategy, f"{each.roi.n:,}", each.roi.percent())
        for each in earlier
    ]  # fmt: skip


def bucket_rows(bets: Bets) -> Rows:
    """One row per price bucket of a strategy's bets, in the order of `BY_BUCKET`."""
    return [
        (price, f"{bucket.n:,}", bucket.ae_model.shown(2), bucket.ae_market.shown(2), bucket.ae_price.shown(2),
         bucket.roi.percent())
        for price, bucket in bets.buckets.items()
    ]  # fmt: skip


def criterion_cells(judged: Judged) -> tuple[str, str, str, str]:
    """A criterion with its value, bound and n."""
    criterion, figure = judged.criterion, judged.figure
    value = f"{figure.value:,.0f}" if criterion.counted else figure.shown(4)
    return criterion.says, value, criterion.bound, f"{figure.n:,}"


def _strategies(name: str, bets: tuple[Bets, ...], luck: Mapping[str, float]) -> Table:
    columns = (
        "strategy", "bets", "A/E, model p", "A/E, π", "A/E, 1/SP", "ROI at SP", LUCK, "after 2 %", "after 5 %",
        "drawdown, units", "Kelly bank from 1", "its largest fall",
    )  # fmt: skip
    rows: Rows = [
        (row.strategy, f"{row.n:,}" + (f" (+{row.unsettled} unsettled)" if row.unsettled else ""),
         *strategy_cells(row, luck), f"{row.drawdown:,.0f}", f"{row.kelly.final:.3f}", f"{row.kelly.drawdown:.0%}")
        for row in bets
    ]  # fmt: skip
    return table_of(f"bets by {NAMES[name]}, one unit each", columns, rows, left=("strategy",))


def strategy_cells(row: Bets, luck: Mapping[str, float]) -> tuple[str, ...]:
    """A/E by three expectations, ROI, P(gain | no edge), and ROI after each commission."""
    commissions = (figure.percent() for rate, figure in row.roi.items() if rate)
    ae = (figure.shown(2) for figure in (row.ae_model, row.ae_market, row.ae_price))
    return (*ae, row.roi[0.0].percent(), by_luck(luck.get(row.strategy)), *commissions)
