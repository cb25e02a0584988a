"""`velo simulate` writes a simulated season; `velo demo` goes from one to a scored race."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from velo.commands.edge import Json, Step, facts, now, open_store, show, steps
from velo.errors import UserError
from velo.settings import Settings
from velo.storage.atomic_files import make_folder
from velo.storage.store import Home, Store

if TYPE_CHECKING:
    from velo.simulator import SeasonSpec
    from velo.training.model.trees import ModelOptions

DEMO_DAYS: Final = 540
DEMO_RACES_PER_YEAR: Final = 2400
DEMO_TESTED_DAYS: Final = 120
DEMO_ROUNDS: Final = 40
LIVE_TESTED_DAYS: Final = 365
"""The gate judges a year."""
SEASON: Final = "season.parquet"
CARD: Final = "card.parquet"
RESULTS: Final = "results.parquet"
"""The results of the card's day, which `velo demo --live` makes known one by one."""
DESK_PORT: Final = 8000


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
    snapshots: Annotated[
        Path | None,
        typer.Option(help="Write the odds before each off here, as they move, for `velo log rebuild --source market`."),
    ] = None,
    sections: Annotated[
        bool, typer.Option("--in-running", help="Add in-running data to the results: calls, section times, trips.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a simulated season as a runner table: for demos and tests, never evidence of a model's quality."""
    from velo.simulator import SeasonSpec

    spec = SeasonSpec(
        seed=seed, start=start.date(), days=days, races_per_year=races_per_year, market_knowledge=market_knowledge
    )
    report = _write_season(spec, out, card, snapshots=snapshots, sections=sections)
    show(report, as_json, lambda: facts("season", report.items()))


def demo(
    as_json: Json = False,
    seed: Annotated[int, typer.Option(help="Random seed; equal seeds give equal seasons.")] = 1,
    live: Annotated[
        bool,
        typer.Option("--live", help="Then run a simulated race day on a new store, with the desk and paper trading."),
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the desk with --live.")] = DESK_PORT,
    speed: Annotated[
        float, typer.Option(min=1.0, max=600.0, help="How many times as fast the day of --live passes.")
    ] = 30.0,
) -> None:
    """Run the whole pipeline on a simulated season: load, build, train, backtest, score a race."""
    from velo.simulator import SeasonSpec

    settings = Settings.from_env()
    today = now().date()
    # a few more days: today may have no racing, and then the next race day is scored; a live day is over before today
    first = today - timedelta(days=DEMO_DAYS + (8 if live else 0))
    spec = SeasonSpec(seed=seed, start=first, days=DEMO_DAYS + 7, races_per_year=DEMO_RACES_PER_YEAR)
    _clear_other_season(settings, spec, also_same=live)
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
        _write_season(spec, season, card, not_before=None if live else today, keep_results=live)
    clock = _morning_of(store) if live else now
    options = _few_rounds(seed) if live else None
    with steps(as_json) as progress:
        say(f"velo ingest runners {SEASON}")
        ingest(store, read_runner_tables([season], store), clock=clock)
        store = open_store()
        say(f"velo cards runners {CARD}")
        declared = declare(store, read_cards([card], store), clock=clock)
        say("velo build")
        build(store, clock(), progress=progress)
        make_warehouse(store)
        say("feast apply && feast materialize-incremental …")
        store = open_store()
        apply(store)
        materialize(store, clock())
        say("velo train")
        train(store, lead=timedelta(minutes=5), seed=seed, model=options, now=now(), progress=progress)
        page = store.home.reports / f"demo-{store.epochs[-1][:8]}.html"
        if not page.exists():  # the file name covers the formulas; another season empties the home
            say(f"velo backtest --days {LIVE_TESTED_DAYS if live else DEMO_TESTED_DAYS} --report {page}")
            _demo_backtest(store, page, seed, progress, live=live)
    say(f"velo score {declared.races[0]}")
    scored = score(store, declared.races[0], log=UnbuiltLog(store.home), now=clock())
    show(to_json(scored) | {"report": str(page)} if as_json else None, as_json, lambda: race_card(scored))
    if live:
        _run_live(store, seed, port, speed, console)
    home = store.home.root
    more = 'velo sql "from trainer_velocity_daily limit 5"'
    lines = (
        (f"Open the backtest report in a browser: {page}", "bold"),
        (
            f"See the races at the desk, http://127.0.0.1:{DESK_PORT}/ , with: VELO_HOME={quote(str(home))} velo up",
            "bold",
        ),
        (f"The season is simulated: it shows that the software works, not that the model is good. More: {more}", "dim"),
        (f"The store is VELO_HOME={home}", "dim"),
    )
    for line, style in lines:
        console.print(line, style=style, highlight=False, soft_wrap=True)


def _run_live(store: Store, seed: int, port: int, speed: float, console: Console) -> None:
    """Run the card's day, then show the account of the day and the gate's verdict."""
    from velo.commands.live_demo import run_day
    from velo.serving.paper_trading.ledger import read
    from velo.serving.paper_trading.report import paper_reports, paper_table
    from velo.simulator.live_day import live_day
    from velo.streams.importers.sources.runners import read_runner_tables
    from velo.training.gate.windows import judge_last

    judged = judge_last(store.home, now=now(), subject="blend")
    results = read_runner_tables([store.home.root / RESULTS], store).messages
    run_day(store, live_day(results, seed), port, speed, console)
    show(None, as_json=False, table=lambda: paper_table(paper_reports(read(store.home))))
    console.print(
        f"gate: {judged.verdict} for model {judged.model or 'none'}: {judged.mode}", style="bold", highlight=False
    )


def _morning_of(store: Store) -> Callable[[], datetime]:
    """A clock that shows 09:00 local of the card's day."""
    import pyarrow.parquet

    day: date = pyarrow.parquet.read_table(store.home.root / RESULTS, columns=["race_date"])["race_date"][0].as_py()
    morning = datetime.combine(day, time(9, 0), tzinfo=store.timezone).astimezone(UTC)
    return lambda: morning


def _few_rounds(seed: int) -> "ModelOptions":
    """Options of a model that is fitted in seconds."""
    from velo.training.model.trees import ModelOptions

    return ModelOptions(seed=seed, rounds=DEMO_ROUNDS, patience=10, learning_rate=0.1)


def _demo_backtest(store: Store, page: Path, seed: int, progress: Step, *, live: bool) -> None:
    """Backtest a recipe with few rounds, to have a page to show; with `live` it is the trained model's, over the gate's year."""
    from velo.training.evaluation.backtest import backtest
    from velo.training.reports.html import write_report

    days, months = (LIVE_TESTED_DAYS, 3) if live else (DEMO_TESTED_DAYS, 4)
    options = _few_rounds(seed)
    result = backtest(store, now=now(), days=days, refit_months=months, past=1, model=options, progress=progress)
    caveat = "the season is simulated: this page shows what a report looks like, not how good any model is"
    write_report(replace(result, caveats=(caveat, *result.caveats)), page)


def _write_season(
    spec: "SeasonSpec",
    out: Path,
    card: Path | None,
    not_before: date | None = None,
    *,
    keep_results: bool = False,
    snapshots: Path | None = None,
    sections: bool = False,
) -> dict[str, Any]:
    """Write the season; with `card`, also the racecards of its last race day, or of the first one from `not_before`.

    `keep_results` writes the results of that day beside the cards, `snapshots` the odds before each off of the season;
    `sections` adds in-running data to the results.
    """
    import pyarrow.compute as pc
    import pyarrow.csv
    import pyarrow.parquet

    from velo.simulator import in_running, snapshots_of, split_card
    from velo.simulator import simulate as season

    table = season(spec)
    if sections:
        table = in_running(table, spec.seed)
    report: dict[str, Any] = {"file": str(out)}
    written = [(out, table)]
    if card is not None:
        # the season may end on a day without racing
        days: set[date] = set(table["race_date"].to_pylist())
        day = min((d for d in days if not_before and d >= not_before), default=max(days))
        results = table.filter(pc.and_(pc.equal(table["race_date"], day), pc.equal(table["result_version"], 1)))
        table, today = split_card(table, day, spec.timezone)
        # a card without known_at is known when it is loaded
        written = [(out, table), (card, today.drop_columns(["known_at"]))]
        written += [(card.with_name(RESULTS), results)] if keep_results else []
        report |= {"card": str(card), "declared": today.num_rows}
    if snapshots is not None:
        moving = snapshots_of(table, spec.seed)
        written.append((snapshots, moving))
        report |= {"snapshots": str(snapshots), "odds": moving.num_rows}
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


def _clear_other_season(settings: Settings, spec: "SeasonSpec", *, also_same: bool = False) -> None:
    """Empty a home that holds the demo of another season, or with `also_same` of any; raises `UserError` for a home that is no demo's."""
    home = settings.home
    marker = Home(home).demo
    if home.exists() and any(home.iterdir()) and not marker.exists():
        raise UserError(f"{home} holds a store that is not the demo's: set VELO_HOME to another folder")
    if marker.exists() and (also_same or marker.read_text() != repr(spec)):
        from velo.feature_repo.stores.embedded_redis import down

        down(Store.open(settings).home)
        shutil.rmtree(home)
    make_folder(home)
    marker.write_text(repr(spec))
