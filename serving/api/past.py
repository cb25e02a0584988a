"""Form lines of a race, the record of a horse, trainer or jockey, and the search of names."""

from calendar import month_name
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from velo.errors import UserError
from velo.feature_repo.stores import changelog
from velo.feature_repo.stores.parts import Snapshot
from velo.racing.cards import Declared, decision_time, declared_at, result_known_at
from velo.racing.clock import local_date, local_midnight, to_text
from velo.racing.form_line import figures, marks
from velo.racing.going import distance_band, going_group
from velo.racing.jurisdiction import DEFAULT, UNKNOWN
from velo.racing.messages import Market, Message, instant_of
from velo.serving.api.curves import UnknownKey
from velo.serving.api.days import line_of
from velo.serving.api.schemas import RunOut
from velo.serving.scoring.past_runs import MEMORY_LIMIT, Kind, PastRun, PastRuns
from velo.serving.scoring.scorer import Scorer
from velo.storage.store import Store

LINE_RUNS: Final = 6
PRICES: Final = 60
"""The most odds snapshots in a form answer, evenly selected and with the last one."""
AHEAD: Final = timedelta(days=14)
"""How far ahead a declared race is looked for."""
FOUND: Final = 20
LEAD: Final = timedelta(minutes=5)
"""The decision time before the off if there is no model."""
PLACES: Final = DEFAULT.places


