"""Show the results of a benchmark run, in the terminal and in docs/benchmarks.md, with the same words."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Group

from benchmarks import CHECKOUT
from velo.errors import UserError
from velo.storage.atomic_files import make_folder, write_atomically
from velo.text_tables import markdown_table, table_of


@dataclass(frozen=True, slots=True)
class Aim:
    """A target, the result, and whether the target is met; None if the run was too small."""

    what: str
    found: str
    met: bool | None


@dataclass(frozen=True, slots=True)
class BenchPart:
    """One table: how to read it, its columns and rows as text, and the command and versions that repeat it.

    `charts` maps file names to SVG; `notes` are lines below the table; `seconds` is how long it took.
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
    """A run: its machine, command, day (UTC), seconds and parts."""

    machine: str
    command: str
    day: str
    seconds: float
    parts: tuple[BenchPart, ...]


def where_to(out: Path | None) -> Path:
    """The document to write: `out`, or docs/benchmarks.md of the checkout; raises `UserError` without a checkout."""
    if out is not None:
        if out.suffix != ".md":
            raise UserError(f"--out is {str(out)!r}, but the page is Markdown: give a name that ends in .md")
        return out
    if not (CHECKOUT / "docs" / "architecture.md").is_file():
        raise UserError(
            f"{CHECKOUT} is not a checkout of velo, so it has no docs/benchmarks.md: name a file with --out FILE.md"
        )
    return CHECKOUT / "docs" / "benchmarks.md"


def put_between(page: Path, mark: str, replacement: Callable[[str], str]) -> None:
    """Replace the lines between a page's marks, `<!-- mark -->` and `<!-- end -->`, by `replacement(lines)`.

    Raises `UserError` if the page has no such marks.
    """
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    between = re.compile(rf"(<!-- {re.escape(mark)} -->\n)(.*?)(<!-- end -->)", re.DOTALL)
    if not between.search(text):
        raise UserError(f"{page} has no `<!-- {mark} -->` and `<!-- end -->`: name the page of `docs/` that has them")
    page.write_text(
        between.sub(lambda marks: f"{marks[1]}\n{replacement(marks[2])}\n{marks[3]}", text), encoding="utf-8"
    )


def tables(report: BenchReport) -> Group:
    """The report for the terminal: a table per part, then the aims."""
    shown = [
        table_of(
            f"{part.title}\n{part.command}",
            part.columns,
            part.rows,
            part.columns[:1],
            caption="\n".join(part.notes) or None,
        )
        for part in report.parts
    ]
    aims = [(aim.what, aim.found, _verdict(aim)) for part in report.parts for aim in part.aims]
    if aims:
        shown.append(table_of(f"aims ({report.machine}; {report.seconds:,.0f} s)", ("aim", "found", "met"), aims))
    return Group(*shown)


def write(report: BenchReport, path: Path) -> None:
    """Write the document, and its charts in a folder of the same name beside it; each file is replaced in one step."""
    folder = path.with_suffix("")
    make_folder(folder, "give --out a place you may write to")
    for part in report.parts:
        for name, svg in part.charts.items():
            write_atomically(folder / f"{name}.svg", svg.encode(), mode=0o644)
    write_atomically(path, markdown(report, folder.name).encode(), mode=0o644)


def markdown(report: BenchReport, folder: str) -> str:
    """The document as Markdown; `folder` is the path of its charts, relative to it."""
    lines = [
        "# What it costs",
        "",
        "One command measured everything and wrote this page and its charts. Each table names the command that repeats it.",
        "",
        f"`{report.command}` on {report.machine}; {report.day}, {report.seconds:,.0f} s.",
        "",
        "Each contender is a process of its own, and they take turns, round after round. A figure is the median of the rounds, with",
        "the lowest and highest in brackets. Peak MB is the peak memory of the contender's process. On a machine with other work,",
        "figures differ by half from run to run: trust the ratios within a table.",
        "",
        "## Aims",
        "",
        f"`{report.command}`: {report.machine}; each table below names the versions compared.",
        "",
        *markdown_table(
            ("aim", "found", "met"),
            [(a.what, a.found, _verdict(a)) for part in report.parts for a in part.aims],
            "---:",
        ),
    ]
    for part in report.parts:
        lines += ["", f"## {part.title}", "", part.about, ""]
        lines += [f"`{part.command}` on {report.machine}; {part.versions}; {part.seconds:,.0f} s.", ""]
        lines += markdown_table(part.columns, part.rows, "---:")
        lines += [line for note in part.notes for line in ("", note)]
        for name in part.charts:
            lines += ["", f"![{part.title}: {name.replace('-', ' ')}]({folder}/{name}.svg)"]
    return "\n".join(lines) + "\n"


def _verdict(aim: Aim) -> str:
    return {True: "yes", False: "no", None: "not measured at this size"}[aim.met]
