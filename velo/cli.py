"""`velo`: the command line. A user's mistake is told in one line and exits 2; there is no traceback for it."""

import sys
from typing import NoReturn

import typer
from typer._click import exceptions as click  # typer carries its own click and does not export these

from velo.commands import bench, build, ingest, log, model, simulate, stream
from velo.errors import UserError

app = typer.Typer(
    name="velo",
    help="VÉLØ: a streaming feature store for horse racing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for part in (build, ingest, log, model, simulate, stream, bench):
    part.register(app)


def main() -> NoReturn:
    """Run the command line of this process and exit."""
    try:
        code = app(standalone_mode=False)
    except UserError as mistake:
        _say(str(mistake))
        sys.exit(2)
    except click.NoArgsIsHelpError as helped:
        typer.echo(helped.format_message())
        sys.exit(2)
    except click.UsageError as mistake:
        asked = mistake.ctx.command_path if mistake.ctx is not None else "velo"
        _say(f"{mistake.format_message()} See `{asked} --help`.")
        sys.exit(2)
    except click.ClickException as mistake:
        _say(mistake.format_message())
        sys.exit(2)
    except (typer.Abort, KeyboardInterrupt):
        _say("stopped; what was acknowledged is kept, run the command again to go on")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except OSError as refused:
        _say(f"{refused.filename or 'the system'}: {refused.strerror or refused}")
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _say(line: str) -> None:
    typer.echo("velo: " + " ".join(line.split()), err=True)


if __name__ == "__main__":
    main()
