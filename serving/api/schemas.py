"""What requests bring and answers hold: the OpenAPI document is made of these. Instants are ISO 8601, UTC, µs."""

from datetime import UTC, date, datetime
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from velo.racing.clock import YEARS
from velo.serving.api.limits import RUNNERS

D = TypeVar("D", bound=date)


def _in_years(moment: D) -> D:
    """A day or an instant (in UTC) of the years that racing lies in: beyond them the calendar ends somewhere."""
    if isinstance(moment, datetime):
        try:
            moment = moment.astimezone(UTC)
        except OverflowError:
            raise ValueError(f"{moment} is no instant of the calendar: correct it") from None
    if moment.year not in YEARS:
        raise ValueError(f"{moment} is not in the years {YEARS[0]} to {YEARS[-1]}: correct it")
    return moment


RaceDay = Annotated[date, AfterValidator(_in_years)]
Instant = Annotated[AwareDatetime, AfterValidator(_in_years)]
RACE_ID: Final = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
"""No control character: a race id goes into addresses and onto screens."""

Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]
Odds = Annotated[float, Field(gt=1.0, le=100_000.0, allow_inf_nan=False)]
Number = Annotated[float, Field(ge=0.0, le=1_000_000.0, allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=0, le=2**31 - 1)]


class RequestBody(BaseModel):
    """What a request brings; an unknown field is a mistake."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class GivenRunner(RequestBody):
    """A declared runner. Keys are those of the store: names or ids, as its policy says."""

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
    """A race to score: the race columns that features are made of, and its runners without the withdrawn."""

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
    """A message taken: `into` the log at `seq` (null where it says what stood already), or a feed that a follower takes it from."""

    into: Literal["log", "feed"]
    seq: int | None


class DriverOut(BaseModel):
    """What moves a chance: `effect` adds to the runner's score against the mean of the race; e^effect scales odds."""

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
        description="95 % bounds of the rate at which runners given such a chance win; null where the model tells none."
    )
    blended_interval: tuple[float, float] | None = Field(description="The same of `blended`.")
    blended: float | None = Field(description="With the market put to it; null unless every runner has odds.")
    market_odds: float | None
    market_source: str | None
    drivers: list[DriverOut]
    missing: list[str] = Field(description="Feature views without a row of the runner's key.")
    stale: list[str] = Field(description="Feature views whose row a window has moved on from.")


class Score(BaseModel):
    """A scored race: probabilities sum to 1, most likely first. Asked again with its `as_of`, it is the same."""

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
    """The model that serves."""

    version: str
    gate: str
    mode: str


class RaceLine(BaseModel):
    """A race of a day. `status`: to come, off (its time has passed, no result yet), or run."""

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
    """A message about a race, or `horses` of it, that nobody had declared; `declared_at` is when a card did since."""

    type: str
    race_id: str
    horses: list[str]
    nearest: str | None = Field(description="The declared name that is most like it.")
    known_at: datetime
    declared_at: datetime | None
    says: str


class Day(BaseModel):
    """The races of a local date in order of their off, and the model that scores them (null where there is none)."""

    date: date
    timezone: str
    now: datetime
    model: ModelOut | None
    model_missing: str | None = Field(description="Why there is no model.")
    races: list[RaceLine]
    undeclared: list[UndeclaredOut] = Field(
        description="What was told of these races' horses, or in the last two days of any race, that no card declares."
    )


class CardRunner(BaseModel):
    """A declared runner as it stands; `position` and `status` once there is a result."""

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
    """Something told of the race."""

    type: str
    known_at: datetime
    about: dict[str, Any]


class Card(RaceLine):
    """A race as it stands: who runs, who does not, the odds, and what was told of it, oldest first."""

    declared: list[CardRunner]
    non_runners: list[CardRunner]
    odds_source: str | None
    changes: list[RaceEvent]
    undeclared: list[UndeclaredOut] = Field(description="What was told of horses that no card had named by then.")


class CurveFeature(BaseModel):
    """A feature of the catalogue, with its formula in words."""

    name: str
    formula: str
    kind: str


class CurvePoint(BaseModel):
    """What holds from `at` until the next point, in the order of `features`; stale from `valid_until` on."""

    at: datetime
    valid_until: datetime | None
    values: list[float | None]


class Curve(BaseModel):
    """The changes of a horse's, trainer's or jockey's features, oldest first; `rows` counts those there are."""

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
    """Whether a race can be scored now, and what stands in the way."""

    ready: bool
    redis: str
    model: str
    stream: str
