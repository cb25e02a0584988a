"""`velo bench …`: measure time, memory and correctness on this machine. Needs a checkout: no wheel has the benchmarks."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from velo.commands.edge import Json, now, show, steps, table_of
from velo.errors import UserError

if TYPE_CHECKING:
    from benchmarks.whole import BenchOptions

bench_app = typer.Typer(name="bench", help="Measure this machine: every part in one run, or one part in detail.")
Results = Annotated[Path | None, typer.Option("--runners", help="Runner table to tile (default: a simulated season).")]
Zone = Annotated[str, typer.Option("--timezone", help="The runner table's time zone.")]


@bench_app.callback(invoke_without_command=True)
def together(
    context: typer.Context,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Run only this part: build, join, day, stream, freshness, online, race, redis, growth. Repeatable."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny sizes: check that every part runs; the numbers mean nothing.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Markdown file to write, with charts beside it (default after a full run: docs/benchmarks.md)."
        ),
    ] = None,
    runners: Results = None,
    timezone: Zone = "Europe/London",
    as_json: Json = False,
) -> None:
    """Run every benchmark, alternating contenders, and write docs/benchmarks.md. Takes half an hour on two cores."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / "benchmarks").is_dir():
        raise UserError(
            "velo bench needs a checkout: the installed package has no benchmarks. Clone the repository, then make setup"
        )
    sys.path.insert(0, str(checkout))
    if context.invoked_subcommand is not None:
        return
    from benchmarks.page import tables, where_to, write
    from benchmarks.whole import BenchOptions, measure

    options = BenchOptions(quick, tuple(only or ()), runners, timezone)
    # one part, or a --quick run, must not replace the page of a full run
    path = None if out is None and (only or quick) else where_to(out)
    with steps(as_json) as progress:
        for report in measure(options, now(), progress):
            # an interrupted run leaves its partial results in --out and does not touch the default page
            if out is not None and path is not None:
                write(report, path)
    if path is not None:
        write(report, path)
    show(report, as_json, lambda: tables(report))


def _show_part(options: "BenchOptions", as_json: bool) -> None:
    from benchmarks.page import tables
    from benchmarks.whole import measure

    with steps(as_json) as progress:
        *_, report = measure(options, now(), progress)
    show(report, as_json, lambda: tables(report))


def _finish(figures: Any, as_json: bool, table: Callable[[Any], Any]) -> None:
    """Show the figures of a benchmark that has a right outcome; exits 1 if they are `broken`."""
    show(figures, as_json, lambda: table(figures))
    if figures.broken:
        raise typer.Exit(1)


@bench_app.command()
def build(
    starts: Annotated[list[int], typer.Option(help="Number of starts. Repeatable.")] = [  # noqa: B006 typer copies it
        100_000,
        1_000_000,
    ],
    runners: Results = None,
    timezone: Zone = "Europe/London",
    as_json: Json = False,
) -> None:
    """Measure a full `velo build`: starts/s and peak memory, one process for each size."""
    from benchmarks.whole import build_options

    _show_part(build_options(starts, runners, timezone), as_json)


@bench_app.command("point-in-time")
def point_in_time(
    rows: Annotated[list[int], typer.Option(help="Number of entity rows. Repeatable.")] = [  # noqa: B006 typer copies it
        3_000,
        100_000,
    ],
    stock_rows: Annotated[
        int, typer.Option(help="Row limit for Feast's own DuckDB store, which is slow and uses gigabytes.")
    ] = 3_000,
    runners: Results = None,
    timezone: Zone = "Europe/London",
    as_json: Json = False,
) -> None:
    """Measure the point-in-time join: ours, plain DuckDB, polars, and Feast's own store up to --stock-rows."""
    from benchmarks.whole import join_options

    _show_part(join_options(rows, stock_rows, runners, timezone), as_json)


@bench_app.command()
def ingest(
    rows: Annotated[int, typer.Option(min=1200, help="Number of runners in the made-up file.")] = 200_000,
    as_json: Json = False,
) -> None:
    """Measure rows/s of a made-up CSV: inspected, read by a mapping, and loaded into an empty log."""
    from benchmarks.ingest import measure

    timings = measure(rows, now())
    cells = ((timing.step, f"{timing.seconds:.1f}", *timing.per_second) for timing in timings)
    columns = ("step", "seconds", "rows/s", "rows/s of CPU")
    show(timings, as_json, lambda: table_of(f"{timings[0].rows:,} rows", columns, cells, left=("step",)))


