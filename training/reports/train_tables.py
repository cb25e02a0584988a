"""A training report for the terminal."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from velo.training.evaluation.quality import ModelQuality, Quality
from velo.training.race_model import VELO
from velo.training.train import TrainReport


def trained_table(report: TrainReport) -> Group:
    """The report for rich: the verdict, the figures, then the caveats."""
    head = Text(f"model {report.version}{_name(report)}   gate: {report.gate} · {report.mode}", style="bold")
    rounds = f"{report.rounds} rounds, " if report.rounds else ""
    facts = Text(
        f"{report.records:,} records of {report.train_first_day} to {report.train_last_day}, {report.features} features, "
        f"{rounds}blend: {report.blend or 'none'}; {report.rows:,} rows of {report.races:,} races were joined, {report.from_cards:,} races "
        f"have a racecard, {report.left_out:,} were left out (one starter, or no declared winner)"
    )
    table = Table(title="later race days, 95 % intervals over whole days", title_justify="left")
    for name in ("", "races", "log loss", "1/N", "R²", "top-1"):
        table.add_column(name, justify="left" if not name else "right")
    for name, part in (("validation", report.validation), ("test", report.test)):
        _add(table, name, part)
    caveats = [Text(f"· {line}") for line in report.caveats]
    margin = report.test.margin
    beyond = [Text(f"test margin over the market: {margin.shown(4)} nats a race")] if margin else []
    searched = [_searched(report)] if report.searched else []
    parts = [_parts(report)] if report.parts else []
    return Group(head, facts, *searched, table, *parts, *beyond, *caveats)


def _name(report: TrainReport) -> str:
    return "" if report.model == VELO else f" ({report.model})"


def _parts(report: TrainReport) -> Table:
    title = f"test days, {report.parts[0].races:,} races with a market; the plain logit is the baseline to beat"
    table = Table(title=title, title_justify="left")
    for name in ("", "R²", "ΔR² over π^β", "calibration error", "slope"):
        table.add_column(name, justify="left" if not name else "right")
    for part in report.parts:
        error = part.calibration_error.percent(2)
        table.add_row(part.name, part.r2.shown(4), part.delta_r2.shown(4), error, part.slope.shown(2))
    return table


def _searched(report: TrainReport) -> Table:
    title = f"options tried by forward cross-validation, {report.searched[0].races:,} races before the test days"
    table = Table(title=title, title_justify="left")
    for name in ("", "rounds", "R²", "gain", "± s.e.", "taken"):
        table.add_column(name, justify="left" if not name else "right")
    for tried in report.searched:
        figures = (f"{tried.r2:.4f}", f"{tried.gain:+.4f}", f"{tried.gain_se:.4f}", "yes" if tried.taken else "")
        table.add_row(tried.name, f"{tried.rounds:,}", *figures)
    return table


def _add(table: Table, name: str, part: ModelQuality) -> None:
    when = f"{name} {part.first_day} to {part.last_day}"
    table.add_row(f"{when}: model", f"{part.races:,}", *_cells(part.model))
    if part.market is not None and part.model_where_priced is not None:
        if part.priced_races != part.races:
            table.add_row("  model, priced races", f"{part.priced_races:,}", *_cells(part.model_where_priced))
        table.add_row("  market π", f"{part.priced_races:,}", *_cells(part.market))


def _cells(quality: Quality) -> tuple[str, str, str, str]:
    losses = (f"{quality.log_loss:.4f}", f"{quality.log_loss_uniform:.4f}")
    return (*losses, quality.r2.shown(3), quality.top1.shown(3))
