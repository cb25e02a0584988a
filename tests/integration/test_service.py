"""The service says the truth or says why not: every answer as its document has it, every refusal in one line."""

import json
import math
import re
import shutil
import threading
from dataclasses import replace
from datetime import date, timedelta
from math import log
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from pydantic import TypeAdapter

from tests.support.seasons import opened
from tests.support.services import (
    NOW,
    ODDS,
    OFF,
    RACE,
    RUNNERS,
    SCORE,
    STORY,
    WRITES,
    a_client,
    a_service,
    posted,
    refused,
    tell,
)
from velo.feature_repo.stores.embedded_redis import down
from velo.racing.messages import GoingChange, JockeyChange, NonRunner, Racecard, Runner
from velo.serving.api.schemas import Card, Combinations, Day, FormOut
from velo.serving.scoring.bundles import Bundles
from velo.serving.scoring.score_audit import audit_scores
from velo.serving.scoring.scored import ScoredRace
from velo.serving.ui import pages
from velo.storage import table_versions
from velo.storage.store import Store
from velo.streams.status import status

SCORED = TypeAdapter(ScoredRace)


@pytest.fixture(scope="module")
def store(streamed_store: Store) -> Store:
    return streamed_store


@pytest.fixture(scope="module")
def client(store: Store) -> TestClient:
    return a_client(a_service(store))


@pytest.fixture(scope="module")
def later(store: Store) -> TestClient:
    """A client just after the off, when every message that these tests send is known."""
    return a_client(a_service(store, lambda: OFF + timedelta(seconds=1)))


# What is answered


def test_a_score_is_as_the_document_says_and_sums_to_one(client: TestClient) -> None:
    answer = client.get(SCORE, params={"drivers": "true"})
    scored = SCORED.validate_json(answer.content)
    assert sum(runner.probability for runner in scored.runners) == pytest.approx(1.0, abs=1e-9)
    assert scored.withdrawn == ("Horse 7",)
    assert scored.features_from == "redis"
    assert any(runner.drivers for runner in scored.runners)
    assert all(runner.interval is None for runner in scored.runners), "of so few races no interval is made up"


def test_the_day_and_the_card_are_as_the_document_says(client: TestClient) -> None:
    day = Day.model_validate_json(client.get("/v1/races").content)
    assert [(race.race_id, race.status, race.runners, race.withdrawn) for race in day.races] == [
        ("to come", "to come", 7, 1)
    ]
    assert day.model is not None
    card = Card.model_validate_json(client.get("/v1/races/to%20come").content)
    assert [change.type for change in card.changes] == ["racecard", "market", "market", "market", "non_runner"]
    assert {runner.horse_id: runner.odds for runner in card.declared}["horse 3"] == 6.0
    before = Day.model_validate_json(client.get("/v1/races", params={"date": "2023-05-24"}).content)
    assert {race.status for race in before.races} == {"run"}


def test_a_posted_card_scores_as_the_declared_one_does(client: TestClient) -> None:
    """The same runners and race, the same vectors."""
    runners = [runner for runner in posted()["runners"] if runner["horse_id"] != "horse 7"]
    for runner, full in zip(runners, [each for each in RUNNERS if each.horse_id != "horse 7"], strict=True):
        runner["official_rating"], runner["body_weight_lbs"] = full.official_rating, full.body_weight_lbs
    answer = client.post("/v1/score", json=posted(race_class=3, runners=runners))
    assert answer.status_code == 200, answer.text
    assert answer.json()["fingerprint"] == client.get(SCORE).json()["fingerprint"]


def test_asked_as_of_its_instant_a_score_is_the_same_to_the_last_bit(client: TestClient) -> None:
    now = client.get(SCORE).json()
    then = client.get(SCORE, params={"as_of": now["as_of"]}).json()
    assert (now["features_from"], then["features_from"]) == ("redis", "offline history")
    assert now["runners"] == then["runners"]
    assert now["fingerprint"] == then["fingerprint"]


