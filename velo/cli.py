"""`velo`: the command line. A user's mistake is told in one line and exits 2; there is no traceback for it."""

import errno
import os
import shlex
import sys
from typing import Final, NoReturn

import typer
from typer._click import exceptions as click  # the click that typer carries has no public name

from velo.commands import (
    backtest,
    bench,
    build,
    explain,
    feed,
    ingest,
    log,
    model,
    models,
    online,
    paper,
    serve,
    simulate,
    stream,
)
from velo.errors import UserError

app = typer.Typer(
    name="velo",
    help="VÉLØ: a streaming feature store for horse racing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
for part in (build, ingest, feed, log, model, backtest, models, paper, explain, simulate, stream, online, serve, bench):
    part.register(app)


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
        # whoever read our output has gone; what is still in the buffer has nowhere to go either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as refused:
        _say(_damage() or _refusal(refused) if refused.errno is None else _refusal(refused))
        sys.exit(2)
    except BaseException as broke:
        # an engine's panic is no Exception
        damage = _damage() if isinstance(broke, Exception) or type(broke).__name__ == "PanicException" else None
        if damage is None:
            raise
        _say(damage)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _damage() -> str | None:
    """What in the store is damaged, and the remedy, where that is why a command broke."""
    from velo.settings import Settings
    from velo.storage.store import Home
    from velo.streams.integrity_check import found

    return found(Home(Settings.from_env().home))


def _refusal(refused: OSError) -> str:
    """What the system would not do, and what to do about it."""
    remedy = "make room on the disk" if refused.errno in NO_ROOM else "set VELO_HOME to a place you may write to"
    return f"{refused.filename or 'the disk'}: {refused.strerror or refused}; {remedy}, then repeat the command"


def _say(line: str) -> None:
    typer.echo("velo: " + " ".join(line.split()), err=True)


if __name__ == "__main__":
    main()