@dataclass(slots=True)
class Past:
    """Reads form lines, records and names of one store. Safe for threads."""

    store: Store
    scorer: Scorer
    runs: PastRuns = field(init=False)

    def __post_init__(self) -> None:
        self.runs = PastRuns(self.store.home, self.scorer.history.log)

    def form(self, race_id: str, now: datetime) -> dict[str, Any]:
        """The form line of each declared horse of a race, and the odds known, as of its decision time, or of now before it.

        Raises `UserError` for a race without declared runners by then.
        """
        messages = self._messages(race_id)
        as_of = self._as_of(messages, now)
        race = declared_at(messages, as_of)
        if race is None:
            raise UserError(f"race {race_id!r} had no declared runner by {to_text(as_of)}: load its card")
        horses = [runner.horse_id for runner in (*race.runners, *race.withdrawn)]
        past = self.runs.of("horse", horses, as_of)
        lines = [_line(horse, past[horse], race) for horse in horses]
        return {"race_id": race_id, "as_of": to_text(as_of), "runners": lines, "prices": _prices(messages, as_of)}

    def record(self, kind: Kind, key: str, now: datetime) -> dict[str, Any]:
        """Every known start of a horse, trainer or jockey, its records and its coming races.

        Records are by course, distance and going; of trainers and jockeys also by month and by first headgear.

        Raises `UnknownKey` for a key that has neither a start nor a declared race.
        """
        coming, name = self._coming(kind, key, now)
        runs = self.runs.of(kind, [key], now)[key]
        if not runs and not coming:
            raise UnknownKey(
                f"{kind} {key!r} has no start and no declared race by {to_text(now)}: use the {kind}_id of a card"
            )
        after = self._after(key, now) if kind == "horse" and runs else {}
        labels: list[tuple[str, Callable[[PastRun], str | None]]] = [
            ("course", _course), ("distance", _distance), ("going", _going)
        ]  # fmt: skip
        if kind != "horse":
            labels += [("headgear", self._headgear(runs, now)), ("month", _month)]
        return {
            "kind": kind,
            "id": key,
            "name": name or next((named for run in runs if (named := getattr(run, kind))), key),
            "as_of": to_text(now),
            "coming": coming,
            "starts": len(runs),
            "records": [{"by": by, "lines": records(runs, label)} for by, label in labels],
            "runs": [
                _run(run) | after.get(run.known_at, _NOT_RATED) for run in runs[: len(runs) if kind == "horse" else 60]
            ],
        }

    def _headgear(self, runs: Sequence[PastRun], now: datetime) -> Callable[[PastRun], str | None]:
        """Whether a start's headgear was the horse's first, by all its known starts; None for a start without headgear."""
        horses = {run.horse_id for run in runs if run.headgear}
        first: dict[str, tuple[datetime, str]] = {}
        for horse, every in (self.runs.of("horse", horses, now) if horses else {}).items():
            worn = [(run.off_time, run.race_id) for run in every if run.headgear]
            first[horse] = min(worn)

        def label(run: PastRun) -> str | None:
            if not run.headgear:
                return None
            return FIRST_TIME if (run.off_time, run.race_id) == first[run.horse_id] else WORN_BEFORE

        return label

    def search(self, text: str, now: datetime) -> list[dict[str, str]]:
        """Horses, trainers, jockeys and courses of races whose name holds a text, those that begin with it first."""
        wanted = text.casefold().strip()
        found: dict[tuple[str, str], str] = {}
        for race in self._declared(now):
            if wanted in race.race.course.casefold():
                found[("race", race.race.race_id)] = f"{race.race.course}, {to_text(race.race.off_time)}"
            for runner in (*race.runners, *race.withdrawn):
                for kind in ("horse", "trainer", "jockey"):
                    key, name = getattr(runner, f"{kind}_id"), getattr(runner, kind)
                    if key and wanted in (name or key).casefold():
                        found[(kind, key)] = name or key
        for kind, key, name in self._named(wanted, now):
            found.setdefault((kind, key), name)
        order = sorted(found.items(), key=lambda item: (not item[1].casefold().startswith(wanted), item[1].casefold()))
        return [{"kind": kind, "id": key, "name": name} for (kind, key), name in order[:FOUND]]

    def _messages(self, race_id: str) -> Sequence[Message]:
        return self.scorer.history.messages(race_id).messages

    def _as_of(self, messages: Sequence[Message], now: datetime) -> datetime:
        """The decision time of a race that was run; now before its result."""
        known_at = result_known_at(messages)
        if known_at is None or known_at > now:
            return now
        try:
            lead = timedelta(seconds=self.scorer.bundles.current().lead_s)
        except UserError:
            lead = LEAD
        return min(now, decision_time(messages, lead) or now)

    def _declared(self, now: datetime) -> list[Declared]:
        begin = local_midnight(local_date(now, self.store.timezone), self.store.timezone)
        stored = self.scorer.online.races(begin, now + AHEAD)
        return [race for race_stored in stored if (race := declared_at(race_stored.messages, now)) is not None]

    def _coming(self, kind: Kind, key: str, now: datetime) -> tuple[list[dict[str, Any]], str | None]:
        """The races of today and later that a key is declared in, each with its runners of that key, and the key's name."""
        begin = local_midnight(local_date(now, self.store.timezone), self.store.timezone)
        lines, name = [], None
        for stored in self.scorer.online.races(begin, now + AHEAD):
            race, line = declared_at(stored.messages, now), line_of(stored.messages, now)
            if race is None or line is None:
                continue
            runners = [runner for runner in race.runners if getattr(runner, f"{kind}_id") == key]
            for runner in runners:
                name = getattr(runner, kind) or name
                named = {
                    kind: getattr(runner, kind) or getattr(runner, f"{kind}_id")
                    for kind in ("horse", "jockey", "trainer")
                }
                lines.append(line | named | {"horse_id": runner.horse_id})
        return lines, name

    def _after(self, horse: str, as_of: datetime) -> dict[datetime, dict[str, float | None]]:
        """A horse's Elo rating and figure after each result, by the instant at which it became known."""
        if not self.runs.parts():
            return {}
        look = Snapshot()
        found: dict[datetime, dict[str, float | None]] = {}
        with changelog.engine(MEMORY_LIMIT) as connection:
            for view, column, name in (("horse_elo", "elo", "elo"), ("horse_ability", "figure_last", "figure")):
                parts = look.parts(self.store.home.offline / view)
                if not parts:
                    continue
                query = (
                    f"SELECT event_timestamp, {column} FROM {changelog.scan(parts, changelog.BY_NAME)}"  # noqa: S608
                    " WHERE horse_id = $key AND event_timestamp <= $as_of"
                )
                for at, value in connection.execute(query, {"key": horse, "as_of": as_of}).fetchall():
                    found.setdefault(at, dict(_NOT_RATED))[name] = value
        return found

    def _named(self, wanted: str, as_of: datetime) -> Iterable[tuple[str, str, str]]:
        parts = self.runs.parts()
        if not parts:
            return []
        each = " UNION ALL ".join(_NAMED.format(kind=kind, found=FOUND) for kind in ("horse", "trainer", "jockey"))
        query = f"WITH messages AS (FROM {changelog.scan(parts, changelog.BY_NAME)} WHERE known_at <= $as_of) {each}"
        with changelog.engine(MEMORY_LIMIT) as connection:
            rows = connection.execute(query, {"wanted": wanted, "as_of": as_of}).fetchall()
        return [(kind, key, name or key) for kind, key, name in rows]


