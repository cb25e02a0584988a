"""`velo simulate` writes a simulated season; `velo demo` goes from one to a scored race."""

import shutil
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from velo.commands.edge import Json, Step, facts, now, open_store, show, steps
from velo.errors import UserError
from velo.settings import Settings
from velo.storage.atomic_files import make_folder
from velo.storage.store import Store

if TYPE_CHECKING:
    from velo.simulator import SeasonSpec

DEMO_DAYS: Final = 540
DEMO_RACES_PER_YEAR: Final = 2400
DEMO_TESTED_DAYS: Final = 120
DEMO_ROUNDS: Final = 40
SEASON: Final = "season.parquet"
CARD: Final = "card.parquet"


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in (simulate, demo):
        app.command()(command)


def simulate(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="Parquet or CSV file to write.")],
    start: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="First local day.")] = datetime(2023, 1, 1),  # noqa: DTZ001 a local day
    days: Annotated[int, typer.Option(help="Number of days.")] = 365,
    races_per_year: Annotated[int, typer.Option(help="Races per year.")] = 9000,
    seed: Annotated[int, typer.Option(help="Random seed; equal seeds give equal seasons.")] = 1,
    market_knowledge: Annotated[
        float, typer.Option(help="What the market knows, from 0 (little) to 1 (everything).")
    ] = 0.7,
    card: Annotated[
        Path | None, typer.Option(help="Write the racecards of the last race day here, and leave its results out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a simulated season as a runner table: for demos and tests, never evidence of a model's quality."""
    from velo.simulator import SeasonSpec

    spec = SeasonSpec(
        seed=seed, start=start.date(), days=days, races_per_year=races_per_year, market_knowledge=market_knowledge
    )
    report = _write_season(spec, out, card)
    show(report, as_json, lambda: facts("season", report.items()))


def demo(
    as_json: Json = False,
    seed: Annotated[int, typer.Option(help="Random seed; equal seeds give equal seasons.")] = 1,
) -> None:
    """Run the whole pipeline on a simulated season: load, build, train, backtest, score a race."""
    from velo.simulator import SeasonSpec

    settings = Settings.from_env()
    today = now().date()
    # a few more days: today may have no racing, and then the next race day is scored
    spec = SeasonSpec(
        seed=seed, start=today - timedelta(days=DEMO_DAYS), days=DEMO_DAYS + 7, races_per_year=DEMO_RACES_PER_YEAR
    )
    _clear_other_season(settings, spec)
    from velo.feature_repo.feast_store import apply, materialize
    from velo.serving.scoring.render import race_card, to_json
    from velo.serving.scoring.scorer import score
    from velo.streams.batch.build import build
    from velo.streams.batch.warehouse import make_warehouse
    from velo.streams.importers.declare import declare
    from velo.streams.importers.ingest import ingest
    from velo.streams.importers.sources.runners import read_runner_tables
    from velo.streams.importers.sources.runners_cards import read_cards
    from velo.streams.unbuilt_log import UnbuiltLog
    from velo.training.train import train

    store = open_store().save()
    season, card = store.home.root / SEASON, store.home.root / CARD
    console = Console(stderr=True)

    def say(command: str) -> None:
        console.print(f"[dim]$[/dim] {command}", highlight=False)

    say(f"velo simulate {SEASON} --card {CARD} --start {spec.start} --days {spec.days}")
    if not card.exists():
        _write_season(spec, season, card, not_before=today)
    with steps(as_json) as progress:
        say(f"velo ingest runners {SEASON}")
        ingest(store, read_runner_tables([season], store), clock=now)
        store = open_store()
        say(f"velo cards runners {CARD}")
        declared = declare(store, read_cards([card], store), clock=now)
        say("velo build")
        build(store, now(), progress=progress)
        make_warehouse(store)
        say("feast apply && feast materialize-incremental …")
        store = open_store()
        apply(store)
        materialize(store, now())
        say("velo train")
        train(store, lead=timedelta(minutes=5), seed=seed, now=now(), progress=progress)
        page = store.home.reports / f"demo-{store.epochs[-1][:8]}.html"
        if not page.exists():  # the file name covers the formulas; another season empties the home
            say(f"velo backtest --days {DEMO_TESTED_DAYS} --report {page}")
            _demo_backtest(store, page, seed, progress)
    say(f"velo score {declared.races[0]}")
    scored = score(store, declared.races[0], log=UnbuiltLog(store.home), now=now())
    show(to_json(scored) | {"report": str(page)} if as_json else None, as_json, lambda: race_card(scored))
    console.print(f"Open the backtest report in a browser: {page}", style="bold", highlight=False, soft_wrap=True)
    console.print(
        "The season is simulated: it shows that the software works, not that the model is good. "
        f'More: velo sql "from trainer_velocity_daily limit 5"; the store is {store.home.root}',
        style="dim",
        highlight=False,
    )


def _demo_backtest(store: Store, page: Path, seed: int, progress: Step) -> None:
    """Backtest a recipe with few rounds, to have a page to show: it says nothing about the trained model."""
    from velo.training.evaluation.backtest import backtest
    from velo.training.model.trees import ModelOptions
    from velo.training.reports.html import write_report

    options = ModelOptions(seed=seed, rounds=DEMO_ROUNDS, patience=10, learning_rate=0.1)
    result = backtest(store, now=now(), days=DEMO_TESTED_DAYS, refit_months=4, past=1, model=options, progress=progress)
    caveat = "the season is simulated: this page shows what a report looks like, not how good any model is"
    write_report(replace(result, caveats=(caveat, *result.caveats)), page)


def _write_season(spec: "SeasonSpec", out: Path, card: Path | None, not_before: date | None = None) -> dict[str, Any]:
    """Write the season; with `card`, also the racecards of its last race day, or of the first one from `not_before`."""
    import pyarrow.csv
    import pyarrow.parquet

    from velo.simulator import simulate as season
    from velo.simulator import split_card

    table = season(spec)
    report: dict[str, Any] = {"file": str(out)}
    written = [(out, table)]
    if card is not None:
        # the season may end on a day without racing
        days: set[date] = set(table["race_date"].to_pylist())
        day = min((d for d in days if not_before and d >= not_before), default=max(days))
        table, today = split_card(table, day, spec.timezone)
        # a card without known_at is known when it is loaded
        written = [(out, table), (card, today.drop_columns(["known_at"]))]
        report |= {"card": str(card), "declared": today.num_rows}
    for path, rows in written:
        make_folder(path.parent, "name a file in a folder you may write to")
        aside = path.with_name(f".{path.name}")
        try:
            if path.suffix == ".csv":
                pyarrow.csv.write_csv(rows, aside)
            else:
                pyarrow.parquet.write_table(rows, aside)
            aside.replace(path)
        except OSError as refused:
            aside.unlink(missing_ok=True)
            raise UserError(f"cannot write {path} ({refused.strerror or refused}): name a file you may write") from None
    return report | {"rows": table.num_rows}


def _clear_other_season(settings: Settings, spec: "SeasonSpec") -> None:
    """Empty a home that holds the demo of another season; raises `UserError` for a home that is not a demo's."""
    home = settings.home
    marker = home / "demo.txt"
    if home.exists() and any(home.iterdir()) and not marker.exists():
        raise UserError(f"{home} holds a store that is not the demo's: set VELO_HOME to another folder")
    if marker.exists() and marker.read_text() != repr(spec):
        from velo.feature_repo.stores.embedded_redis import down

        down(Store.open(settings).home)
        shutil.rmtree(home)
    make_folder(home)
    marker.write_text(repr(spec))
