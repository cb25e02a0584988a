"""The whole dataflow: from the log to its sinks.

    log → version per race → resequence, rate → spread → roll per shard → rows (offline, online)
     └→ records (race cards)       └→ letters (dead letters)

Step ids key the recovery store: they are a schema and never renamed.
"""

from collections.abc import Sequence
from typing import Any, Final
from zoneinfo import ZoneInfo

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source

from velo.racing.clock import LocalDays
from velo.storage.store import Home
from velo.streams.aggregation.ratings import parted
from velo.streams.aggregation.routing import Router, view_of
from velo.streams.dataflow.bootstrap import Bootstrap
from velo.streams.dataflow.metrics import Telemetry
from velo.streams.dataflow.operators import (
    ALL,
    Fanout,
    LogRecord,
    Reads,
    ResequenceLogic,
    StreamSink,
    VersionLogic,
    WindowLogic,
    all_shards,
)

NAME: Final = "velo"


def graph(
    home: Home,
    timezone: ZoneInfo,
    bootstrap: Bootstrap,
    source: Source[tuple[str, LogRecord]],
    sinks: Sequence[StreamSink[Any, Any]],
    telemetry: Telemetry,
) -> Dataflow:
    """Return the dataflow of a store, connected to these sinks (`streams/dataflow/sinks.py`)."""

    def connect(name: Reads, stream: Any) -> None:
        for sink in sinks:
            if sink.reads == name:
                op.output(sink.step, stream, sink)

    router = Router(bootstrap.families, bootstrap.shards)
    at_once, in_order = (Router(families, bootstrap.shards) for families in parted(bootstrap.families))

    flow = Dataflow(NAME)
    records = op.input("log", flow, source)
    connect("records", records)
    versions = op.stateful_batch("version", records, lambda _: VersionLogic(home, bootstrap, at_once))
    unordered = op.map("to-one", versions, lambda keyed: (ALL, keyed[1]))
    effects = op.stateful_batch(
        "resequence", unordered, lambda _: ResequenceLogic(LocalDays(timezone), bootstrap, in_order)
    )

    unreadable = op.filter("unreadable", effects, lambda keyed: keyed[1].letter is not None)
    connect("letters", op.map("letter", unreadable, lambda keyed: (ALL, keyed[1].letter)))

    updates = op.flat_map_batch("spread", effects, Fanout(all_shards(router), telemetry))
    rolled = op.stateful_batch("roll", updates, lambda _: WindowLogic(bootstrap))
    connect("rows", op.map("to-view", rolled, lambda keyed: (view_of(keyed[0]), keyed[1])))
    return flow
