"""`velo bench …`: what it costs on this machine, by commands that anyone can run."""

from pathlib import Path
from typing import Annotated

import typer

from velo.commands.edge import Json, now, show, steps

bench_app = typer.Typer(help="Measure what it costs on this machine: everything in one go, or one thing closely.")
Results = Annotated[
    Path | None, typer.Option("--runners", help="A runner table to tile; a simulated season without it.")
]
Zone = Annotated[str, typer.Option("--timezone", help="The runner table's time zone.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(bench_app, name="bench")


@bench_app.callback(invoke_without_command=True)
def together(
    context: typer.Context,
    only: Annotated[
        list[str] | None,
        typer.Option(help="One part: build, join, stream, freshness, online, race, redis; give it again for another."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Sizes so small that they show only that all of it runs.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="The document to write, charts beside it; docs/benchmarks.md after a whole run."),
    ] = None,
    runners: Results = None,
    timezone: Zone = "Europe/London",
    as_json: Json = False,
) -> None:
    """Everything in one go, contenders in turn; writes docs/benchmarks.md. Half an hour on two cores."""
    if context.invoked_subcommand is not None:
        return
    from rich.console import Group

    from benchmarks.page import tables, where_to, write
    from benchmarks.whole import BenchOptions, measure

    asked = BenchOptions(quick, tuple(only or ()), runners, timezone)
    # a part alone, or one at sizes that tell nothing, is no page to put over a whole run's
    path = None if out is None and (only or quick) else where_to(out)
    with steps(as_json) as progress:
        for report in measure(asked, now(), progress):
            # a run that is broken off leaves what it found where it was told to, and the checkout's page as it was
            if out is not None and path is not None:
                write(report, path)
    if path is not None:
        write(report, path)
    show(report, as_json, lambda: Group(*tables(report)))


@bench_app.command()
def build(
    starts: Annotated[list[int], typer.Option(help="How many starts; give it again for another size.")] = [  # noqa: B006 typer copies it
        100_000,
        1_000_000,
    ],
    runners: Results = None,
    timezone: Zone = "Europe/London",
    as_json: Json = False,
) -> None:
    """`velo build` of everything: starts/s and peak memory, each size in a process of its own."""
    from benchmarks.build import measure, table

    figures = measure(starts, runners, timezone)
    show(figures, as_json, lambda: table(figures))


@bench_app.command("point-in-time")
def point_in_time(
    rows: Annotated[list[int], typer.Option(help="How many entity rows; give it again for another size.")] = [  # noqa: B006 typer copies it
        3_000,
        100_000,
    ],
    stock_rows: Annotated[
        int, typer.Option(help="The most that Feast's own DuckDB store gets: it is slow, and takes gigabytes.")
    ] = 3_000,
    runners: Results = None,
    timezone: Zone = "Europe/London",
    as_json: Json = False,
) -> None:
    """The point-in-time join over all views: ours, DuckDB by hand, polars, and Feast's own store on a size it survives."""
    from benchmarks.point_in_time import measure, table

    figures = measure(rows, stock_rows, runners, timezone)
    show(figures, as_json, lambda: table(figures))


@bench_app.command()
def stream(
    starts: Annotated[int, typer.Option(help="How many starts to replay.")] = 100_000,
    rates: Annotated[
        list[float], typer.Option("--rate", help="Live results a second; give it again for another rate.")
    ] = [10.0, 80.0],  # noqa: B006 typer copies it
    seconds: Annotated[float, typer.Option(help="How long each rate is held.")] = 30.0,
    processes: Annotated[list[int], typer.Option(help="Processes; give it again for another number.")] = [1, 2],  # noqa: B006 typer copies it
    handover: Annotated[
        Path | None,
        typer.Option(help="Measure only how soon a stream is live on a copy of this home, which was built."),
    ] = None,
    year: Annotated[
        int | None, typer.Option(help="Measure only the memory over a simulated year of live running of so many races.")
    ] = None,
    same_horses: Annotated[
        bool, typer.Option("--same-horses", help="With --year: the year before over again, without one new key.")
    ] = False,
    days: Annotated[int, typer.Option(min=1, help="With --year: how many days of it.")] = 365,
    runners: Results = None,
    timezone: Zone = "Europe/London",
    as_json: Json = False,
) -> None:
    """`velo stream`: starts/s into no sink, Parquet and both; and how soon a live result is readable in Redis."""
    from rich.console import Group

    from benchmarks import stream_long
    from benchmarks.stream import measure, table

    if handover is not None:
        taken = stream_long.handover(handover)
        show(taken, as_json, lambda: stream_long.handover_table(taken))
        return
    if year is not None:
        months = stream_long.year(year, days, same=same_horses)
        show(months, as_json, lambda: stream_long.year_table(months))
        return

    figures = measure(starts, rates, seconds, processes, runners, timezone)
    show(figures, as_json, lambda: Group(*table(figures)))


@bench_app.command()
def serve(
    starts: Annotated[int, typer.Option(help="How many starts the store knows.")] = 50_000,
    sizes: Annotated[list[int], typer.Option("--size", help="Runners of a race; give it again for another.")] = [  # noqa: B006 typer copies it
        8,
        20,
        40,
    ],
    requests: Annotated[int, typer.Option(min=1, help="Requests of each kind.")] = 1000,
    rate: Annotated[float, typer.Option(help="Starts a second that the stream writes in the second half.")] = 1000.0,
    runners: Results = None,
    timezone: Zone = "Europe/London",
    as_json: Json = False,
) -> None:
    """A scored race, in process and over HTTP, beside Feast's own reads and a bare read of as many bytes."""
    from benchmarks.serve import measure, table

    figures = measure(starts, sizes, requests, rate, runners, timezone)
    show(figures, as_json, lambda: table(figures))


@bench_app.command()
def load(
    minutes: Annotated[float, typer.Option(min=0.05, help="How long.")] = 10.0,
    connections: Annotated[int, typer.Option(min=1, help="Connections that ask for scores.")] = 50,
    scores: Annotated[float, typer.Option(help="Scores a second that they ask for together.")] = 100.0,
    listeners: Annotated[int, typer.Option(min=0, help="Who listens to events.")] = 500,
    odds: Annotated[float, typer.Option(help="Odds a second that are posted.")] = 20.0,
    results: Annotated[float, typer.Option(help="Results a second that the stream takes.")] = 100.0,
    workers: Annotated[int, typer.Option(min=1, help="Processes of the service.")] = 2,
    starts: Annotated[int, typer.Option(help="How many starts the store knows.")] = 20_000,
    runners: Results = None,
    timezone: Zone = "Europe/London",
    as_json: Json = False,
) -> None:
    """The service under load beside a stream and a feed; exits 1 on a 500, a lost listener, or memory that grows."""
    from benchmarks.load import LoadOptions, measure, table

    figures = measure(
        LoadOptions(minutes, connections, scores, listeners, odds, results, workers), starts, runners, timezone
    )
    show(figures, as_json, lambda: table(figures))
    if figures.broken:
        raise typer.Exit(1)


@bench_app.command()
def poll(
    minutes: Annotated[float, typer.Option(min=0.4, help="How long the race day takes.")] = 10.0,
    races: Annotated[int, typer.Option(min=1, help="Races of the day, each asked for through its result.")] = 40,
    rate: Annotated[
        float, typer.Option(min=0, help="Starts a second of other races that the log is told beside.")
    ] = 1000.0,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal seasons.")] = 1,
    as_json: Json = False,
) -> None:
    """Ask for each race of a made-up day every 20 ms through its result; exits 1 where any answer knew it, or differs."""
    from benchmarks.poll import measure, table

    with steps(as_json) as progress:
        figures = measure(minutes, races, rate, seed, progress)
    show(figures, as_json, lambda: table(figures))
    if figures.broken:
        raise typer.Exit(1)


@bench_app.command()
def faults(
    only: Annotated[
        list[str], typer.Option(help="This fault alone, by its name, or `kills`; give it again for another.")
    ] = [],  # noqa: B006 typer copies it
    kills: Annotated[int, typer.Option(help="How many SIGKILLs the stream gets.")] = 30,
    starts: Annotated[int, typer.Option(help="Starts in each replay that is killed.")] = 10_000,
    processes: Annotated[int, typer.Option(min=1, help="Processes of the stream.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of when they fall.")] = 1,
    into: Annotated[Path | None, typer.Option(help="Also write the table into this page, between its marks.")] = None,
    runners: Results = None,
    timezone: Zone = "Europe/London",
    as_json: Json = False,
) -> None:
    """Kill, pause, fill the disk, cut Redis, damage every kind of file; then audit both stores; exits 1 on any loss."""
    from benchmarks.faults import measure, table, write_into

    with steps(as_json) as progress:
        figures = measure(only, kills, starts, processes, seed, runners, timezone, progress)
    show(figures, as_json, lambda: table(figures))
    if into is not None:
        write_into(into, figures)
    if figures.broken:
        raise typer.Exit(1)


@bench_app.command()
def sizing(
    homes: Annotated[
        list[Path], typer.Argument(metavar="HOME…", help="Stores that were built, of different sizes; only read.")
    ],
    into: Annotated[Path | None, typer.Option(help="Also write the tables into this page, between its marks.")] = None,
    as_json: Json = False,
) -> None:
    """What a start costs in every store, and what that makes of all racing."""
    from rich.console import Group

    from benchmarks.sizing import measure, table, write_into

    figures = measure(homes)
    show(figures, as_json, lambda: Group(*table(figures)))
    if into is not None:
        write_into(into, figures)


@bench_app.command()
def gate(
    worlds: Annotated[int, typer.Option(min=1, help="How many worlds with a known edge, and as many without.")] = 100,
    a_day: Annotated[int, typer.Option("--races-a-day", min=1, help="Races a day; each world has 120 days.")] = 130,
    seed: Annotated[int, typer.Option(help="Seed of the first world; each later one has the next.")] = 1,
    as_json: Json = False,
) -> None:
    """The gate on made-up worlds with a known edge and with none; exits 1 where it passes them otherwise than it foretells."""
    from rich.console import Group

    from benchmarks.gate import measure, tables

    with steps(as_json) as progress:
        figures = measure(worlds, seed, a_day, progress)
    show(figures, as_json, lambda: Group(*tables(figures)))
    if not all(one.agrees for one in figures.rates.windows):
        raise typer.Exit(1)


@bench_app.command()
def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A runner table.")],
    timezone: Zone = "Europe/London",
    processes: Annotated[int, typer.Option(min=1, help="Processes of the stream.")] = 1,
    probes: Annotated[
        Path | None, typer.Option(help="Values worked out elsewhere, to hold the tables against.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Replay a runner table through the stream, then audit both stores, value by value; exits 1 on any difference."""
    from benchmarks.replay import measure, table

    figures = measure(file, timezone, processes, probes)
    show(figures, as_json, lambda: table(figures))
    if figures.differences or figures.probes_wrong:
        raise typer.Exit(1)
