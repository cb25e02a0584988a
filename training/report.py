"""A training report for the terminal."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from training.metrics import Estimate, Measured, Quality
from training.train import TrainReport


def trained_table(report: TrainReport) -> Group:
    """The report as rich shows it: verdict first, then the figures, then what to beware of."""
    head = Text(f"model {report.version}   gate: {report.gate} · {report.mode}", style="bold")
    facts = Text(
        f"{report.records:,} records of {report.train_first_day} to {report.train_last_day}, {report.features} features, "
        f"{report.rounds} rounds; {report.rows:,} rows of {report.races:,} races were joined, {report.from_cards:,} races "
        f"have a racecard, {report.left_out:,} were left out (one starter, or no declared winner)"
    )
    table = Table(title="later race days, 95 % intervals over whole days", title_justify="left")
    for name in ("", "races", "log loss", "1/N", "R²", "top-1"):
        table.add_column(name, justify="left" if not name else "right")
    for name, part in (("validation", report.validation), ("test", report.test)):
        _add(table, name, part)
    beware = [Text(f"· {line}") for line in report.caveats]
    margin = report.test.margin
    beyond = [Text(f"test margin over the market: {_shown(margin, 4)} nats a race")] if margin else []
    return Group(head, facts, table, *beyond, *beware)


def _add(table: Table, name: str, part: Measured) -> None:
    when = f"{name} {part.first_day} to {part.last_day}"
    table.add_row(f"{when}: model", f"{part.races:,}", *_cells(part.model))
    if part.market is not None and part.model_where_priced is not None:
        if part.priced_races != part.races:
            table.add_row("  model, priced races", f"{part.priced_races:,}", *_cells(part.model_where_priced))
        table.add_row("  market π", f"{part.priced_races:,}", *_cells(part.market))


def _cells(quality: Quality) -> tuple[str, str, str, str]:
    losses = (f"{quality.log_loss:.4f}", f"{quality.log_loss_uniform:.4f}")
    return (*losses, _shown(quality.r2, 3), _shown(quality.top1, 3))


def _shown(estimate: Estimate, digits: int) -> str:
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
