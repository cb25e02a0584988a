"""A training report for the terminal."""

from collections.abc import Iterator
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from velo.text_tables import table_of
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
    rows = [*_rows("validation", report.validation), *_rows("test", report.test)]
    columns = ("", "races", "log loss", "1/N", "R²", "top-1")
    table = table_of("later race days, 95 % intervals over whole days", columns, rows, left=("",))
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
    rows = (
        (part.name, part.r2.shown(4), part.delta_r2.shown(4), part.calibration_error.percent(2), part.slope.shown(2))
        for part in report.parts
    )
    return table_of(title, ("", "R²", "ΔR² over π^β", "calibration error", "slope"), rows, left=("",))


def _searched(report: TrainReport) -> Table:
    title = f"options tried by forward cross-validation, {report.searched[0].races:,} races before the test days"
    rows = (
        (tried.name, tried.rounds, f"{tried.r2:.4f}", f"{tried.gain:+.4f}", f"{tried.gain_se:.4f}", "yes" * tried.taken)
        for tried in report.searched
    )
    return table_of(title, ("", "rounds", "R²", "gain", "± s.e.", "taken"), rows, left=("",))


def _rows(name: str, part: ModelQuality) -> Iterator[tuple[Any, ...]]:
    yield f"{name} {part.first_day} to {part.last_day}: model", part.races, *_cells(part.model)
    if part.market is not None and part.model_where_priced is not None:
        if part.priced_races != part.races:
            yield "  model, priced races", part.priced_races, *_cells(part.model_where_priced)
        yield "  market π", part.priced_races, *_cells(part.market)


def _cells(quality: Quality) -> tuple[str, str, str, str]:
    losses = (f"{quality.log_loss:.4f}", f"{quality.log_loss_uniform:.4f}")
    return (*losses, quality.r2.shown(3), quality.top1.shown(3))