FIRST_TIME: Final = "first time"
WORN_BEFORE: Final = "worn before"


def records(runs: Sequence[PastRun], label_of: Callable[[PastRun], str | None]) -> list[dict[str, Any]]:
    """Starts, wins and places (by the number of starters) of `runs` by label, most starts first; None leaves a start out.

    Months come in the order of the year.
    """
    found: dict[str, list[int]] = {}
    for run in runs:
        label = label_of(run)
        if label is not None:
            counts = found.setdefault(label, [0, 0, 0])
            counts[0] += 1
            counts[1] += run.position == 1
            counts[2] += run.position is not None and run.position <= PLACES(run.starters)
    months = list(month_name) if label_of is _month else []
    ordered = sorted(found.items(), key=lambda item: (months.index(item[0]) if months else -item[1][0], item[0]))
    return [{"name": label, "starts": counts[0], "wins": counts[1], "places": counts[2]} for label, counts in ordered]


_NAMED: Final = """(
    SELECT '{kind}', {kind}_id, arg_max({kind}, seq) AS name FROM messages WHERE {kind}_id IS NOT NULL GROUP BY {kind}_id
    HAVING contains(lower(coalesce(name, {kind}_id)), $wanted)
    ORDER BY NOT starts_with(lower(coalesce(name, {kind}_id)), $wanted), name LIMIT {found}
)"""
"""The names of a kind that hold a text, each the last one that its key was given."""
_NOT_RATED: Final[dict[str, float | None]] = {"elo": None, "figure": None}


def _course(run: PastRun) -> str:
    return run.course


def _distance(run: PastRun) -> str | None:
    band = distance_band(run.distance_m)
    return None if band == UNKNOWN else band


def _going(run: PastRun) -> str | None:
    group = going_group(run.going)
    return None if group == UNKNOWN else group


def _month(run: PastRun) -> str:
    return month_name[run.race_date.month]


def _line(horse: str, runs: Sequence[PastRun], race: Declared) -> dict[str, Any]:
    return {
        "horse_id": horse,
        "figures": figures(runs),
        "marks": marks(runs, race.race.course, race.race.distance_m),
        "days": (race.race.race_date - runs[0].race_date).days if runs else None,
        "runs": [_run(run) for run in runs[:LINE_RUNS]],
    }


def _run(run: PastRun) -> dict[str, Any]:
    return {name: getattr(run, name) for name in RunOut.model_fields}


def _prices(messages: Sequence[Message], as_of: datetime) -> list[dict[str, Any]]:
    """The odds snapshots known by an instant, oldest first, at most `PRICES` of them."""
    known = [
        each for each in messages if isinstance(each, Market) and each.known_at is not None and each.known_at <= as_of
    ]
    snapshots = [(instant_of(market), market.prices) for market in sorted(known, key=instant_of)]
    step = max(1.0, (len(snapshots) - 1) / (PRICES - 1))
    places = {round(step * at) for at in range(min(len(snapshots), PRICES))} | {max(0, len(snapshots) - 1)}
    return [
        {"known_at": to_text(at), "prices": dict(prices)}
        for at, prices in (snapshots[p] for p in sorted(places) if snapshots)
    ]
