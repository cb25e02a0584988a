"""`velo`: the command line. A user's mistake is reported in one line, without a traceback, and exits 2."""

import os
import shlex
import sys
from typing import Annotated, Final, NoReturn

import typer
from typer._click import exceptions as click  # the click that typer carries has no public name

from velo.commands import (
    backtest,
    bench,
    build,
    change,
    environments,
    explain,
    features,
    feed,
    ingest,
    inspect,
    log,
    model,
    models,
    monitor,
    names,
    online,
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
for part in (
    build,
    change,
    environments,
    features,
    inspect,
    ingest,
    feed,
    names,
    log,
    model,
    backtest,
    models,
    monitor,
    paper,
    explain,
    simulate,
    stream,
    online,
    serve,
    up,
    bench,
):
    part.register(app)
GROUPS: Final = {
    "Start": ("init", "demo", "simulate", "status"),
    "Load": ("inspect", "ingest", "cards", "feed", "dead-letters", "names", "tick", "log"),
    "Features": ("build", "plan", "apply", "rollback", "environments", "features", "catalogue", "sql", "explain"),
    "Models": ("train", "sentinel", "backtest", "gate", "models", "paper"),
    "Race day": ("up", "stream", "serve", "score", "online", "down"),
    "Check": ("doctor", "audit", "monitor", "backup", "bench"),
}
"""The commands as `velo --help` groups and orders them; each is in one group."""


def _grouped() -> None:
    panels = {name: panel for panel, names in GROUPS.items() for name in names}
    order = list(panels)
    for command in app.registered_commands:
        assert command.callback is not None
        command.name = command.name or command.callback.__name__
        command.rich_help_panel = panels[command.name]
    for group in app.registered_groups:
        group.rich_help_panel = panels[str(group.name)]
    app.registered_commands.sort(key=lambda entry: order.index(str(entry.name)))
    app.registered_groups.sort(key=lambda entry: order.index(str(entry.name)))


_grouped()


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
