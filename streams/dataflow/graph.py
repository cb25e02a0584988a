"""The whole dataflow: from the log to its sinks.

    log → version per race → resequence, rate → roll → rows (offline, online)
     └→ records (race cards)       └→ letters (dead letters)

Step ids key the recovery store: they are a schema and never renamed.
"""

from collections.abc import Sequence
from typing import Any, Final

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source

from velo.storage.store import Home
from velo.streams.dataflow.bootstrap import Bootstrap
from velo.streams.dataflow.metrics import Telemetry
from velo.streams.dataflow.operators import (
    ALL,
    FoldLogic,
    LogRecord,
    Reads,
    ResequenceLogic,
    StreamSink,
    VersionLogic,
)

NAME: Final = "velo"


def graph(
    home: Home,
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

    flow = Dataflow(NAME)
    records = op.input("log", flow, source)
    connect("records", records)
    versions = op.stateful_batch("version", records, lambda _: VersionLogic(home, bootstrap))
    unordered = op.map("to-one", versions, lambda keyed: (ALL, keyed[1]))
    effects = op.stateful_batch("resequence", unordered, lambda _: ResequenceLogic(bootstrap))

    unreadable = op.filter("unreadable", effects, lambda keyed: keyed[1].letter is not None)
    connect("letters", op.map("letter", unreadable, lambda keyed: (ALL, keyed[1].letter)))

    rolled = op.stateful_batch("roll", effects, lambda _: FoldLogic(bootstrap, telemetry))
    connect("rows", op.map("to-view", rolled, lambda keyed: keyed[1]))
    return flow
