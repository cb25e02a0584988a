"""The gate (contract 9): criteria declared as data, each judged by its whole interval, over two windows; and the alarms.

PASS needs the 95 % interval wholly on the good side, FAIL has it wholly on the bad side, all else is NOT ENOUGH DATA: a value
on the right side of its bound is no evidence by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from velo.resampling import Figure

RECORDS: Final = 50_000
WINDOWS_DAYS: Final = (90, 365)
"""The last 90 days and the last 12 months: the gate is asked over both."""


class Verdict(Enum):
    """What a criterion, a window or the whole gate comes to."""

    PASS = "PASS"  # noqa: S105 a verdict, no password
    FAIL = "FAIL"
    NOT_ENOUGH_DATA = "NOT ENOUGH DATA"


@dataclass(frozen=True, slots=True)
class Criterion:
    """What is good of one figure: from `low` to `high`, both included unless `strictly`; None is no bound.

    `counted` is a figure known for certain (a number of records): its value alone is judged.
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


@dataclass(frozen=True, slots=True)
class Alarm:
    """What is too good to be true: a value above `above`, told of more than `n_above` bets, races or runners."""

    name: str
    says: str
    above: float
    n_above: int = 0

    def goes_off(self, figure: Figure) -> bool:
        """Whether a figure is too good to be true."""
        return figure.value is not None and figure.value > self.above and figure.n > self.n_above


ALARMS: Final = (
    Alarm("top1", "the first choice wins more than 45 % of races: look for a leak", 0.45),
    Alarm("auc", "AUC above 0.90: look for a leak", 0.90),
    Alarm("roi", "ROI above 25 % over more than 500 bets: look for a leak, or for prices no one could take", 0.25, 500),
)


@dataclass(frozen=True, slots=True)
class Judged:
    """A criterion with its figure and what it comes to."""

    criterion: Criterion
    figure: Figure
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Window:
    """The gate over one window: its criteria, the alarms that went off, and what it comes to."""

    days: int
    first_day: str
    last_day: str
    judged: tuple[Judged, ...]
    alarms: tuple[str, ...]
    verdict: Verdict


def judge(criterion: Criterion, figure: Figure) -> Judged:
    """PASS, FAIL or NOT ENOUGH DATA; a figure that could not be told, or has no interval, is NOT ENOUGH DATA."""
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
    """FAIL on any FAIL, PASS on all PASS, else NOT ENOUGH DATA; of nothing, NOT ENOUGH DATA."""
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
    """Judge all criteria over a window of so many days; `figures` by name, those of `top1` and `auc` for the alarms.

    A criterion without its figure raises `KeyError`: a gate that forgets to ask must not pass. So does an alarm.
    """
    judged = tuple(judge(criterion, figures[criterion.name]) for criterion in criteria)
    off = tuple(alarm.says for alarm in alarms if alarm.goes_off(figures[alarm.name]))
    return Window(days, first_day, last_day, judged, off, together([one.verdict for one in judged]))


def gate(windows: Sequence[Window], asked: Sequence[int] = WINDOWS_DAYS) -> Verdict:
    """The whole gate: FAIL on any FAIL, PASS on all PASS; raises `ValueError` unless every window asked for is there.

    Alarms are no part of the verdict: whoever promotes a model that passed looks at them first.
    """
    if sorted(window.days for window in windows) != sorted(asked):
        told = ", ".join(str(window.days) for window in windows) or "none"
        raise ValueError(f"the gate is asked over windows of {', '.join(map(str, asked))} days, and was given {told}")
    return together([window.verdict for window in windows])
