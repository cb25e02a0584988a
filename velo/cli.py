"""`velo`: the command line. A user's mistake is reported in one line, without a traceback, and exits 2."""

import os
import shlex
import sys
from collections.abc import Callable
from typing import Annotated, Final, NoReturn

import typer
from typer._click import exceptions as click  # the click that typer carries has no public name

from velo.commands import (
    bench,
    build,
    change,
    features,
    feed,
    ingest,
    log,
    model,
    models,
    monitor,
    paper,
    serve,
    simulate,
    stream,
    up,
)
from velo.errors import UserError

app = typer.Typer(
    name="velo",
    help="VÉLØ: a streaming feature store for horse racing.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
PANELS: Final[dict[str, tuple[Callable[..., None] | typer.Typer, ...]]] = {
    "Start": (build.init, simulate.demo, simulate.simulate, build.status),
    "Load": (
        ingest.inspect, ingest.ingest_app, ingest.cards_app, feed.app_of_feed, ingest.letters_app, log.names_app, log.tick,
        log.log_app,
    ),
    "Features": (
        build.build, change.plan, change.apply, change.rollback, change.environments_app, features.app, features.catalogue,
        build.sql, features.explain,
    ),
    "Models": (model.train, model.sentinel, models.backtest, models.gate, models.models_app, paper.paper),
    "Race day": (up.up, stream.stream, serve.serve, model.score, stream.online_app, build.down),
    "Check": (build.doctor, stream.audit, monitor.monitor, up.backup, bench.bench_app),
}  # fmt: skip
"""The commands as `velo --help` groups and orders them."""
for panel, commands in PANELS.items():
    for command in commands:
        if isinstance(command, typer.Typer):
            app.add_typer(command, rich_help_panel=panel)
        else:
            app.command(rich_help_panel=panel)(command)


def _print_version(*, asked: bool) -> None:
    if asked:
        from velo.settings import program_version

        typer.echo(f"velo {program_version()}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            callback=lambda asked: _print_version(asked=asked),
            is_eager=True,
        ),
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Run the command line of this process and exit."""
    try:
        code = app(standalone_mode=False, prog_name="velo")
        sys.stdout.flush()
    except UserError as mistake:
        _say(str(mistake))
        sys.exit(2)
    except click.NoArgsIsHelpError as helped:
        typer.echo(helped.format_message())
        sys.exit(2)
    except click.UsageError as mistake:
        asked = mistake.ctx.command_path if mistake.ctx is not None else "velo"
        given = shlex.join(["velo", *sys.argv[1:]])
        _say(f"{mistake.format_message().rstrip('.')} (in `{given}`): see `{asked} --help`")
        sys.exit(2)
    except click.ClickException as mistake:
        _say(mistake.format_message())
        sys.exit(2)
    except (typer.Abort, KeyboardInterrupt):
        _say("stopped; what was acknowledged is kept, run the command again to go on")
        sys.exit(130)
    except BrokenPipeError:
        # the reader of our output is gone, so the rest of the buffer cannot be written either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except BaseException as broke:
        line = _line_of(broke)
        if line is None:
            raise
        _say(line)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _line_of(broke: BaseException) -> str | None:
    from velo.api.opened import line_of
    from velo.settings import Settings
    from velo.storage.store import Home

    return line_of(broke, Home(Settings.from_env().home))


def _say(line: str) -> None:
    typer.echo("velo: " + " ".join(line.split()), err=True)


if __name__ == "__main__":
    main()
