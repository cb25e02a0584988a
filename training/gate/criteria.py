"""The gate (contract 9): criteria as data, each judged by its whole 95 % interval over two windows, and the alarms.

PASS needs the whole interval on the good side, FAIL the whole interval on the bad side; anything else is NOT ENOUGH DATA,
because a value on the right side of its bound is not evidence by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from velo.resampling import Figure

RECORDS: Final = 50_000
WINDOWS_DAYS: Final = (90, 365)
"""The gate judges the last 90 days and the last 12 months."""


class Verdict(Enum):
    """The verdict of a criterion, a window or the whole gate."""

    PASS = "PASS"  # noqa: S105 a verdict, no password
    FAIL = "FAIL"
    NOT_ENOUGH_DATA = "NOT ENOUGH DATA"


@dataclass(frozen=True, slots=True)
class Criterion:
    """The good range of one figure: from `low` to `high`, both included unless `strictly`; None means no bound.

    `counted` marks a figure without sampling error (a number of records), judged by its value alone.
    """

    name: str
    says: str
    low: float | None = None
    high: float | None = None
    strictly: bool = False
    counted: bool = False

    @property
    def bound(self) -> str:
        """The bound in words, such as "≥ 1.03"."""
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        if self.low is not None:
            return f"{'>' if self.strictly else '≥'} {self.low:,g}"
        return f"{'<' if self.strictly else '≤'} {self.high:,g}"


CRITERIA: Final = (
    Criterion("ae_price", "A/E of the strategy's bets, 1/SP expected", low=1.03),
    Criterion("roi", "ROI of the strategy's bets at SP, level stakes", low=0.0),
    Criterion("calibration_error", "root mean calibration error of the model's p", high=0.023),
    Criterion("slope", "slope of the win on the model's logit p", low=0.95, high=1.05),
    Criterion("margin", "log-loss margin over market^β, nats a race", low=0.0, strictly=True),
    Criterion("records", "training records", low=float(RECORDS), strictly=True, counted=True),
)
CLOSING: Final = Criterion("clv", "closing-line value of the strategy's bets, without margins", low=0.0, strictly=True)
"""Judged beside the others where most bets have a price at decision time: a price says more than a winner, so that it needs fewer bets."""


def criteria_for(figures: Mapping[str, Figure]) -> tuple[Criterion, ...]:
    """The criteria of a window: with the closing line where at least half of its bets have one; nothing else changes."""
    priced = figures["clv"].n > 0 and 2 * figures["clv"].n >= figures["roi"].n
    return (*CRITERIA, CLOSING) if priced else CRITERIA


@dataclass(frozen=True, slots=True)
class Alarm:
    """A figure too good to be true: a value above `above` over more than `n_above` bets, races or runners."""

    name: str
    says: str
    above: float
    n_above: int = 0

    def goes_off(self, figure: Figure) -> bool:
        """Whether a figure sets the alarm off."""
        return figure.value is not None and figure.value > self.above and figure.n > self.n_above


ALARMS: Final = (
    Alarm("top1", "the first choice wins more than 45 % of races: look for a leak", 0.45),
    Alarm("auc", "AUC above 0.90: look for a leak", 0.90),
    Alarm("roi", "ROI above 25 % over more than 500 bets: look for a leak, or for prices no one could take", 0.25, 500),
)


@dataclass(frozen=True, slots=True)
class Judged:
    """A criterion with its figure and its verdict."""

    criterion: Criterion
    figure: Figure
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Window:
    """The gate over one window: its criteria, the alarms that went off, and the verdict."""

    days: int
    first_day: str
    last_day: str
    judged: tuple[Judged, ...]
    alarms: tuple[str, ...]
    verdict: Verdict


def judge(criterion: Criterion, figure: Figure) -> Judged:
    """PASS, FAIL or NOT ENOUGH DATA; a figure without a value or an interval is NOT ENOUGH DATA."""
    low, high = (figure.value, figure.value) if criterion.counted else (figure.low, figure.high)
    if figure.value is None or low is None or high is None or not low <= high:
        return Judged(criterion, figure, Verdict.NOT_ENOUGH_DATA)
    above = criterion.low is None or (low > criterion.low if criterion.strictly else low >= criterion.low)
    below = criterion.high is None or (high < criterion.high if criterion.strictly else high <= criterion.high)
    if above and below:
        return Judged(criterion, figure, Verdict.PASS)
    under = criterion.low is not None and (high <= criterion.low if criterion.strictly else high < criterion.low)
    over = criterion.high is not None and (low >= criterion.high if criterion.strictly else low > criterion.high)
    return Judged(criterion, figure, Verdict.FAIL if under or over else Verdict.NOT_ENOUGH_DATA)


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """FAIL on any FAIL, PASS on all PASS, else NOT ENOUGH DATA; no verdicts give NOT ENOUGH DATA."""
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    if verdicts and all(verdict is Verdict.PASS for verdict in verdicts):
        return Verdict.PASS
    return Verdict.NOT_ENOUGH_DATA


def judge_window(
    figures: Mapping[str, Figure],
    days: int,
    first_day: str,
    last_day: str,
    criteria: Sequence[Criterion] = CRITERIA,
    alarms: Sequence[Alarm] = ALARMS,
) -> Window:
    """Judge all criteria over a window of `days` days; `figures` are by name, `top1` and `auc` for the alarms.

    A criterion or an alarm without its figure raises `KeyError`: a gate that skips a criterion must not pass.
    """
    judged = tuple(judge(criterion, figures[criterion.name]) for criterion in criteria)
    off = tuple(alarm.says for alarm in alarms if alarm.goes_off(figures[alarm.name]))
    return Window(days, first_day, last_day, judged, off, together([criterion.verdict for criterion in judged]))


def gate(windows: Sequence[Window], asked: Sequence[int] = WINDOWS_DAYS) -> Verdict:
    """The whole gate: FAIL on any FAIL, PASS on all PASS; raises `ValueError` unless there is exactly one window per `asked` length.

    Alarms do not change the verdict: look at them before you promote a model that passed.
    """
    if sorted(window.days for window in windows) != sorted(asked):
        found = ", ".join(str(window.days) for window in windows) or "none"
        raise ValueError(f"the gate judges windows of {', '.join(map(str, asked))} days, got {found}")
    return together([window.verdict for window in windows])
