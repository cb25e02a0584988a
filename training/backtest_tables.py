"""A backtest and the gate's verdict for the terminal; nothing is told by colour alone."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from training.backtest import BacktestReport
from training.backtest_metrics import Bets
from training.resampling import Figure
from training.windows import GateReport

NAMES = {
    "pi": "market π",
    "market": "market π^β",
    "logit": "plain logit",
    "fundamental": "fundamental",
    "calibrated": "fundamental, calibrated",
    "blend_raw": "blend, uncalibrated",
    "blend": "blend",
}


def backtest_tables(report: BacktestReport) -> Group:
    """The report as rich shows it: verdict first, then what was tested, the figures, and what to beware of."""
    return Group(
        Text(first_line(report), style="bold"),
        Text(what_was_tested(report)),
        _quality(report),
        *(Text(line) for line in beside_lines(report)),
        *(_strategies(name, bets) for name, bets in report.bets.items()),
        *(_buckets(name, bets[-1]) for name, bets in report.bets.items()),
        *(gate_tables(name, gate) for name, gate in report.gate.items()),
        *(Text(f"· {line}") for line in report.caveats),
    )


def first_line(report: BacktestReport) -> str:
    """The verdict in one line."""
    each = " · ".join(f"{NAMES[name]}: {gate.verdict.value}" for name, gate in report.gate.items())
    return f"gate: {report.verdict} ({each or 'not asked: the period is shorter than 365 days'})"


def what_was_tested(report: BacktestReport) -> str:
    """Which days, trained on what, how often tried."""
    left_out = f", {report.left_out:,} races without a market left out" if report.left_out else ""
    look = f", look {report.look} at a locked window" if report.look else ""
    return (
        f"backtest {report.backtest}: {report.since} to {report.until}, {report.races:,} races and {report.runners:,} starters "
        f"on {report.race_days:,} days{left_out}; trained on {report.records:,} records or more, refitted every "
        f"{report.months} months; {report.rounds} rounds of trees; trial {report.trials} of these days{look}"
    )


def beside_lines(report: BacktestReport) -> list[str]:
    """The comparisons, and which blend was chosen."""
    lines = [
        f"ΔR² of {NAMES[one.name]} over {NAMES[one.than]}: {shown(one.delta_r2, 4)}, margin {shown(one.margin, 4)} nats a race"
        for one in report.beside
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


def shown(figure: Figure, digits: int = 3) -> str:
    """A figure with its interval."""
    if figure.value is None:
        return "–"
    interval = (
        "" if figure.low is None or figure.high is None else f" [{figure.low:.{digits}f}, {figure.high:.{digits}f}]"
    )
    return f"{figure.value:.{digits}f}{interval}"


def percent(figure: Figure, digits: int = 1) -> str:
    """A figure with its interval, in percent."""
    if figure.value is None:
        return "–"
    low, high = (None if one is None else one * 100.0 for one in (figure.low, figure.high))
    return f"{shown(Figure(figure.value * 100.0, low, high, figure.n), digits)} %"


def gate_tables(name: str, gate: GateReport) -> Group:
    """The gate on one set of probabilities: each criterion with its value, interval and bound, and the alarms."""
    parts: list[RenderableType] = [
        Text(f"gate on {NAMES.get(name, name)}, {gate.strategy}: {gate.verdict.value}", style="bold")
    ]
    for asked in gate.asked:
        window = asked.window
        table = Table(title=f"{window.first_day} to {window.last_day}: {window.verdict.value}", title_justify="left")
        for column in ("criterion", "value, 95 % interval", "bound", "n", "verdict"):
            table.add_column(column, justify="left" if column == "criterion" else "right")
        for one in window.judged:
            value = f"{one.figure.value:,.0f}" if one.criterion.counted else shown(one.figure, 4)
            table.add_row(one.criterion.says, value, one.criterion.bound, f"{one.figure.n:,}", one.verdict.value)
        parts.append(table)
        parts.append(
            Text(
                f"P(pass | no edge) {asked.no_edge.by_interval:.1%}, were values alone judged {asked.no_edge.by_value:.1%}; "
                f"P(pass | the model is true) {asked.power.by_interval:.1%}"
            )
        )
        parts += [Text(f"ALARM: {alarm}") for alarm in window.alarms]
    return Group(*parts)


def _quality(report: BacktestReport) -> Table:
    table = Table(title="out-of-fold probabilities, 95 % intervals over whole days", title_justify="left")
    for column in ("", "R²", "top-1", "AUC", "calibration error", "mean gap", "10 bins", "slope"):
        table.add_column(column, justify="left" if not column else "right")
    for one in report.told:
        table.add_row(
            NAMES[one.name],
            shown(one.r2, 4),
            shown(one.top1),
            "–" if one.auc is None else f"{one.auc:.3f}",
            percent(one.root_mean_gap, 2),
            percent(one.mean_gap, 2),
            f"{one.plain_error:.2%}",
            shown(one.slope),
        )
    return table


def _strategies(name: str, bets: tuple[Bets, ...]) -> Table:
    table = Table(title=f"bets by {NAMES[name]}, one unit each", title_justify="left")
    for column in (
        "strategy", "bets", "A/E, model p", "A/E, π", "A/E, 1/SP", "ROI at SP", "after 2 %", "after 5 %",
        "drawdown, units", "Kelly bank",
    ):  # fmt: skip
        table.add_column(column, justify="left" if column == "strategy" else "right")
    for one in bets:
        table.add_row(
            one.strategy,
            f"{one.n:,}" + (f" (+{one.unsettled} unsettled)" if one.unsettled else ""),
            shown(one.ae_model, 2),
            shown(one.ae_market, 2),
            shown(one.ae_price, 2),
            *(percent(figure) for figure in one.roi.values()),
            f"{one.drawdown:,.0f}",
            f"{one.kelly.final:.3f}",
        )
    return table


def _buckets(name: str, bets: Bets) -> Table:
    table = Table(title=f"{bets.strategy}, {NAMES[name]}, by price", title_justify="left")
    for column in ("price", "bets", "A/E, model p", "A/E, π", "A/E, 1/SP", "ROI at SP"):
        table.add_column(column, justify="right")
    for price, one in bets.buckets.items():
        figures = (shown(one.ae_model, 2), shown(one.ae_market, 2), shown(one.ae_price, 2), percent(one.roi))
        table.add_row(price, f"{one.n:,}", *figures)
    return table
