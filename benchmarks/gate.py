"""`velo bench gate`: run the gate on synthetic markets with and without an edge; compare pass rates with the predicted ones."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Group

from benchmarks.stores import machine
from velo.text_tables import table_of
from velo.training.gate.controls import A_DAY, DAYS, Rates, rates
from velo.training.gate.criteria import WINDOWS_DAYS


@dataclass(frozen=True, slots=True)
class GateFigures:
    """The gate's verdicts, the races per day and days of each market, and the seconds taken."""

    rates: Rates
    a_day: int
    days: int
    seconds: float
    machine: str

    @property
    def broken(self) -> bool:
        """Whether a window's pass rate differs from the predicted one."""
        return not all(window.agrees for window in self.rates.windows)


def measure(
    worlds: int,
    seed: int,
    a_day: int = A_DAY,
    progress: Callable[[str, int, int], None] = lambda step, done, steps: None,
) -> GateFigures:
    """Run the gate on `worlds` markets of each kind, over both of its windows."""
    begun = time.perf_counter()
    found = rates(worlds, seed, a_day, WINDOWS_DAYS, progress=progress)
    return GateFigures(found, a_day, DAYS, time.perf_counter() - begun, machine())


def table(figures: GateFigures) -> Group:
    """The verdicts, and each window's pass rate with the predicted one, for the terminal."""
    kinds = {True: "with an edge", False: "without one"}
    title = f"{figures.a_day * figures.days:,} races a market, {figures.seconds:.0f} s on {figures.machine}"
    verdicts = [(kinds[edge], *counts.values()) for edge, counts in figures.rates.verdicts.items()]
    windows = [
        (kinds[window.edge], f"{window.days} days", f"{window.passed / window.worlds:.1%}", f"{window.foretold:.1%}",
         "yes" if window.agrees else "no")
        for window in figures.rates.windows
    ]  # fmt: skip
    return Group(
        table_of(title, ("markets", "PASS", "FAIL", "NOT ENOUGH DATA"), verdicts, left=("markets",)),
        table_of(
            "pass rate of each window, and the mean of what its reports predict",
            ("markets", "window", "passed", "predicted", "agrees"),
            windows,
            left=("markets",),
        ),
    )
