"""What a run of the benchmarks found, as the terminal shows it and as docs/benchmarks.md tells it: the same words in both."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from velo.errors import UserError
from velo.feature_repo.feast_store import REPO
from velo.storage.atomic_files import make_folder, write_atomically


@dataclass(frozen=True, slots=True)
class Aim:
    """What was aimed at, what was found, and whether that will do; None where the run was too small to tell."""

    what: str
    found: str
    met: bool | None


@dataclass(frozen=True, slots=True)
class BenchPart:
    """One table: how to read it, the command that makes it again, on what, its columns and rows as text.

    `charts` are SVG texts by the name of their file; `notes` are lines below; it took so many `seconds`.
    """

    name: str
    title: str
    about: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    versions: str = ""
    command: str = ""
    notes: tuple[str, ...] = ()
    aims: tuple[Aim, ...] = ()
    charts: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class BenchReport:
    """A whole run: on which machine, by which command, when (UTC day), in how many seconds, and its parts."""

    machine: str
    command: str
    day: str
    seconds: float
    parts: tuple[BenchPart, ...]


def where_to(out: Path | None) -> Path:
    """The document to write: as told, or the checkout's own; raises `UserError` where there is no checkout."""
    if out is not None:
        if out.suffix != ".md":
            raise UserError(f"--out is {str(out)!r}, but what is written is Markdown: give a name that ends in .md")
        return out
    checkout = REPO.parent
    if not (checkout / "docs" / "architecture.md").is_file():
        raise UserError(
            f"{checkout} is no checkout of velo, so there is no docs/benchmarks.md to write: say where with --out FILE.md"
        )
    return checkout / "docs" / "benchmarks.md"


def put_between(page: Path, mark: str, made: Callable[[str], str]) -> None:
    """Put what is made of the lines between a page's marks, `<!-- mark -->` and `<!-- end -->`, in their place.

    Raises `UserError` where it has no such marks.
    """
    held = page.read_text(encoding="utf-8") if page.is_file() else ""
    between = re.compile(rf"(<!-- {re.escape(mark)} -->\n)(.*?)(<!-- end -->)", re.DOTALL)
    if not between.search(held):
        raise UserError(f"{page} has no `<!-- {mark} -->` and `<!-- end -->`: name the page of `docs/` that has them")
    page.write_text(between.sub(lambda marks: f"{marks[1]}\n{made(marks[2])}\n{marks[3]}", held), encoding="utf-8")


def tables(report: BenchReport) -> list[Table]:
    """As shown to a person."""
    shown = []
    for part in report.parts:
        table = Table(title=f"{part.title}\n{part.command}", caption="\n".join(part.notes), title_justify="left")
        for at, name in enumerate(part.columns):
            table.add_column(name, justify="left" if at == 0 else "right")
        for row in part.rows:
            table.add_row(*row)
        shown.append(table)
    return [*shown, _aims_table(report)]


def _aims_table(report: BenchReport) -> Table:
    table = Table(title=f"aims ({report.machine}; {report.seconds:,.0f} s)", title_justify="left")
    for name in ("aim", "found", ""):
        table.add_column(name)
    for part in report.parts:
        for aim in part.aims:
            table.add_row(aim.what, aim.found, _verdict(aim))
    return table


def write(report: BenchReport, path: Path) -> None:
    """Write the document, and its charts in a folder of its name beside it; each replaced in one step."""
    folder = path.with_suffix("")
    make_folder(folder, "give --out a place you may write to")
    for part in report.parts:
        for name, svg in part.charts.items():
            write_atomically(folder / f"{name}.svg", svg.encode(), mode=0o644)
    write_atomically(path, markdown(report, folder.name).encode(), mode=0o644)


def markdown(report: BenchReport, folder: str) -> str:
    """The document's text; `folder` is where its charts are, seen from it."""
    lines = [
        "# What it costs",
        "",
        "Written by one command from what it measured, this page and its charts; every table names the command that makes it again.",
        "",
        f"`{report.command}` on {report.machine}; {report.day}, {report.seconds:,.0f} s.",
        "",
        "Contenders are processes of their own, called in turn, round after round. A figure is the median of the rounds, with their",
        "lowest and highest in brackets. Peak MB is the most memory that the contender's process ever held. Machines with other",
        "work on them differ from run to run by half: trust the ratios within a table.",
        "",
        "## Aims",
        "",
        f"`{report.command}`: {report.machine}; what was compared is named at each table below.",
        "",
        *_rows(("aim", "found", "met"), [(a.what, a.found, _verdict(a)) for part in report.parts for a in part.aims]),
    ]
    for part in report.parts:
        lines += ["", f"## {part.title}", "", part.about, ""]
        lines += [f"`{part.command}` on {report.machine}; {part.versions}; {part.seconds:,.0f} s.", ""]
        lines += _rows(part.columns, part.rows)
        lines += [line for note in part.notes for line in ("", note)]
        for name in part.charts:
            lines += ["", f"![{part.title}: {name.replace('-', ' ')}]({folder}/{name}.svg)"]
    return "\n".join(lines) + "\n"


def _rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    head = [f"| {' | '.join(columns)} |", "|---|" + "---:|" * (len(columns) - 1)]
    return [*head, *(f"| {' | '.join(row)} |" for row in rows)]


def _verdict(aim: Aim) -> str:
    return {True: "yes", False: "no", None: "not told at this size"}[aim.met]