@bench_app.command()
def stream(
    starts: Annotated[int, typer.Option(help="Number of starts to replay.")] = 100_000,
    rates: Annotated[list[float], typer.Option("--rate", help="Live results per second. Repeatable.")] = [10.0, 80.0],  # noqa: B006 typer copies it
    seconds: Annotated[float, typer.Option(help="Seconds to hold each rate.")] = 30.0,
    handover: Annotated[
        Path | None,
        typer.Option(help="Measure only how soon a stream is live on a copy of this built home."),
    ] = None,
    year: Annotated[
        int | None, typer.Option(help="Measure only memory over a simulated year of live running with N races.")
    ] = None,
    same_horses: Annotated[
        bool, typer.Option("--same-horses", help="With --year: repeat the previous year, so that no new key appears.")
    ] = False,
    days: Annotated[int, typer.Option(min=1, help="With --year: number of days to run.")] = 365,
    runners: Results = None,
    timezone: Zone = "Europe/London",
    as_json: Json = False,
) -> None:
    """Measure `velo stream`: starts/s with no sink, with Parquet and with both; delay until a live result is readable in Redis."""
    from benchmarks import stream_long
    from benchmarks.whole import stream_options

    if handover is not None:
        timings = stream_long.handover(handover)
        show(timings, as_json, lambda: stream_long.handover_table(timings))
        return
    if year is not None:
        months = stream_long.year(year, days, same=same_horses)
        show(months, as_json, lambda: stream_long.year_table(months))
        return
    _show_part(stream_options(starts, rates, seconds, runners, timezone), as_json)


@bench_app.command()
def serve(
    starts: Annotated[int, typer.Option(help="Number of starts in the store.")] = 50_000,
    sizes: Annotated[list[int], typer.Option("--size", help="Runners in a race. Repeatable.")] = [  # noqa: B006 typer copies it
        8,
        20,
        40,
    ],
    requests: Annotated[int, typer.Option(min=1, help="Number of requests of each kind.")] = 1000,
    rate: Annotated[
        float, typer.Option(help="Starts per second that the stream writes during the second half.")
    ] = 1000.0,
    pages: Annotated[
        int | None, typer.Option(min=1, help="Instead, load the page of each race this often in Chromium.")
    ] = None,
    runners: Results = None,
    timezone: Zone = "Europe/London",
    as_json: Json = False,
) -> None:
    """Measure a scored race, in process and over HTTP, against Feast's own reads and a plain Redis read of the same bytes."""
    from benchmarks import drawn
    from benchmarks.serve import measure, table
    from benchmarks.serve import pages as page_loads
    from benchmarks.stores import machine

    if pages is not None:
        found = page_loads(starts, sizes, pages, runners, timezone)
        show(found, as_json, lambda: drawn.table(found, machine()))
        return

    figures = measure(starts, sizes, requests, rate, runners, timezone)
    show(figures, as_json, lambda: table(figures))


@bench_app.command()
def load(
    minutes: Annotated[float, typer.Option(min=0.05, help="Minutes to run.")] = 10.0,
    connections: Annotated[int, typer.Option(min=1, help="Connections that request scores.")] = 50,
    scores: Annotated[float, typer.Option(help="Scores per second over all connections.")] = 100.0,
    listeners: Annotated[int, typer.Option(min=0, help="Clients that listen to events.")] = 500,
    odds: Annotated[float, typer.Option(help="Odds posted per second.")] = 20.0,
    results: Annotated[float, typer.Option(help="Results per second through the stream.")] = 100.0,
    workers: Annotated[int, typer.Option(min=1, help="Service processes.")] = 2,
    starts: Annotated[int, typer.Option(help="Number of starts in the store.")] = 20_000,
    runners: Results = None,
    timezone: Zone = "Europe/London",
    as_json: Json = False,
) -> None:
    """Load the service while a stream and a feed run; exits 1 on a 500, a lost listener or growing memory."""
    from benchmarks.load import LoadOptions, measure, table

    figures = measure(
        LoadOptions(minutes, connections, scores, listeners, odds, results, workers), starts, runners, timezone
    )
    _finish(figures, as_json, table)


@bench_app.command()
def poll(
    minutes: Annotated[float, typer.Option(min=0.4, help="Minutes that the race day takes.")] = 10.0,
    races: Annotated[int, typer.Option(min=1, help="Races of the day, each polled until after its result.")] = 40,
    rate: Annotated[
        float, typer.Option(min=0, help="Starts per second of other races that are appended meanwhile.")
    ] = 1000.0,
    seed: Annotated[int, typer.Option(help="Random seed; equal seeds give equal seasons.")] = 1,
    as_json: Json = False,
) -> None:
    """Poll each race of a simulated day every 20 ms past its result; exits 1 if any score used the result or cannot be reproduced."""
    from benchmarks.poll import measure, table

    with steps(as_json) as progress:
        figures = measure(minutes, races, rate, seed, progress)
    _finish(figures, as_json, table)


