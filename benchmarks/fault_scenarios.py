"""The faults of `velo bench faults`: what is damaged, what the user sees, and how the store recovers.

A scenario damages a sandbox and returns what was seen, what was lost and how the store recovered. The caller then verifies the recovery: it loads more results and audits both stores in full.
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from benchmarks import (
    damage_scenarios,
    fault_harness,
    kill_scenarios,
    race_day_scenario,
    redis_scenarios,
    service_scenarios,
)
from benchmarks.fault_harness import NOTHING, Recovery, Sandbox, recovered_by, refused
from benchmarks.stores import now, read_up_to, until
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.redis_client import ANSWER_SECONDS, connect
from velo.settings import Settings
from velo.storage.log import reader
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.audit import audit
from velo.streams.importers.sources.runners import read_runner_tables

TIMES: Final = 5
"""Consecutive kills of a command."""
AWAY_S = 60.0
"""Seconds that Redis is down while results arrive; tests use fewer."""
ANSWER_S = ANSWER_SECONDS
"""Seconds until a stream calls a paused Redis unavailable; tests use fewer."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault: `harm` describes it, `inject` injects it and recovers, and `on_small_disk` asks for a small disk."""

    name: str
    harm: str
    inject: Callable[[Sandbox], Recovery]
    on_small_disk: bool = False


# Killed


def _killed(sandbox: Sandbox, within_s: float, *command: object) -> float:
    """Kill a command at random moments, then run it to its end; returns the seconds of the last run."""
    for _ in range(TIMES):
        running = sandbox.start(*command)
        running.ended(sandbox.chance.uniform(0, within_s))
        running.process.kill()
        running.process.join()
    begun = time.perf_counter()
    sandbox.succeed(*command)
    return round(time.perf_counter() - begun, 1)


def load_killed(sandbox: Sandbox) -> Recovery:
    """Kill a load; repeating it appends the rest."""
    seconds = _killed(sandbox, 0.4, "ingest", "runners", sandbox.later)
    return Recovery("nothing: the process is gone", NOTHING, "the same command again", seconds)


def build_killed(sandbox: Sandbox) -> Recovery:
    """Kill a build; the previous generation is served until the next is complete."""
    sandbox.succeed("ingest", "runners", sandbox.later)
    seconds = _killed(sandbox, 1.5, "build", "--whole")
    return Recovery("nothing: the tables are those of before", NOTHING, "the same command again", seconds)


# Paused, and cut off


def _live(sandbox: Sandbox) -> fault_harness.Running:
    """Start a stream that follows the log, and wait for its midnight tick, after which it appends nothing."""
    before = reader.end(sandbox.home).next_seq
    running = sandbox.start("stream", "--snapshot-seconds", 1)
    running.wait_for("stream.prepared")
    until(lambda: read_up_to(sandbox.home, before + 1, sealed=True))
    return running


def stream_paused(sandbox: Sandbox) -> Recovery:
    """Pause the stream by SIGSTOP while the log grows, then continue it."""
    running = _live(sandbox)
    running.send(signal.SIGSTOP)
    sandbox.succeed("ingest", "runners", sandbox.later, "--late")
    seen = sandbox.succeed("status").line("behind; sealed")
    begun = time.perf_counter()
    running.send(signal.SIGCONT)
    return _caught_up(sandbox, running, f"`velo status`: `{seen}`", begun, "by itself, once it goes on")


def redis_paused(sandbox: Sandbox) -> Recovery:
    """Pause Redis; the stream retries."""
    url = embedded_redis.ensure(sandbox.home)
    url += f"{'&' if '?' in url else '?'}socket_timeout={ANSWER_S:g}"
    running = _live(replace(sandbox, store=Store.open(Settings(sandbox.home.root, redis_url=url))))
    server = _server_of(sandbox)
    os.kill(server, signal.SIGSTOP)
    try:
        sandbox.succeed("ingest", "runners", sandbox.later, "--late")
        seen = _event(running.wait_for("store.unavailable"))
    finally:
        begun = time.perf_counter()
        os.kill(server, signal.SIGCONT)
    return _caught_up(sandbox, running, f"the stream's log: {seen}", begun, "by itself, once Redis answers")


