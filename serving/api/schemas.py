"""The models of requests and responses, from which the OpenAPI document is made. Instants are ISO 8601, UTC, µs."""

from datetime import UTC, date, datetime
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from velo.racing.clock import YEARS
from velo.serving.api.limits import RUNNERS

D = TypeVar("D", bound=date)


def _in_years(moment: D) -> D:
    """Refuse a day or an instant (returned in UTC) outside `YEARS`, where calendar arithmetic overflows."""
    if isinstance(moment, datetime):
        try:
            moment = moment.astimezone(UTC)
        except OverflowError:
            raise ValueError(f"{moment} is not an instant of the calendar: correct it") from None
    if moment.year not in YEARS:
        raise ValueError(f"{moment} is not in the years {YEARS[0]} to {YEARS[-1]}: correct it")
    return moment


RaceDay = Annotated[date, AfterValidator(_in_years)]
Instant = Annotated[AwareDatetime, AfterValidator(_in_years)]
RACE_ID: Final = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
"""No control characters: a race id is used in addresses and on screens."""

Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]
Odds = Annotated[float, Field(gt=1.0, le=100_000.0, allow_inf_nan=False)]
Number = Annotated[float, Field(ge=0.0, le=1_000_000.0, allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=0, le=2**31 - 1)]


class RequestBody(BaseModel):
    """The body of a request; an unknown field is refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class GivenRunner(RequestBody):
    """A declared runner. Its keys are names or ids, by the store's key policy."""

    horse_id: Text
    horse: Text | None = None
    jockey_id: Text | None = None
    jockey: Text | None = None
    trainer_id: Text | None = None
    trainer: Text | None = None
    runner_no: Whole | None = None
    draw: Whole | None = None
    weight_lbs: Number | None = None
    body_weight_lbs: Number | None = None
    official_rating: Whole | None = None
    odds: Odds | None = Field(default=None, description="Decimal odds, if known.")


class GivenCard(RequestBody):
    """A race to score: the race columns that features use, and its runners without the withdrawn ones."""

    race_id: Annotated[str, Field(min_length=1, max_length=200, pattern=RACE_ID)] = "posted"
    race_date: RaceDay
    off_time: Instant
    course: Text
    race_class: Whole | None = None
    surface: Text | None = None
    going: Text | None = None
    distance_m: Number | None = None
    runners: Annotated[list[GivenRunner], Field(min_length=1, max_length=RUNNERS)]


class GivenOdds(RequestBody):
    """A snapshot of decimal odds by horse key."""

    prices: Annotated[dict[Text, Odds], Field(min_length=1, max_length=RUNNERS)]
    source: Text = "desk"


class GivenWithdrawal(RequestBody):
    """A declared horse that does not run."""

    horse_id: Text
    reason: Text | None = None


class GivenReinstatement(RequestBody):
    """A withdrawn horse that runs after all."""

    horse_id: Text


class OddsAccepted(BaseModel):
    """An accepted message: `into` the log at `seq` (null if it changes nothing), or into a feed that a follower reads."""

    into: Literal["log", "feed"]
    seq: int | None


class DriverOut(BaseModel):
    """A driver of a probability: `effect` adds to the runner's score relative to the race's mean; e^effect scales the odds."""

    words: str
    effect: float


class RunnerOut(BaseModel):
    """A scored runner; see `ScoredRunner`."""

    model_config = ConfigDict(extra="forbid")
    runner_no: int | None
    draw: int | None
    horse_id: str
    horse: str
    jockey_id: str | None
    jockey: str | None
    trainer_id: str | None
    trainer: str | None
    probability: float = Field(ge=0.0, le=1.0)
    fair_odds: float
    interval: tuple[float, float] | None = Field(
        description="95 % interval of the win rate of runners with such a probability; null if the model has none."
    )
    blended_interval: tuple[float, float] | None = Field(description="The interval of `blended`.")
    blended: float | None = Field(description="Blended with the market; null unless every runner has odds.")
    market_odds: float | None
    market_source: str | None
    drivers: list[DriverOut]
    missing: list[str] = Field(description="Feature views without a row of the runner's key.")
    stale: list[str] = Field(description="Feature views whose row is past its `valid_until`.")


