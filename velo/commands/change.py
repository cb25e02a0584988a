"""`velo plan`, `apply`, `rollback` and `environments`: see what a changed catalogue would do, publish it or try it, take it back."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from velo.commands.edge import As, Json, enter, facts, now, open_store, plain, show, steps, with_environment
from velo.errors import UserError
from velo.text_tables import markdown_table, table_of

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from velo.api.changes import ApplyReport, ChangePlan, Cost
    from velo.api.environments import Environment
    from velo.storage.store import Store
    from velo.streams.change_plan import ChangedValue, ViewChange


@with_environment
def plan(
    every: Annotated[
        bool, typer.Option("--all", help="Compute every key of the changed views, so that the counts are exact.")
    ] = False,
    keys: Annotated[int, typer.Option(min=1, help="Keys of each changed view to compute without --all.")] = 200,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 if anything would change.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")] = False,
    as_json: Json = False,
) -> None:
    """Show which views, features and values the catalogue as it is now would change; changes nothing."""
    from velo.api import changes

    with steps(as_json or markdown) as progress:
        found = changes.plan(open_store(), now(), keys=None if every else keys, progress=progress)
    if markdown and not as_json:
        typer.echo("\n".join(_markdown(found)))
    else:
        show(found, as_json, lambda: _planned(found))
    if check and found.tables.changes:
        raise typer.Exit(1)


def apply(
    environment: As = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE", help="With --as, to make an environment: the velo.toml of its own features."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Build the views whose formulas changed and publish them in one step, beside a running stream.

    The tables before are kept until the next apply, for `velo rollback`. With --as, the tables of an environment change and not
    those that are served; the environment is made where it does not exist.
    """
    from velo.api import changes

    if environment is not None:
        _enter_or_create(environment, config)
    elif config is not None:
        raise UserError("--config is of an environment: name it with --as")
    store = open_store()
    with steps(as_json) as progress:
        report = changes.apply(store, now(), lambda: _redis(store), progress=progress)
    model = changes.serving_model(store.home)
    show(plain(report) | {"model": model}, as_json, lambda: _applied(report, model))


@with_environment
def rollback(as_json: Json = False) -> None:
    """Make the tables of the formulas before current again; take your edit of the catalogue back first."""
    from velo.api import changes

    store = open_store()
    with steps(as_json) as progress:
        report = changes.rollback(store, now(), lambda: _redis(store), progress=progress)
    model = changes.serving_model(store.home)
    rows = [
        ("views", ", ".join(report.views)),
        ("switched in", f"{report.seconds * 1000:.0f} ms"),
        ("epoch", report.epoch),
        ("tables", f"up to {report.known_at:%Y-%m-%d %H:%M:%S} UTC"),
        ("messages behind", report.messages_behind),
        ("model", model),
    ]
    show(plain(report) | {"model": model}, as_json, lambda: facts("rolled back", rows))


def _enter_or_create(name: str, config: Path | None) -> None:
    from velo.api.environments import create
    from velo.settings import Settings
    from velo.storage.store import Store

    store = Store.open(Settings.from_env())
    if config is not None or not store.home.environment(name).identity.exists():
        create(store, name, config)
    enter(name)


def _redis(store: "Store") -> Any:
    from velo.feature_repo.stores.redis_client import connect

    return connect(store.home, store.redis_url)


def _planned(found: "ChangePlan") -> "Group":
    from rich.console import Group

    titles = (_title(found), "features", "examples")
    parts = (table_of(title, *part) for title, part in zip(titles, _parts(found), strict=True))
    shown: list[Any] = [part for part in parts if part.row_count]
    return Group(*(shown or [_title(found)]), facts("also", list(also_of(found))))


def _touched(found: "ChangePlan") -> "list[ViewChange]":
    return [view for view in found.tables.views if view.change != "untouched"]


def _parts(found: "ChangePlan") -> tuple[tuple[tuple[str, ...], list[tuple[str, ...]]], ...]:
    """The columns and rows of the tables of views, of features, and of examples."""
    return (
        (VIEW_COLUMNS, [_view_row(view) for view in _touched(found)]),
        (FEATURE_COLUMNS, list(_feature_rows(found.tables.views))),
        (EXAMPLE_COLUMNS, [_example_row(example) for example in found.tables.examples]),
    )


def _markdown(found: "ChangePlan") -> Iterator[str]:
    yield f"**{_title(found)}**"
    for columns, rows in _parts(found):
        if rows:
            yield ""
            yield from markdown_table(columns, rows)
    yield ""
    yield from (f"- {name}: {value}" for name, value in also_of(found))


VIEW_COLUMNS = ("view", "change", "keys computed", "rows now", "rows then", "seconds", "MB")
FEATURE_COLUMNS = ("view", "feature", "change", "values compared", "values that differ")
EXAMPLE_COLUMNS = ("view", "feature", "key", "at", "now", "then", "races behind it")


def _title(found: "ChangePlan") -> str:
    tables = found.tables
    if not tables.changes:
        return f"no change: the tables have the catalogue's formulas (up to message {tables.next_seq:,})"
    how = "all keys" if tables.whole else "some keys: `--all` counts exactly"
    return f"what `velo apply` would change, up to message {tables.next_seq:,} ({how})"


