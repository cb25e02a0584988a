"""The dataflow, whole: from the log to both stores.

    log → version per race → resequence, rate → spread → roll per shard → offline parts, online rows
     └→ race cards                 └→ dead letters

Step ids key the recovery store: they are schema, and never renamed.
"""

from typing import Any, Final
from zoneinfo import ZoneInfo

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.outputs import Sink

from velo.storage.store import Home
from velo.streams.aggregation.local_days import LocalDays
from velo.streams.aggregation.ratings import parted
from velo.streams.aggregation.routing import Router, view_of
from velo.streams.dataflow.bootstrap import Bootstrap
from velo.streams.dataflow.metrics import Telemetry
from velo.streams.dataflow.operators import (
    ALL,
    Fanout,
    LogRecord,
    ResequenceLogic,
    VersionLogic,
    WindowLogic,
    all_shards,
)

NAME: Final = "velo"


def graph(
    home: Home,
    timezone: ZoneInfo,
    ground: Bootstrap,
    source: Source[tuple[str, LogRecord]],
    offline: Sink[Any] | None,
    online: Sink[Any] | None,
    letters: Sink[Any],
    telemetry: Telemetry,
    cards: Sink[Any] | None = None,
) -> Dataflow:
    """The dataflow of a store; either sink of rows may be left out."""
    router = Router(ground.families, ground.shards)
    at_once, in_order = (Router(families, ground.shards) for families in parted(ground.families))

    flow = Dataflow(NAME)
    records = op.input("log", flow, source)
    if cards is not None:
        op.output("cards", records, cards)
    versions = op.stateful_batch("version", records, lambda _: VersionLogic(home, ground, at_once))
    unordered = op.map("to-one", versions, lambda keyed: (ALL, keyed[1]))
    steps = op.stateful_batch("resequence", unordered, lambda _: ResequenceLogic(LocalDays(timezone), ground, in_order))

    unreadable = op.filter("unreadable", steps, lambda keyed: keyed[1].letter is not None)
    refused = op.map("letter", unreadable, lambda keyed: (ALL, keyed[1].letter))
    op.output("dead-letters", refused, letters)

    touched = op.flat_map_batch("spread", steps, Fanout(all_shards(router), telemetry))
    rolled = op.stateful_batch("roll", touched, lambda _: WindowLogic(ground))
    rows = op.map("to-view", rolled, lambda keyed: (view_of(keyed[0]), keyed[1]))
    for name, sink in (("offline", offline), ("online", online)):
        if sink is not None:
            op.output(name, rows, sink)
    return flow