def test_a_score_says_how_the_odds_moved_by_then_and_why_a_move_is_unknown(client: TestClient) -> None:
    """As of 12:30, the log's end, the last odds are of 12:20, those half an hour before of 12:00, an hour before there were none.

    Of horses 1 to 6, with odds in both: 1 ÷ (4 + n) then, 1 ÷ (3 + n) now, each of its sum.
    """
    runners = {runner["horse_id"]: runner for runner in client.get(SCORE).json()["runners"]}
    assert "horse 7" not in runners
    first, last = runners["horse 1"], runners["horse 8"]
    assert (first["moves"]["price"], first["moves"]["rank"], last["moves"]["rank"]) == (4.0, 1.0, 7.0)
    then, now = (sum(1 / (more + n) for n in range(1, 7)) for more in (4, 3))
    assert first["moves"]["drift_30m"] == pytest.approx(math.log((1 / 5 / then) / (1 / 4 / now)), abs=1e-6)
    assert first["moves"]["drift_60m"] is None
    assert first["unknown_moves"].keys() == {"drift_60m", "drift_10m", "drift_5m", "volume", "volume_share"}
    assert last["moves"]["drift_30m"] is None
    assert last["unknown_moves"]["drift_30m"] == "the odds then do not name the runner"


def test_every_served_score_is_made_again_and_a_changed_line_is_found(store: Store, client: TestClient) -> None:
    client.get(SCORE)
    client.post("/v1/score", json=posted(runners=[runner | {"odds": 4.5} for runner in posted()["runners"]]))
    scorer = a_service(store).scorer
    report = audit_scores(scorer, OFF)
    assert (report.found, report.later) == (0, 0)
    assert report.scores == report.same >= 2
    path = max(store.home.scores.glob("*.ndjson"))
    whole = path.read_bytes()
    try:
        path.write_bytes(whole.replace(b'"race_id":"to come"', b'"race_id":"to cone"', 1) + b'{"crc":"00')
        found = audit_scores(scorer, OFF)
        assert found.found == 2
        assert "damaged" in found.differences[0].what
    finally:
        path.write_bytes(whole)


def test_odds_and_stakes_go_into_the_log_and_are_scored_with(store: Store, client: TestClient) -> None:
    """Horse 2 has stakes and no price; horse 3 has neither."""
    given = {"prices": {"horse 1": 9.5}, "source": "desk", "volumes": {"horse 1": 300, "horse 2": 100.0}}
    taken = client.post(ODDS, json=given, headers=WRITES)
    assert taken.status_code == 202
    assert taken.json()["into"] == "log"
    tell(store)
    runners = {runner["horse_id"]: runner for runner in client.get(SCORE).json()["runners"]}
    assert runners["horse 1"]["market_odds"] == 9.5
    assert runners["horse 2"]["market_odds"] is None
    moves = [runners[f"horse {n}"]["moves"] for n in (1, 2, 3)]
    assert [(of["volume"], of["volume_share"]) for of in moves] == [(300.0, 0.75), (100.0, 0.25), (None, None)]
    assert runners["horse 3"]["unknown_moves"]["volume"] == "the source says no stakes"


def test_a_withdrawal_and_another_jockey_are_scored_with_at_once_and_the_past_stays(
    store: Store, later: TestClient
) -> None:
    """The substitute's own features are read; as of before, all is as it was."""
    before = later.get(SCORE).json()
    tell(store, NonRunner("to come", "horse 8"), JockeyChange("to come", "horse 1", "jockey 5", "Jockey 5"), at=OFF)
    after = later.get(SCORE).json()
    assert {runner["horse_id"] for runner in before["runners"]} - {
        runner["horse_id"] for runner in after["runners"]
    } == {"horse 8"}
    assert sum(runner["probability"] for runner in after["runners"]) == pytest.approx(1.0, abs=1e-9)
    assert next(runner for runner in after["runners"] if runner["horse_id"] == "horse 1")["jockey_id"] == "jockey 5"
    assert before["fingerprint"] != after["fingerprint"]
    for each in (before, after):
        again = later.get(SCORE, params={"as_of": each["as_of"]})
        assert again.status_code == 200, again.text
        assert again.json()["runners"] == each["runners"]


def test_events_are_sent_as_the_stream_takes_them_and_from_the_last_one_had(store: Store) -> None:
    service = a_service(store)
    with TestClient(a_client(service).app, base_url="http://localhost") as listening:
        app: Any = listening.app
        found: list[str] = []

        async def listen() -> None:
            lines = await app.state.hub.listen("0-0")
            async for line in lines:
                found.append(line.decode())
                if sum(each.count("data:") for each in found) >= len(service.scorer.online.events_after("0-0")):
                    break
            await lines.aclose()

        assert listening.portal is not None
        listening.portal.call(listen)
    data = [json.loads(line[6:]) for each in found for line in each.splitlines() if line.startswith("data: ")]
    assert {each["race_id"] for each in data} >= {"to come"}
    assert [each["seq"] for each in data] == sorted({each["seq"] for each in data})


