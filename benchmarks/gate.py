"""`velo bench gate`: the gate asked of made-up worlds with a known edge and with none, beside the rates that its reports print."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.table import Table

from benchmarks.stores import machine
from velo.training.gate import WINDOWS_DAYS
from velo.training.synthetic_markets import A_DAY, DAYS, Rates, rates


@dataclass(frozen=True, slots=True)
class GateFigures:
    """What the gate said of the worlds, how many races a day and days each had, and how long it took."""

    rates: Rates
    a_day: int
    days: int
    seconds: float
    machine: str


def measure(
    worlds: int,
    seed: int,
    a_day: int = A_DAY,
    progress: Callable[[str, int, int], None] = lambda step, done, steps: None,
) -> GateFigures:
    """Ask the gate of so many worlds of each kind, over both of its windows."""
    begun = time.perf_counter()
    told = rates(worlds, seed, a_day, WINDOWS_DAYS, progress=progress)
    return GateFigures(told, a_day, DAYS, time.perf_counter() - begun, machine())


def tables(figures: GateFigures) -> tuple[Table, Table]:
    """The verdicts, and each window's pass rate beside the one foretold."""
    verdicts = Table(
        title=f"{figures.a_day * figures.days:,} races a world, {figures.seconds:.0f} s on {figures.machine}",
        title_justify="left",
    )
    for name in ("worlds", "PASS", "FAIL", "NOT ENOUGH DATA"):
        verdicts.add_column(name, justify="left" if name == "worlds" else "right")
    for edge, counts in figures.rates.verdicts.items():
        verdicts.add_row("with an edge" if edge else "without one", *(str(count) for count in counts.values()))
    windows = Table(title="pass rate of each window, and the mean of what its reports foretold", title_justify="left")
    for name in ("worlds", "window", "passed", "foretold", "agrees"):
        windows.add_column(name, justify="left" if name == "worlds" else "right")
    for one in figures.rates.windows:
        windows.add_row(
            "with an edge" if one.edge else "without one",
            f"{one.days} days",
            f"{one.passed / one.worlds:.1%}",
            f"{one.foretold:.1%}",
            "yes" if one.agrees else "no",
        )
    return verdicts, windows
