"""OpenLineage events of the service's scores, sent from the score log in the background: no score waits for a collector.

The position up to which events were taken is stored beside the score log, in `scores/lineage.json`. So a collector that is down
gets them when it is back, from this process or a later one. An event may be sent twice, then with the same run id.
"""

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

from velo.api.lineage import LOG, SENDING_FAILED, Dataset, Events, LineageRun, events_of
from velo.errors import UserError
from velo.serving.scoring.score_log import ScorePosition, Served, log_end, served_after
from velo.settings import lineage_configured
from velo.storage.atomic_files import make_folder, write_atomically
from velo.storage.locks import LockHeld, holding
from velo.storage.store import Home, Store

_log = logging.getLogger(__name__)
JOB: Final = "score"
EVERY_S: Final = 2.0
"""Seconds between reads of the score log."""
MOST_S: Final = 300.0
"""The longest pause before a collector that did not take an event gets it again; the first is `EVERY_S`, each next one double."""
AT_ONCE: Final = 200
"""Lines of the score log after which the position is stored."""
RACES: Final = 1000
"""Races whose last score is remembered."""
REFUSED: Final = frozenset({400, 413, 422})
"""Answers of a collector that will never take an event: it is logged and left out, and the next ones are sent."""


class ScoreEvents:
    """Sends the events of the scores in a store's score log.

    Scores of a race that differ in their instants alone are one run. Without a stored position it begins at the log's present end.
    """

    def __init__(self, store: Store, events: Events) -> None:
        self._home, self._events = store.home, events
        self._models: dict[str, LineageRun] = {}
        self._last: dict[str, bytes] = {}

    def position(self) -> ScorePosition:
        """The stored position."""
        try:
            return ScorePosition(**json.loads(_beside(self._home, "json").read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            self._store(begin := log_end(self._home))
            return begin

    def send_new(self) -> int:
        """Send the events of the scores logged after the stored position; returns the number of runs.

        Raises one of `SENDING_FAILED` where the collector did not take an event: the next call begins with it.
        """
        sent = unstored = 0
        reached = stored = self.position()
        try:
            for after, score in served_after(self._home, stored):
                sent += score is not None and self._send(score)
                reached, unstored = after, unstored + 1
                if unstored == AT_ONCE:
                    self._store(reached)
                    stored, unstored = reached, 0
        finally:
            if reached != stored:
                self._store(reached)
        return sent

    def follow(self, stop: Event) -> None:
        """Send until `stop` is set; one process of a store sends at a time."""
        pause = EVERY_S
        while not stop.is_set():
            try:
                with holding(_beside(self._home, "lock")):
                    while not stop.is_set():
                        self.send_new()
                        pause = EVERY_S
                        stop.wait(EVERY_S)
            except LockHeld:
                stop.wait(EVERY_S)
            except (UserError, *SENDING_FAILED) as failed:
                if pause == EVERY_S:
                    _log.warning("lineage.not_sent job=%s reason=%s", JOB, failed)
                stop.wait(pause)
                pause = min(2.0 * pause, MOST_S)

    def begin(self) -> None:
        """Store the position to begin at, unless a process that sends has done so."""
        with suppress(LockHeld, UserError, OSError), holding(_beside(self._home, "lock")):
            self.position()

    def _send(self, score: Served) -> bool:
        """Send the two events of a score; False where the last score of its race had the same outcome."""
        from openlineage.client.facet_v2 import nominal_time_run

        content = json.dumps([score.model, score.fingerprint, score.chances, score.market], sort_keys=True).encode()
        if self._last.get(score.race_id) == content:
            return False
        made = self._made_by(score.model)
        run_id = self._events.run_id(score.scored_at, score.race_id.encode() + content)
        facets: dict[str, Any] = {"nominalTime": nominal_time_run.NominalTimeRunFacet(score.as_of.isoformat())}
        scored = [replace(each, name=f"scores/{score.race_id}") for each in made.outputs]
        try:
            for state, outputs in (("START", []), ("COMPLETE", scored)):
                run = LineageRun(sent=True, inputs=made.inputs, outputs=outputs)
                self._events.send(JOB, run_id, state, score.scored_at, run, facets)
        except SENDING_FAILED as failed:
            if getattr(getattr(failed, "response", None), "status_code", None) not in REFUSED:
                raise
            _log.warning("lineage.refused job=%s race_id=%s reason=%s", JOB, score.race_id, failed)
        if len(self._last) >= RACES:
            del self._last[next(iter(self._last))]
        self._last[score.race_id] = content
        return True

    def _made_by(self, model: str) -> LineageRun:
        """The datasets of a score by a model; the model alone if it is no longer stored."""
        if model not in self._models:
            run = LineageRun(sent=True, inputs=[LOG])
            try:
                run.used_model(self._home, model, JOB)
            except UserError:
                run = LineageRun(sent=True, inputs=[LOG, Dataset(f"models/{model}")], outputs=[Dataset(JOB)])
            self._models[model] = run
        return self._models[model]

    def _store(self, position: ScorePosition) -> None:
        write_atomically(_beside(self._home, "json"), json.dumps(asdict(position)).encode())


def _beside(home: Home, suffix: str) -> Path:
    return make_folder(home.scores) / f"lineage.{suffix}"


def follow_scores(store: Store) -> Callable[[], None]:
    """Send the events of the service's scores in the background where OpenLineage is configured; returns what ends that."""
    events = events_of(store) if lineage_configured() else None
    if events is None:
        return lambda: None
    scores, stop = ScoreEvents(store, events), Event()
    scores.begin()
    thread = Thread(target=scores.follow, args=(stop,), name="lineage", daemon=True)
    thread.start()

    def end() -> None:
        stop.set()
        thread.join()

    return end