def test_a_declared_horse_without_a_name_or_a_start_has_a_record(store: Store, later: TestClient) -> None:
    race = replace(RACE, race_id="in three days", race_date=date(2023, 6, 4), off_time=OFF + timedelta(days=3))
    tell(store, Racecard(race, (Runner("nameless"),)), at=OFF)
    record = later.get("/v1/horses/nameless/record")
    assert record.status_code == 200, record.text
    assert (record.json()["name"], record.json()["starts"]) == ("nameless", 0)
    assert [each["race_id"] for each in record.json()["coming"]] == ["in three days"]


def test_a_browser_keeps_the_files_of_a_page_until_they_change(client: TestClient) -> None:
    """The page itself is asked for each time, and names its files by their version; another version is not kept."""
    page = client.get("/race")
    assert page.headers["cache-control"] == "no-store"
    files = re.findall(r'(?:src|href)="(/desk/[^"]+)"', page.text)
    assert sorted(path.rpartition("/")[2] for path in files) == ["desk.css", "desk.js", "icon.svg"]
    for path in files:
        kept = client.get(path)
        assert (kept.status_code, kept.headers["cache-control"]) == (200, "max-age=31536000, immutable")
        _, _, version, name = path.split("/")
        for other in (f"/desk/{name}", f"/desk/{version[::-1]}/{name}"):
            assert client.get(other).headers["cache-control"] == "no-cache"
            assert client.get(other).content == kept.content
    script = client.get("/desk/desk.js").text
    modules = [module.stem for module in Path(pages.__file__).parent.glob("*.js")]
    assert sorted(re.findall(r"^const \$(\w+) = \(\(\) => {$", script, re.MULTILINE)) == sorted(modules)
    assert not re.search(r"^(import|export)\b", script, re.MULTILINE)


def answers_of(page: str) -> dict[str, Any]:
    """The answers in a page; no text in them can end their element."""
    found = re.search(r'<script type="application/json" id="answers">([^<]*)</script>\n</body>', page)
    assert found, page
    answers: dict[str, Any] = json.loads(found[1])
    return answers