class Score(BaseModel):
    """A scored race: probabilities sum to 1, most likely first. A request with its `as_of` gives the same score."""

    model_config = ConfigDict(extra="forbid")
    race_id: str
    race_name: str | None
    course: str
    going: str | None
    distance_m: float | None
    off_time: datetime
    as_of: datetime
    scored_at: datetime
    declared_by: str
    features_from: Literal["redis", "offline history"]
    odds_known_at: datetime | None
    model: str
    gate: str
    mode: str
    fingerprint: str
    missing: list[str]
    stale: list[str]
    runners: list[RunnerOut]
    withdrawn: list[str]
    notes: list[str]


class ModelOut(BaseModel):
    """The serving model."""

    version: str
    gate: str
    mode: str


class RaceLine(BaseModel):
    """A race of a day. `status`: to come, off (its off time has passed without a result), or run."""

    race_id: str
    race_no: int | None
    course: str
    race_name: str | None
    off_time: datetime
    going: str | None
    distance_m: float | None
    race_class: int | None
    surface: str | None
    status: Literal["to come", "off", "run"]
    runners: int
    withdrawn: int
    odds_known_at: datetime | None


class UndeclaredOut(BaseModel):
    """A message about an undeclared race, or undeclared `horses` of a race; `declared_at` is when a later card declared them."""

    type: str
    race_id: str
    horses: list[str]
    nearest: str | None = Field(description="The most similar declared name.")
    known_at: datetime
    declared_at: datetime | None
    says: str


class Day(BaseModel):
    """The races of a local date in order of off time, and the model that scores them (null without one)."""

    date: date
    timezone: str
    now: datetime
    model: ModelOut | None
    model_missing: str | None = Field(description="Why there is no model.")
    races: list[RaceLine]
    undeclared: list[UndeclaredOut] = Field(
        description="Messages about undeclared horses of these races, and of the last two days about any undeclared race."
    )


class CardRunner(BaseModel):
    """The state of a declared runner; `position` and `status` are null before the result."""

    horse_id: str
    horse: str
    runner_no: int | None
    draw: int | None
    jockey_id: str | None
    jockey: str | None
    trainer_id: str | None
    trainer: str | None
    age: int | None
    sex: str | None
    weight_lbs: float | None
    official_rating: int | None
    headgear: str | None
    odds: float | None
    status: str | None
    position: int | None
    sp_decimal: float | None


class RaceEvent(BaseModel):
    """A message about the race."""

    type: str
    known_at: datetime
    about: dict[str, Any]


class Card(RaceLine):
    """The state of a race: its runners and non-runners, the odds, and its messages, oldest first."""

    declared: list[CardRunner]
    non_runners: list[CardRunner]
    odds_source: str | None
    changes: list[RaceEvent]
    undeclared: list[UndeclaredOut] = Field(description="Messages about horses that no card had declared by then.")


class CurveFeature(BaseModel):
    """A feature of the catalogue, with its formula in words."""

    name: str
    formula: str
    kind: str


class CurvePoint(BaseModel):
    """The values from `at` until the next point, in the order of `features`; stale from `valid_until` on."""

    at: datetime
    valid_until: datetime | None
    values: list[float | None]


class Curve(BaseModel):
    """The changes of a horse's, trainer's or jockey's features, oldest first; `rows` counts all of them."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["horse", "trainer", "jockey"]
    id: str
    name: str | None
    about: str
    as_of: datetime
    features: list[CurveFeature]
    rows: int
    points: list[CurvePoint]


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Ready(BaseModel):
    """Whether a race can be scored now, and the state of each part."""

    ready: bool
    redis: str
    model: str
    stream: str
