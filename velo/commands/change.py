"""`velo plan`, `apply` and `rollback`: see what a changed catalogue would do, publish it, take it back."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from velo.commands.edge import As, Json, enter, facts, now, open_store, plain, show, steps, with_environment
from velo.errors import UserError

if TYPE_CHECKING:
    from rich.console import Group

    from velo.api.changes import ApplyReport, ChangePlan, Cost
    from velo.storage.store import Store
    from velo.streams.change_plan import ChangedValue, ViewChange


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in (with_environment(plan), apply, with_environment(rollback)):
        app.command()(command)


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
    from rich.table import Table

    tables = found.tables
    views = Table(title=_title(found), title_justify="left")
    for name in VIEW_COLUMNS:
        views.add_column(name)
    features = Table(title="features", title_justify="left")
    for name in FEATURE_COLUMNS:
        features.add_column(name)
    examples = Table(title="examples", title_justify="left")
    for name in EXAMPLE_COLUMNS:
        examples.add_column(name)
    for view in _touched(found):
        views.add_row(*_view_row(view))
    for row in _feature_rows(tables.views):
        features.add_row(*row)
    for example in tables.examples:
        examples.add_row(*_example_row(example))
    shown: list[Any] = [part for part in (views, features, examples) if part.row_count]
    return Group(*(shown or [_title(found)]), facts("also", list(_also(found))))


def _touched(found: "ChangePlan") -> "list[ViewChange]":
    return [view for view in found.tables.views if view.change != "untouched"]


def _markdown(found: "ChangePlan") -> Iterator[str]:
    yield f"**{_title(found)}**"
    for columns, rows in (
        (VIEW_COLUMNS, [_view_row(view) for view in _touched(found)]),
        (FEATURE_COLUMNS, list(_feature_rows(found.tables.views))),
        (EXAMPLE_COLUMNS, [_example_row(example) for example in found.tables.examples]),
    ):
        if rows:
            yield ""
            yield f"| {' | '.join(columns)} |"
            yield f"|{' --- |' * len(columns)}"
            yield from (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
    yield ""
    yield from (f"- {name}: {value}" for name, value in _also(found))


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


def _also(found: "ChangePlan") -> Iterator[tuple[str, str]]:
    yield "views untouched", str(len(found.tables.views) - len(_touched(found)))
    lost = [model for model in found.models if model.fits_now and not model.fits_then]
    stop = "; ".join(f"{model.version}{' (it serves)' if model.serves else ''} {model.reason}" for model in lost)
    yield "models that stop fitting", stop or "none"
    fit = [model.version for model in found.models if model.fits_then and not model.fits_now]
    if fit:
        yield "models that fit again", ", ".join(fit)
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
        rows.append(("the plan expected", _cost(report.expected)))
    return facts("applied", [*rows, ("online store", report.online), ("model", model)])


def _cost(cost: "Cost") -> str:
    return f"{cost.rows:,} rows, {cost.seconds:.1f} s, {cost.bytes / 1e6:.1f} MB"
