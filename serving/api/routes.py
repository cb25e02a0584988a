"""The routes of the HTTP interface."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Final, Literal, TypeVar

import orjson
from fastapi import APIRouter, Body, Depends, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST

from velo.serving.api.access import may_write
from velo.serving.api.curves import Curves, Kind, curves_of
from velo.serving.api.events import Hub
from velo.serving.api.limits import Lanes, client_of
from velo.serving.api.problems import RETRY_AFTER_S, documented
from velo.serving.api.schemas import (
    RACE_ID,
    Card,
    Combinations,
    Day,
    FormOut,
    GivenCard,
    GivenOdds,
    GivenReinstatement,
    GivenWithdrawal,
    Health,
    Instant,
    KeyRecord,
    Matches,
    OddsAccepted,
    RaceDay,
    Ready,
)
from velo.serving.api.service import Service
from velo.serving.scoring.scored import ScoredRace

races = APIRouter(prefix="/v1", tags=["races"], default_response_class=Response)
operations = APIRouter(tags=["operations"], default_response_class=Response)
curves = APIRouter(prefix="/v1", tags=["curves"], default_response_class=Response)
JSON: Final = "application/json"
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
POINTS: Final = 400
MOST_POINTS: Final = 2000
EVENT_ID: Final = r"^\d{1,15}-\d{1,9}$"

RaceId = Annotated[str, Path(min_length=1, max_length=200, pattern=RACE_ID, description="A race's id.")]
AsOf = Annotated[
    Instant | None, Query(description="Score with what was known then (ISO 8601 with an offset); now without it.")
]
Drivers = Annotated[bool, Query(description="Add the drivers of each probability: some milliseconds more.")]
CurveAsOf = Annotated[
    Instant | None, Query(description="Changes known at this instant (ISO 8601 with an offset); now without it.")
]
Since = Annotated[Instant | None, Query(description="Leave out rows that had ended by this instant.")]
Points = Annotated[int, Query(ge=2, le=MOST_POINTS, description="The most changes to return, evenly selected.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="Chosen by the client, a new one for each message: a repeat with the same key and body is written once.",
    ),
]
Pool = Literal["exacta", "quinella", "trifecta", "trio", "first four", "quartet"]


def _answers(model: type, *refusals: int) -> dict[int | str, dict[str, Any]]:
    """The documented answers of a route that reads: its model, and the refusals that every read may get besides its own."""
    return {200: {"model": model}, **documented(*sorted((*refusals, 422, 429, 503)))}


async def service_of(request: Request) -> Service:
    """The service behind the application; async, or every request would wait for a thread to look it up."""
    service: Service = request.app.state.service
    return service


async def lanes_of(request: Request) -> Lanes:
    """The lanes of this process."""
    return Lanes.here(request.app.state.client_share)


def spend(client: str, turns: Lanes) -> None:
    """Count a score that needs a line of its own in the score log."""
    turns.allowance.spend(client, asyncio.get_running_loop().time())


Client = Annotated[str, Depends(client_of)]
Asked = Annotated[Service, Depends(service_of)]
Turns = Annotated[Lanes, Depends(lanes_of)]


@dataclass(frozen=True, slots=True)
class Posting:
    """A client's message about a race, to be written to the log once for its `key`."""

    service: Service
    turns: Lanes
    client: str
    race_id: str
    key: str | None

    async def written(self, take: Callable[..., dict[str, Any]], given: object) -> Response:
        """Have the service `take` what was `given`; answers 202."""
        taken = partial(take, self.race_id, given, self.key)
        return _json(await self.turns.odds.run(self.client, self.service.insisted, taken), 202)


async def posting_of(
    service: Asked, turns: Turns, client: Client, race_id: RaceId, idempotency_key: IdempotencyKey = None
) -> Posting:
    """What every message about a race is posted with."""
    return Posting(service, turns, client, race_id, idempotency_key)


Posted = Annotated[Posting, Depends(posting_of)]