def redis_away(sandbox: Sandbox) -> Recovery:
    """Stop an external Redis while results arrive one by one, then restart it with its saved data."""
    results = read_runner_tables([sandbox.later], sandbox.store).messages
    with fault_harness.redis_server(sandbox.backup.root / "another") as (url, start):
        server = start()
        cut = replace(sandbox, store=Store.open(Settings(sandbox.home.root, redis_url=url)))
        running = _live(cut)
        server.kill()
        server.wait()
        with LogWriter.open(cut.store, clock=now) as writer:
            for result in results:
                writer.append(result)
                writer.sync()
                time.sleep(AWAY_S / len(results))
        seen = _event(running.wait_for("store.unavailable"))
        begun = time.perf_counter()
        start()
        recovery = _caught_up(cut, running, f"the stream's log: {seen}", begun, "by itself, once Redis answers")
        report = audit(cut.store, now(), client=connect(cut.home, url))
        if report.found:
            raise RuntimeError(f"{report.found} values differ after Redis was away: {report.differences[:3]}")
    return recovery


def redis_lost(sandbox: Sandbox) -> Recovery:
    """Kill Redis and delete its data while a stream runs."""
    running = _live(sandbox)
    os.kill(_server_of(sandbox), signal.SIGKILL)
    fault_harness.remove(embedded_redis.data_path(sandbox.home))
    begun = time.perf_counter()
    sandbox.succeed("ingest", "runners", sandbox.later, "--late")
    seen = _event(running.wait_for('"forgot": true'))
    return _caught_up(
        sandbox, running, f"the stream's log: {seen}", begun, "by itself: the stream writes all rows again"
    )


def redis_emptied(sandbox: Sandbox) -> Recovery:
    """Empty Redis without a stream: the audit reports it, one command fills it."""
    connect(sandbox.home).flushall()
    audited = sandbox.velo("audit")
    if audited.code != 1:
        raise RuntimeError(f"the audit missed an empty Redis: {audited.out}")
    return recovered_by(sandbox, f"`velo audit` (exits 1): `{audited.line('differences')}`", ("online", "rebuild"))


def _caught_up(sandbox: Sandbox, running: fault_harness.Running, seen: str, begun: float, back: str) -> Recovery:
    """Wait until a stream has brought both stores to the log's end, then stop it."""
    last = reader.end(sandbox.home).next_seq
    until(lambda: read_up_to(sandbox.home, last, sealed=True))
    seconds = round(time.perf_counter() - begun, 1)
    fault_harness.stopped(running)
    return Recovery(seen, NOTHING, back, seconds)


def _server_of(sandbox: Sandbox) -> int:
    """The process id of the store's own Redis."""
    info: Any = connect(sandbox.home).info("server")
    return int(info["process_id"])


def _event(line: str) -> str:
    """A log line of the stream without its time, level and process id."""
    fields = [part for part in line.strip("{}").split(", ") if not part.startswith(('"at"', '"level"', '"pid"'))]
    return f"`{', '.join(fields)}`"


# A full disk


def full_disk(leave_kb: int, *command: object) -> Callable[[Sandbox], Recovery]:
    """Run a command on a full disk, then again once there is room."""

    def run(sandbox: Sandbox) -> Recovery:
        arguments = tuple(sandbox.later if word == "FILE" else word for word in command)
        if command[0] != "ingest":
            sandbox.succeed("ingest", "runners", sandbox.later)
        ballast = fault_harness.fill(sandbox.home.root.parent, leave_kb)
        seen = refused(sandbox, *arguments)
        ballast.unlink()
        return recovered_by(sandbox, seen, arguments, first="make room")

    return run


