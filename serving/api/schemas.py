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
Stakes = Annotated[float, Field(strict=True, ge=0.0, le=1e12, allow_inf_nan=False)]
Percent = Annotated[float, Field(strict=True, ge=0.0, lt=100.0, allow_inf_nan=False)]
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
    """A snapshot of decimal odds by horse key, and of the stakes matched so far where they are known."""

    prices: Annotated[dict[Text, Odds], Field(min_length=1, max_length=RUNNERS)]
    source: Text = "desk"
    volumes: Annotated[dict[Text, Stakes], Field(max_length=RUNNERS)] | None = Field(
        default=None, description="Stakes matched so far by horse key, in the source's currency; null if unknown."
    )


class GivenWithdrawal(RequestBody):
    """A declared horse that does not run."""

    horse_id: Text
    reason: Text | None = None
    reduction_factor: Percent | None = Field(
        default=None,
        description="The exchange's, in per cent: prices matched before are reduced by it; null if unknown.",
    )


class GivenReinstatement(RequestBody):
    """A withdrawn horse that runs after all."""

    horse_id: Text


class OddsAccepted(BaseModel):
    """An accepted message: `into` the log at `seq` (null if it changes nothing), or into a feed that a follower reads."""

    into: Literal["log", "feed"]
    seq: int | None


class ModelOut(BaseModel):
    """The serving model."""

    version: str
    gate: str
    mode: str


class Winner(BaseModel):
    """A winner by the latest version of the result; more than one in a dead heat."""

    horse_id: str
    horse: str
    sp_decimal: float | None


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
    handicap: bool | None
    winners: list[Winner] = Field(description="Empty before a result.")


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
    speed: float = Field(description="How many seconds of `now` pass in one second: 1, but in a demonstration.")
    simulated: bool = Field(description="The racing of this store is made up.")
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


class RunOut(BaseModel):
    """A past start by the version of its result that was known; `starters` ran."""

    race_id: str
    race_date: date
    course: str
    race_name: str | None
    race_class: int | None
    going: str | None
    distance_m: float | None
    horse_id: str
    horse: str | None
    jockey: str | None
    trainer: str | None
    weight_lbs: float | None
    official_rating: int | None
    headgear: str | None
    draw: int | None
    status: str
    position: int | None
    starters: int
    beaten_lengths: float | None
    sp_decimal: float | None


class FormLine(BaseModel):
    """A horse's form: the last six finishes as figures (oldest first), marks (C, D, CD, BF), days since its last run, its last runs."""

    horse_id: str
    figures: str
    marks: list[str]
    days: int | None
    runs: list[RunOut]


class OddsOut(BaseModel):
    """A snapshot of decimal odds by horse key."""

    known_at: datetime
    prices: dict[str, float]


class FormOut(BaseModel):
    """The form of a race's horses and the odds known: as of now, or as of the decision time of a race that was run."""

    race_id: str
    as_of: datetime
    runners: list[FormLine]
    prices: list[OddsOut] = Field(description="Oldest first; of many snapshots evenly chosen ones.")


class Combination(BaseModel):
    """Horses of a combination (in order for exacta and trifecta), its chance, and the odds at which it breaks even."""

    horse_ids: list[str]
    probability: float
    fair_odds: float


class Combinations(BaseModel):
    """The likeliest combinations of a pool, likeliest first, from the chances of winning as of `as_of`."""

    race_id: str
    as_of: datetime
    model: str
    pool: str
    combinations: list[Combination]


class NamedRecord(BaseModel):
    """Starts, wins and places under a name, such as a course."""

    name: str
    starts: int
    wins: int
    places: int


class RecordBy(BaseModel):
    """Records by course, distance or going, most starts first; of trainers and jockeys also by headgear, and by month in
    the order of the year.

    Headgear is `first time`, where no known start of the horse before had any, or `worn before`; other starts are left out.
    """

    by: Literal["course", "distance", "going", "headgear", "month"]
    lines: list[NamedRecord]


class RatedRun(RunOut):
    """A past start, with a horse's Elo rating and figure after it; null for trainers and jockeys."""

    elo: float | None
    figure: float | None


class Coming(RaceLine):
    """A race of today or later, with a runner of the key."""

    horse_id: str
    horse: str
    jockey: str | None
    trainer: str | None


class KeyRecord(BaseModel):
    """A horse's, trainer's or jockey's coming races, records and starts (latest first; of people the last 60)."""

    kind: Literal["horse", "trainer", "jockey"]
    id: str
    name: str
    as_of: datetime
    coming: list[Coming]
    starts: int
    records: list[RecordBy]
    runs: list[RatedRun]


class Match(BaseModel):
    """Something whose name holds the text that was searched for."""

    kind: Literal["race", "horse", "trainer", "jockey"]
    id: str
    name: str


class Matches(BaseModel):
    """At most 20 matches, those that begin with the text first."""

    matches: list[Match]


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Ready(BaseModel):
    """Whether a race can be scored now, and the state of each part."""

    ready: bool
    redis: str
    model: str
    stream: str