def test_a_page_has_the_answers_that_it_shows_first(
    store: Store, later: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each as the interface gives it; a message that they may lack comes as an event after theirs."""
    monkeypatch.setattr(pages, "PROMPT_S", 60.0)
    tell(store, GoingChange("</script><b>", "Heavy"), at=OFF)
    answers = answers_of(later.get("/race", params={"id": "to come"}).text)
    event = answers.pop("event")
    assert "</script><b>" in [message["race_id"] for message in answers["day"]["undeclared"]]
    race = "/v1/races/to%20come"
    paths = {"day": "/v1/races", "card": race, "form": f"{race}/form", "score": f"{SCORE}?drivers=true"}
    assert answers == {name: later.get(path).json() for name, path in paths.items()}
    events = a_service(store).scorer.online.events_after
    assert events(event) == []
    tell(store, GoingChange("elsewhere", "Heavy"), at=OFF)
    assert [each.race_id for each in events(event)] == ["elsewhere"]


@pytest.mark.parametrize(
    ("path", "answered"),
    [
        ("/", {"event", "day"}),
        ("/?date=2023-05-31", {"event", "day"}),
        ("/?date=2023-13-45", {"event"}),
        ("/?date=9999-01-01", {"event"}),
        ("/race?id=nowhere", {"event", "day"}),
        ("/race?id=%07", {"event", "day"}),
        ("/horse?id=horse%201", {"event", "day"}),
    ],
)
def test_a_page_leaves_out_what_is_refused_and_its_script_says_why(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, path: str, answered: set[str]
) -> None:
    monkeypatch.setattr(pages, "PROMPT_S", 60.0)
    page = client.get(path)
    assert (page.status_code, set(answers_of(page.text))) == (200, answered)
    assert client.head(path).status_code == 200


def test_a_page_does_not_wait_for_answers_that_are_late(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PROMPT_S", 0.0)
    assert answers_of(client.get("/race", params={"id": "to come"}).text) == {}


def test_the_status_of_a_store_has_the_rows_keys_and_memory_of_redis(store: Store) -> None:
    assert re.fullmatch(r"[1-9][\d,]* rows; [1-9][\d,]* keys, [1-9]\d* MB", status(store, NOW).online)


def test_figures_are_for_prometheus(client: TestClient) -> None:
    client.get(SCORE)
    assert "velo_serve_score_seconds_bucket" in client.get("/metrics").text
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json()["ready"] is True


def test_requests_beside_one_another_agree(store: Store) -> None:
    at = OFF + timedelta(minutes=1)
    client = a_client(a_service(store, lambda: at))
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(client.get(SCORE).content)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert STORY[0].race_id == json.loads(found[0])["race_id"]
    assert json.loads(found[0])["scored_at"] == at.isoformat().replace("+00:00", "Z")


# What is refused


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic YTpi"}])
def test_a_bad_token_is_refused(client: TestClient, header: dict[str, str]) -> None:
    refused(client.post(ODDS, json={"prices": {"horse 1": 2.0}}, headers=header), 401, "VELO_TOKEN")


def test_without_a_token_set_nothing_is_written(store: Store) -> None:
    closed = a_client(a_service(store), token=None)
    refused(closed.post(ODDS, json={"prices": {"horse 1": 2.0}}, headers=WRITES), 403, "VELO_TOKEN")


def test_an_oversized_body_is_refused_whatever_it_claims(client: TestClient) -> None:
    refused(client.post("/v1/score", content=b" " * 300_000), 413, "262,144 bytes")
    refused(client.post("/v1/score", content=iter([b" " * 65536] * 5)), 413)


def test_an_unknown_race_is_refused(client: TestClient) -> None:
    for path in ("/v1/races/nope", "/v1/races/nope/score"):
        refused(client.get(path), 404, "'nope'")
    refused(client.post("/v1/races/nope/odds", json={"prices": {"a": 2.0}}, headers=WRITES), 404, "'nope'")


def test_sixty_runners_are_refused(client: TestClient) -> None:
    refused(client.post("/v1/score", json=posted(runners=[{"horse_id": f"h{n}"} for n in range(60)])), 422, "40")


@pytest.mark.parametrize("odds", ["1.0", "0.5", "-3", "NaN", "Infinity", '"two"', "true"])
def test_odds_that_are_none_are_refused(client: TestClient, odds: str) -> None:
    body = f'{{"prices": {{"horse 1": {odds}}}}}'
    answer = client.post(ODDS, content=body, headers=WRITES | {"Content-Type": "application/json"})
    refused(answer, 422, "prices")


@pytest.mark.parametrize("stakes", ["-1", "NaN", "Infinity", '"much"', "true", "null"])
def test_stakes_that_are_no_amount_are_refused(client: TestClient, stakes: str) -> None:
    body = f'{{"prices": {{"horse 1": 2.0}}, "volumes": {{"horse 1": {stakes}}}}}'
    answer = client.post(ODDS, content=body, headers=WRITES | {"Content-Type": "application/json"})
    refused(answer, 422, "volumes")


def test_odds_of_a_stranger_a_horse_twice_and_a_future_instant_are_refused(client: TestClient) -> None:
    refused(client.post(ODDS, json={"prices": {"pegasus": 2.0}}, headers=WRITES), 422, "'pegasus'")
    stakes = {"prices": {"horse 1": 2.0}, "volumes": {"pegasus": 2.0}}
    refused(client.post(ODDS, json=stakes, headers=WRITES), 422, "volumes has 'pegasus'")
    refused(client.post("/v1/score", json=posted(runners=[{"horse_id": "h"}] * 2)), 422, "declared twice")
    refused(client.get(SCORE, params={"as_of": "2030-01-01T00:00:00Z"}), 422, "still to come")
    refused(client.get(SCORE, params={"as_of": "2023-05-01T00:00:00Z"}), 404, "no declared runner")
    refused(client.get(SCORE, params={"as_of": "2023-05-01"}), 422, "as_of")


def test_without_a_bundle_or_with_one_of_another_catalogue_nothing_is_scored(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.home.root, tmp_path / "home", symlinks=True, ignore=shutil.ignore_patterns("redis"))
    copied = opened(tmp_path / "home")
    try:
        manifest = copied.home.offline / table_versions.MANIFEST
        written = json.loads(manifest.read_text())
        # a view that the model does not read
        more = written["views"] | {"another": written["views"]["horse_form"]}
        manifest.write_text(json.dumps(written | {"fingerprint": "0" * 32, "views": more}))
        assert Bundles(copied).current().gate == "not run"
        changed = dict.fromkeys(more["horse_form"]["features"], "0" * 16)
        more["horse_form"] = more["horse_form"] | {"fingerprint": "0" * 16, "features": changed}
        manifest.write_text(json.dumps(written | {"fingerprint": "1" * 32, "views": more}))
        other = a_client(a_service(copied))
        refused(other.post("/v1/score", json=posted()), 503, "reads horse_form__", "whose formulas changed")
        shutil.rmtree(copied.home.models)
        none = a_client(a_service(copied))
        refused(none.post("/v1/score", json=posted()), 503, "there is no model", "velo train")
        assert none.get("/readyz").status_code == 503
    finally:
        down(copied.home)


EDGES = (
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-14:00",
    "0001-01-01T00:00:00+14:00",
    "0001-01-01T00:00:00Z",
    "1799-12-31T00:00:00Z",
)


@pytest.mark.parametrize("edge", EDGES)
def test_an_instant_at_the_calendars_edge_is_refused_wherever_it_is_given(client: TestClient, edge: str) -> None:
    for path in (SCORE, "/v1/horses/horse%201/history", "/v1/jockeys/jockey%201/history"):
        refused(client.get(path, params={"as_of": edge}), 422)
    refused(client.get("/v1/horses/horse%201/history", params={"since": edge}), 422)
    refused(client.post("/v1/score", json=posted(off_time=edge)), 422)


@pytest.mark.parametrize("day", ["9999-12-31", "0001-01-01", "2200-01-01"])
def test_a_day_at_the_calendars_edge_is_refused_wherever_it_is_given(client: TestClient, day: str) -> None:
    refused(client.get("/v1/races", params={"date": day}), 422)
    refused(client.post("/v1/score", json=posted(race_date=day)), 422)


@pytest.mark.parametrize(("race_id", "status"), [("a\nb", 404), ("a\x00b", 422), ("\x7f", 422), ("a\x1b[2J", 422)])
def test_a_race_id_with_a_control_character_is_refused(client: TestClient, race_id: str, status: int) -> None:
    """A line's end is part of no address at all."""
    for path in ("/v1/races/{}", "/v1/races/{}/score"):
        refused(client.get(path.format(quote(race_id))), status)
    refused(client.post("/v1/score", json=posted(race_id=race_id)), 422)
    answer = client.post(f"/v1/races/{quote(race_id)}/odds", json={"prices": {"horse 1": 2.0}}, headers=WRITES)
    refused(answer, status)


def test_the_drivers_multiply_to_the_chance_shown_and_places_sum_to_the_terms(later: TestClient) -> None:
    """The market first where the chance is the blend's; what is left out is below a hundredth."""
    score = SCORED.validate_json(later.get(SCORE, params={"drivers": True}).content)
    shown = [each.probability if each.blended is None else each.blended for each in score.runners]
    mean = sum(map(log, shown)) / len(shown)
    for runner, chance in zip(score.runners, shown, strict=True):
        assert abs(sum(driver.effect for driver in runner.drivers) - (log(chance) - mean)) < 0.01
        assert (runner.blended is not None) == runner.drivers[0].words.startswith("price ")
        assert runner.figures is not None
        assert runner.figures.career is None or runner.figures.career[0] >= runner.figures.career[1]
    assert (score.place_terms.places, score.place_terms.fraction) == (2, 0.25), "7 runners"
    assert sum(each.place or 0.0 for each in score.runners) == pytest.approx(2.0)
    assert all(each.place > chance for each, chance in zip(score.runners, shown, strict=True) if each.place is not None)
    plain = SCORED.validate_json(later.get(SCORE).content)
    assert [(each.place, each.drivers, each.figures) for each in plain.runners] == [
        (each.place, (), None) for each in score.runners
    ]


def test_the_form_of_a_race_and_its_combinations_are_of_its_declared_runners(later: TestClient) -> None:
    form = FormOut.model_validate_json(later.get("/v1/races/to%20come/form").content)
    assert {line.horse_id for line in form.runners} == {runner.horse_id for runner in RUNNERS}, "who is withdrawn too"
    for line in form.runners:
        assert len(line.runs) == min(6, len(line.figures.replace("-", "").replace("/", "")))
        assert [run.race_date for run in line.runs] == sorted((run.race_date for run in line.runs), reverse=True)
    assert [snapshot.known_at for snapshot in form.prices] == sorted(snapshot.known_at for snapshot in form.prices)
    assert form.prices
    assert all(snapshot.known_at <= form.as_of for snapshot in form.prices)
    answer = later.get("/v1/races/to%20come/combinations", params={"pool": "quinella", "most": 500})
    found = Combinations.model_validate_json(answer.content)
    assert sum(combination.probability for combination in found.combinations) == pytest.approx(1.0)
    assert later.get("/v1/races/to%20come/combinations", params={"pool": "tote"}).status_code == 422
