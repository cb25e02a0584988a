"""A backtest as one HTML file that a person can read anywhere: no network, no script, no need of colour."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import islice
from pathlib import Path
from typing import Final

from training.backtest import BacktestReport
from training.backtest_tables import NAMES, beside_lines, first_line, percent, shown, what_was_tested
from training.charts import bar_chart, equity_chart, reliability_chart
from training.windows import GateReport
from velo.files import make_folder, write_atomically

SHOWN_FEATURES: Final = 15
_STYLE: Final = """
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#111;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse;font-size:.85rem;margin:.5rem 0;font-variant-numeric:tabular-nums}
th,td{border-bottom:1px solid #bbb;padding:.2rem .6rem;text-align:right}th:first-child,td:first-child{text-align:left}
figure{display:inline-block;width:33rem;max-width:100%;margin:.5rem 1rem .5rem 0;vertical-align:top}
figcaption{font-size:.85rem}svg{width:100%;font-size:11px}
.grid{stroke:#ddd}.dashed{stroke:#111;stroke-dasharray:5 4;fill:none}.line{stroke:#111;stroke-width:2;fill:none}
.band{fill:#ddd}.hollow{fill:none;stroke:#111;stroke-width:1.5}.bar{fill:#555}.scroll{overflow-x:auto}
"""


def write_report(report: BacktestReport, path: Path) -> Path:
    """Write the page, whole or not at all; returns its path."""
    make_folder(path.parent, "name a file in a folder you may write to")
    write_atomically(path, page(report).encode())
    return path


def page(report: BacktestReport) -> str:
    """The whole page as text; its first line is the verdict."""
    told = {one.name: one for one in report.told}
    body = [
        f"<h1>{escape(first_line(report))}</h1>",
        _paragraphs([what_was_tested(report), *report.caveats]),
        "<h2>How good the probabilities were</h2>",
        _quality(report),
        _paragraphs(beside_lines(report)),
        reliability_chart(told["fundamental"], told["blend"]),
        bar_chart(
            "Features that brought most gain in the last refit", _first(report.importance, SHOWN_FEATURES), ".1%"
        ),
        "<h2>What betting by them would have done</h2>",
        *(_bets(report, name) for name in report.bets),
        "<h2>The gate</h2>",
        *(_gate(name, gate) for name, gate in report.gate.items()),
        "" if report.gate else _paragraphs(["Not asked: the period is shorter than 12 months."]),
        "<h2>What moved between training and test</h2>",
        _paragraphs(["Population stability index of each feature, the ten largest; above 0.25 is commonly called a shift."]),
        bar_chart("Drift, training days against tested days", _first(report.drift, 10), ".3f"),
        "<h2>The refits</h2>",
        _table(
            ("days", "tested", "trained on", "records", "races", "β of the market"),
            (
                (one.name, "yes" if one.tested else "no", f"{one.train_first_day} to {one.train_last_day}",
                 f"{one.records:,}", f"{one.races:,}", f"{one.beta:.3f}")
                for one in report.refits
            ),
        ),
    ]  # fmt: skip
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(first_line(report))}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n<body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _quality(report: BacktestReport) -> str:
    columns = ("", "R²", "top-1", "AUC", "calibration error", "mean gap", "10 equal-width bins", "slope")
    return _table(
        columns,
        (
            (NAMES[one.name], shown(one.r2, 4), shown(one.top1), "–" if one.auc is None else f"{one.auc:.3f}",
             percent(one.root_mean_gap, 2), percent(one.mean_gap, 2), f"{one.plain_error:.2%}", shown(one.slope))
            for one in report.told
        ),
    )  # fmt: skip


def _bets(report: BacktestReport, name: str) -> str:
    bets = report.bets[name]
    strategies = _table(
        (
            NAMES[name], "bets", "unsettled", "A/E, model p", "A/E, π", "A/E, 1/SP", "ROI at SP", "after 2 %", "after 5 %",
            "drawdown, units", "Kelly bank from 1",
        ),
        (
            (one.strategy, f"{one.n:,}", f"{one.unsettled:,}", shown(one.ae_model, 2), shown(one.ae_market, 2),
             shown(one.ae_price, 2), *(percent(figure) for figure in one.roi.values()), f"{one.drawdown:,.0f}",
             f"{one.kelly.final:.3f}")
            for one in bets
        ),
    )  # fmt: skip
    buckets = _table(
        (f"{NAMES[name]}, by price", "bets", "A/E, model p", "A/E, π", "A/E, 1/SP", "ROI at SP"),
        (
            (f"{one.strategy}: {price}", f"{bucket.n:,}", shown(bucket.ae_model, 2), shown(bucket.ae_market, 2),
             shown(bucket.ae_price, 2), percent(bucket.roi))
            for one in bets
            if one.strategy in {report.equity[name].strategy, "ALL by p"}
            for price, bucket in one.buckets.items()
        ),
    )  # fmt: skip
    return strategies + equity_chart(report.equity[name]) + buckets


def _gate(name: str, gate: GateReport) -> str:
    parts = [_paragraphs([f"{NAMES[name]}, {gate.strategy}: {gate.verdict.value}"])]
    for asked in gate.asked:
        window = asked.window
        parts.append(
            _table(
                (f"{window.first_day} to {window.last_day}: {window.verdict.value}", "value, 95 % interval", "bound", "n", "verdict"),
                (
                    (one.criterion.says, f"{one.figure.value:,.0f}" if one.criterion.counted else shown(one.figure, 4),
                     one.criterion.bound, f"{one.figure.n:,}", one.verdict.value)
                    for one in window.judged
                ),
            )
        )  # fmt: skip
        lines = [
            f"P(pass | no edge) {asked.no_edge.by_interval:.1%}; P(pass | the model is true) {asked.power.by_interval:.1%}"
        ]
        parts.append(_paragraphs([*lines, *(f"ALARM: {alarm}" for alarm in window.alarms)]))
    return "".join(parts)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _paragraphs(lines: Iterable[str]) -> str:
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _first(values: Mapping[str, float], count: int) -> dict[str, float]:
    return dict(islice(values.items(), count))