@bench_app.command()
def faults(
    only: Annotated[list[str], typer.Option(help="Run only this fault, or `kills`. Repeatable.")] = [],  # noqa: B006 typer copies it
    kills: Annotated[int, typer.Option(help="Number of SIGKILLs sent to the stream.")] = 30,
    starts: Annotated[int, typer.Option(help="Number of starts in each killed replay.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Random seed of the kill times.")] = 1,
    into: Annotated[
        Path | None, typer.Option(help="Also write the table into this Markdown file, between its markers.")
    ] = None,
    runners: Results = None,
    timezone: Zone = "Europe/London",
    as_json: Json = False,
) -> None:
    """Kill and pause the stream, fill the disk, cut Redis, damage every kind of file; audit both stores; exits 1 on any loss."""
    from benchmarks.faults import measure, table, write_into

    with steps(as_json) as progress:
        figures = measure(only, kills, starts, seed, runners, timezone, progress)
    if into is not None:
        write_into(into, figures)
    _finish(figures, as_json, table)


@bench_app.command()
def change(
    starts: Annotated[int, typer.Option(help="Number of starts in the store.")] = 20_000,
    rate: Annotated[float, typer.Option(min=0, help="Results appended per second.")] = 100.0,
    kills: Annotated[
        int, typer.Option(min=0, help="Number of SIGKILLs sent to `velo apply` and `velo rollback`.")
    ] = 10,
    seed: Annotated[int, typer.Option(help="Random seed of the kill times.")] = 1,
    runners: Results = None,
    timezone: Zone = "Europe/London",
    as_json: Json = False,
) -> None:
    """Plan, apply and roll back three changes of formulas beside a stream and a reader; exits 1 on a wrong count or read."""
    from benchmarks.change import measure, table

    with steps(as_json) as progress:
        figures = measure(starts, rate, kills, seed, runners, timezone, progress)
    _finish(figures, as_json, table)


@bench_app.command()
def sizing(
    homes: Annotated[
        list[Path], typer.Argument(metavar="HOME…", help="Built stores of different sizes; they are only read.")
    ],
    into: Annotated[
        Path | None, typer.Option(help="Also write the tables into this Markdown file, between its markers.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure what one start costs in each store, and extrapolate to all racing."""
    from benchmarks.sizing import measure, table, write_into

    figures = measure(homes)
    show(figures, as_json, lambda: table(figures))
    if into is not None:
        write_into(into, figures)


@bench_app.command()
def gate(
    worlds: Annotated[
        int, typer.Option(min=1, help="Number of synthetic markets with a known edge, and the same number without.")
    ] = 100,
    a_day: Annotated[int, typer.Option("--races-a-day", min=1, help="Races per day; each market has 120 days.")] = 130,
    seed: Annotated[int, typer.Option(help="Random seed of the first market; each later market adds 1.")] = 1,
    as_json: Json = False,
) -> None:
    """Run the gate on synthetic markets with a known edge and with none; exits 1 if its pass rates differ from those it predicts."""
    from benchmarks.gate import measure, table

    with steps(as_json) as progress:
        figures = measure(worlds, seed, a_day, progress)
    _finish(figures, as_json, table)


@bench_app.command("monitor")
def monitoring(
    worlds: Annotated[int, typer.Option(min=1, help="Number of simulated stores, each of two seasons.")] = 2,
    races: Annotated[int, typer.Option("--races-a-year", min=500, help="Races per year of each.")] = 5000,
    days: Annotated[
        int, typer.Option(min=480, help="Days of each store; the last 365 are served, those before are trained on.")
    ] = 730,
    seed: Annotated[int, typer.Option(help="Random seed of the first store; each later store adds 1.")] = 1,
    as_json: Json = False,
) -> None:
    """Count the false alarms of `velo monitor` over simulated seasons, and the race days until planted drifts are reported.

    Exits 1 for more than one false alarm a season.
    """
    from benchmarks.monitor import measure, table

    with steps(as_json) as progress:
        figures = measure(worlds, seed, races, days, progress)
    _finish(figures, as_json, table)


@bench_app.command()
def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A runner table.")],
    timezone: Zone = "Europe/London",
    probes: Annotated[
        Path | None, typer.Option(help="Independently computed values to compare the tables with.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Replay a runner table through the stream, then audit both stores value by value; exits 1 on any difference."""
    from benchmarks.replay import measure, table

    figures = measure(file, timezone, probes)
    _finish(figures, as_json, table)