FAULTS: Final = (
    Fault("load-killed", f"`velo ingest` killed {TIMES} times (SIGKILL)", load_killed),
    Fault("build-killed", f"`velo build --whole` killed {TIMES} times", build_killed),
    Fault("build-writes", "`velo build` killed at each of its writes", kill_scenarios.build),
    Fault("whole-build-writes", "`velo build --whole` killed at each of its writes", kill_scenarios.whole_build),
    Fault("compaction-writes", "`velo build --compact` killed at each of its writes", kill_scenarios.compaction),
    Fault("load-writes", "`velo ingest` killed at each of its writes", kill_scenarios.load),
    Fault("rebuild-writes", "`velo log rebuild` killed at each of its writes", kill_scenarios.log_rebuild),
    Fault("model-writes", "what `velo train` and `velo gate` keep: killed at each write", kill_scenarios.model),
    Fault("backtest-writes", "what `velo backtest` keeps: killed at each write", kill_scenarios.backtest),
    Fault("paper-writes", "what `velo paper` keeps: killed at each write", kill_scenarios.paper),
    Fault("letters-writes", "dead letters: killed at each write", kill_scenarios.letters),
    Fault("stream-paused", "the stream paused (SIGSTOP) while the log grows", stream_paused),
    Fault("redis-paused", "Redis paused under the stream", redis_paused),
    Fault("redis-away", f"Redis stopped for {AWAY_S:.0f} s while results come in", redis_away),
    Fault("redis-lost", "Redis killed and its data gone, under the stream", redis_lost),
    Fault("redis-emptied", "Redis emptied, no stream running", redis_emptied),
    Fault("redis-flushed", "Redis emptied under a stream that has nothing to do", redis_scenarios.flushed_while_idle),
    Fault("redis-older", "Redis restored from older data, likewise", redis_scenarios.older_data),
    Fault("redis-half", "half of the keys of Redis evicted, likewise", redis_scenarios.half_evicted),
    Fault("redis-another", "another store's rows in Redis", redis_scenarios.another_stores_rows),
    Fault("service-worker", "a worker of the service killed (SIGKILL) under requests", service_scenarios.worker_killed),
    Fault("service-redis", "Redis paused under the service, twenty connections asking", service_scenarios.redis_slow),
    Fault(
        "service-crowd", "700 that never end a head and 200 that never read, at the service", service_scenarios.crowd
    ),
    Fault(
        "race-day",
        "every process of `velo up`, and `velo paper`, killed at 30 random moments of a day of 40 races",
        race_day_scenario.race_day,
    ),
    Fault("disk-load", "the disk full: a load", full_disk(20, "ingest", "runners", "FILE"), on_small_disk=True),
    Fault("disk-build", "the disk full: a build", full_disk(100, "build"), on_small_disk=True),
    Fault("disk-stream", "the disk full: the stream", full_disk(60, "stream", "--once"), on_small_disk=True),
    Fault("torn-tail", "half a record at the log's end", damage_scenarios.torn_tail),
    Fault("lost-tail", "the last acknowledged record damaged", damage_scenarios.lost_tail),
    Fault("record", "a digit changed in the middle of a log segment", damage_scenarios.changed_record),
    Fault("part", "bytes changed in a Parquet part", damage_scenarios.changed_part),
    Fault("part-cut", "a Parquet part cut short", damage_scenarios.cut_part),
    Fault("manifest", "a generation's manifest overwritten", damage_scenarios.changed_manifest),
    Fault("cache", "bytes changed in the build's cache", damage_scenarios.changed_cache),
    Fault("recovery", "Bytewax's recovery store overwritten", damage_scenarios.changed_recovery),
    Fault("bundle", "a byte changed in the model that serves", damage_scenarios.changed_bundle),
    Fault("redis-file", "bytes changed in what the store's own Redis keeps", damage_scenarios.changed_redis),
    Fault(
        "redis-value", "a byte changed within a value that the store's own Redis keeps", damage_scenarios.changed_value
    ),
    Fault("registry", "Feast's registry overwritten", damage_scenarios.changed_registry),
    Fault("identity", "`store.json` overwritten", damage_scenarios.changed_identity),
)