def _accepts(kind: str) -> Callable[[Endpoint], Endpoint]:
    """Declare a route that writes a message about a race to the log, for a client with the token."""
    return races.post(
        f"/races/{{race_id:path}}/{kind}",
        status_code=202,
        responses={202: {"model": OddsAccepted}, **documented(401, 403, 404, 408, 413, 422, 429, 503)},
        dependencies=[Depends(may_write)],
    )


@races.get("/races", responses=_answers(Day))
async def list_races(
    service: Asked,
    turns: Turns,
    client: Client,
    day: Annotated[RaceDay | None, Query(alias="date", description="A local date; today without it.")] = None,
) -> Response:
    """The races of a day in order of off time."""
    return _json(await turns.quick.run(client, service.insisted, service.day, day))


@races.get("/races/{race_id:path}/score", responses=_answers(ScoredRace, 404))
async def score_race(
    service: Asked, turns: Turns, client: Client, race_id: RaceId, as_of: AsOf = None, *, drivers: Drivers = False
) -> Response:
    """A race scored as of now, or exactly as it would have been scored at an instant."""
    lane = turns.quick if as_of is None else turns.slow
    if as_of is not None:
        spend(client, turns)
    return _json(await lane.run(client, service.insisted, service.score, race_id, as_of, with_drivers=drivers))


@races.get("/races/{race_id:path}/form", responses=_answers(FormOut, 404))
async def race_form(service: Asked, turns: Turns, client: Client, race_id: RaceId) -> Response:
    """The form lines of a race's horses and the odds known: as of now, or as of the decision time of a race that was run."""
    return _json(await turns.slow.run(client, service.insisted, service.form, race_id))


@races.get("/races/{race_id:path}/combinations", responses=_answers(Combinations, 404))
async def race_combinations(
    service: Asked,
    turns: Turns,
    client: Client,
    race_id: RaceId,
    pool: Annotated[Pool, Query(description="The bet.")] = "exacta",
    most: Annotated[int, Query(ge=1, le=500, description="The most combinations to return.")] = 20,
) -> Response:
    """The likeliest combinations of a pool, from the chances of winning; first four is in any order, the quartet in order."""
    return _json(await turns.quick.run(client, service.insisted, service.combinations, race_id, pool, most))


@races.get("/search", responses=_answers(Matches))
async def search(
    service: Asked,
    turns: Turns,
    client: Client,
    q: Annotated[str, Query(min_length=2, max_length=100, description="Part of a name.")],
) -> Response:
    """Horses, trainers, jockeys and coming races whose name or course holds a text."""
    return _json(await turns.slow.run(client, service.insisted, service.search, q))


@_accepts("odds")
async def take_odds(posting: Posted, odds: Annotated[GivenOdds, Body()]) -> Response:
    """Write a snapshot of odds to the log; it takes effect when the stream has read it."""
    return await posting.written(posting.service.take_odds, odds)


@_accepts("withdrawals")
async def take_withdrawal(posting: Posted, body: Annotated[GivenWithdrawal, Body()]) -> Response:
    """Write a withdrawal to the log; it takes effect when the stream has read it."""
    return await posting.written(posting.service.take_withdrawal, body)


@_accepts("reinstatements")
async def take_reinstatement(posting: Posted, body: Annotated[GivenReinstatement, Body()]) -> Response:
    """Reinstate a withdrawn horse, in the log; it takes effect when the stream has read it."""
    return await posting.written(posting.service.take_reinstatement, body.horse_id)


@races.get("/races/{race_id:path}", responses=_answers(Card, 404))
async def show_race(service: Asked, turns: Turns, client: Client, race_id: RaceId) -> Response:
    """The state of a race: its runners and non-runners, the odds, and its messages."""
    return _json(await turns.quick.run(client, service.insisted, service.card, race_id))


@races.post("/score", responses=_answers(ScoredRace, 408, 413))
async def score_card(
    service: Asked, turns: Turns, client: Client, card: Annotated[GivenCard, Body()], *, drivers: Drivers = False
) -> Response:
    """Score a card, with or without odds, on the current features."""
    spend(client, turns)
    return _json(await turns.quick.run(client, service.insisted, service.score_card, card, with_drivers=drivers))