def _view_row(view: "ViewChange") -> tuple[str, ...]:
    if not view.of_keys:
        then = "0" if view.change == "dropped" else f"{view.rows_then:,}"
        return view.view, view.change, "", f"{view.rows_now:,}", then, "", ""
    rows = f"{view.rows_now:,}", f"{view.rows_then:,}"
    return (
        view.view, view.change, f"{view.keys:,} of {view.of_keys:,}", *rows, f"{view.seconds:.1f}", f"{view.bytes / 1e6:.1f}",
    )  # fmt: skip


def _feature_rows(views: "tuple[ViewChange, ...]") -> Iterator[tuple[str, ...]]:
    for view in views:
        for feature in view.features:
            if feature.change != "untouched":
                yield view.view, feature.feature, feature.change, f"{feature.values:,}", f"{feature.differ:,}"


def _example_row(change: "ChangedValue") -> tuple[str, ...]:
    values = tuple("null" if value is None else f"{value:.6g}" for value in (change.before, change.after))
    races = ", ".join(change.races[:RACES_SHOWN]) + (
        f" and {len(change.races) - RACES_SHOWN} more" if change.races[RACES_SHOWN:] else ""
    )
    return change.view, change.feature, " · ".join(change.key), f"{change.at:%Y-%m-%d %H:%M:%S}", *values, races


RACES_SHOWN = 5


def also_of(found: "ChangePlan") -> Iterator[tuple[str, str]]:
    """The lines below the tables of a plan: a name and a value each."""
    yield "views untouched", str(len(found.tables.views) - len(_touched(found)))
    lost = [model for model in found.models if model.fits_now and not model.fits_then]
    stop = "; ".join(f"{model.version}{' (it serves)' if model.serves else ''} {model.reason}" for model in lost)
    yield "models that stop fitting", stop or "none"
    fit = [model.version for model in found.models if model.fits_then and not model.fits_now]
    if fit:
        yield "models that fit again", ", ".join(fit)
    if found.races_to_come is not None:
        serving = next((model for model in found.models if model.serves), None)
        fate = "not scored: no model serves"
        if serving is not None:
            fate = "scored as before" if serving.fits_then else "not scored (503) until a model that fits serves"
        yield "races to come", f"{found.races_to_come:,}, {fate}"
    yield "dashboards", "; ".join(found.dashboards) or "none"
    yield "Feast objects", ", ".join(found.tables.feast) or "none"


def _applied(report: "ApplyReport", model: str) -> Any:
    if report.build is None or report.took is None:
        return "nothing to apply: the tables have the catalogue's formulas"
    rows = [
        ("views computed", ", ".join(report.build.computed) or "none"),
        ("epoch", report.build.epoch),
        ("took", _cost(report.took)),
    ]
    if report.expected is not None:
        later = report.took.next_seq - report.expected.next_seq
        rows.append(("the plan expected", f"{_cost(report.expected)}{f', {later:,} messages before' if later else ''}"))
    return facts("applied", [*rows, ("online store", report.online), ("model", model)])


def _cost(cost: "Cost") -> str:
    return f"{cost.rows:,} rows, {cost.seconds:.1f} s, {cost.bytes / 1e6:.1f} MB"


environments_app = typer.Typer(
    name="environments",
    invoke_without_command=True,
    help="List or remove environments: other formulas tried on the same log, beside the served tables.\n\n"
    "`velo apply --as NAME` makes one. It shares the log, which it only reads, and the files of each table that is equal. "
    "It has its own tables, models, backtests, training sets and reports. It has no Redis, no stream and no bets: nothing of "
    "it is served.",
)


@environments_app.callback()
def environments(context: typer.Context, as_json: Json = False) -> None:
    """List or remove environments; lists without a command."""
    if context.invoked_subcommand is None:
        listed(as_json=as_json)


@environments_app.command("list")
def listed(as_json: Json = False) -> None:
    """List the environments: the views whose formulas differ from the served ones, models, and what they take on disk."""
    from velo.api.environments import environments as found

    every = found(open_store().home)
    show(every, as_json, lambda: _table(every))


@environments_app.command()
def drop(name: Annotated[str, typer.Argument(help="An environment.")], as_json: Json = False) -> None:
    """Remove an environment with its tables, models and backtests; the store and its log stay."""
    from velo.api.environments import drop as remove

    freed = remove(open_store().home, name)
    show({"dropped": name, "freed_bytes": freed}, as_json, lambda: f"dropped {name}: {freed / 1e6:,.1f} MB freed")


def _table(every: "tuple[Environment, ...]") -> "Table | str":
    if not every:
        return "no environments: `velo apply --as NAME` makes one"
    columns = ("name", "epoch", "messages behind", "views that differ", "models", "own MB", "shared MB")
    rows = (
        (each.name, each.epoch, each.messages_behind, ", ".join(each.differ) or "none", each.models,
         f"{each.own_bytes / 1e6:,.1f}", f"{each.shared_bytes / 1e6:,.1f}")
        for each in every
    )  # fmt: skip
    return table_of("environments", columns, rows, left=("name", "views that differ"))