@races.get(
    "/events",
    responses={200: {"content": {"text/event-stream": {}}}, **documented(422, 429, 503)},
    response_class=StreamingResponse,
)
async def listen(
    request: Request,
    client: Client,
    last_event_id: Annotated[
        str | None, Header(pattern=EVENT_ID, description="The id of the last event received.")
    ] = None,
    after: Annotated[
        str | None,
        Query(
            pattern=EVENT_ID, description="As `Last-Event-ID`, for a first connection, on which a browser sends none."
        ),
    ] = None,
) -> StreamingResponse:
    """Server-sent events: the id, the type and the race of each message as the stream reads it."""
    hub: Hub = request.app.state.hub
    lines = await hub.listen(last_event_id or after, client)
    return StreamingResponse(lines, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _add_key_routes(kind: Kind, changes: str, record: str) -> None:
    """Add the routes `/v1/{kind}s/ID/history` and `/v1/{kind}s/ID/record`, with their descriptions."""
    id_of = Path(alias=f"{kind}_id", min_length=1, max_length=200, description="The key, as on a card.")

    async def history(
        service: Asked,
        turns: Turns,
        client: Client,
        key: Annotated[str, id_of],
        as_of: CurveAsOf = None,
        since: Since = None,
        points: Points = POINTS,
    ) -> Response:
        return await turns.slow.run(client, _curve, service, kind, key, as_of, since, points)

    async def record_of(service: Asked, turns: Turns, client: Client, key: Annotated[str, id_of]) -> Response:
        return _json(await turns.slow.run(client, service.insisted, service.record, kind, key))

    routes: Sequence[tuple[str, Callable[..., Any], type, str]] = (
        ("history", history, Curves, changes), ("record", record_of, KeyRecord, record),
    )  # fmt: skip
    for name, endpoint, model, description in routes:
        curves.get(
            f"/{kind}s/{{{kind}_id:path}}/{name}",
            name=f"{kind}_{name}",
            description=description,
            responses=_answers(model, 404),
        )(endpoint)


_add_key_routes(
    "horse",
    "A horse's record and form as they changed.",
    "A horse's coming races, its records, and every start with its Elo rating and figure after it.",
)
_add_key_routes(
    "trainer",
    "A trainer's rolling windows as they changed.",
    "A trainer's runners of today and later, records and last starts.",
)
_add_key_routes(
    "jockey",
    "A jockey's rolling windows as they changed.",
    "A jockey's rides of today and later, records and last starts.",
)


@operations.get("/healthz", responses={200: {"model": Health}})
async def health() -> Response:
    """Answer while the process runs."""
    return _json({"status": "ok"})


@operations.get(
    "/readyz",
    responses={200: {"model": Ready}, 503: {"model": Ready, "description": "Not ready."}},
)
async def readiness(service: Asked, turns: Turns, client: Client) -> Response:
    """Whether a race can be scored now, and if not, why."""
    state = await turns.quick.run(client, service.ready)
    answer = _json(state, 200 if state["ready"] else 503)
    if not state["ready"]:
        answer.headers["Retry-After"] = RETRY_AFTER_S
    return answer


@operations.get("/metrics", responses={200: {"content": {"text/plain": {}}}})
async def metrics(service: Asked, request: Request) -> Response:
    """Metrics for Prometheus."""
    service.metrics.listeners.set(request.app.state.hub.listeners)
    return Response(service.metrics.written(), media_type=CONTENT_TYPE_LATEST)


def _curve(
    service: Service, kind: Kind, key: str, as_of: datetime | None, since: datetime | None, points: int
) -> Response:
    return _json(curves_of(service.store.home, kind, key, as_of or service.clock(), since, points))


def _json(value: ScoredRace | Curves | dict[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(value, option=orjson.OPT_UTC_Z), status, media_type=JSON)
