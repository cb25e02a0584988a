"""OpenLineage events of builds, streams, training and scores: from the starts in the log to a view's values, a model and a score.

They are sent by `openlineage-python`, to the file or server that its own configuration names, and only where there is one
(`velo.settings.lineage_configured`); nothing is imported otherwise. A run has a START event and a COMPLETE, FAIL or ABORT event.
An event that cannot be sent is logged, and the work goes on.

The service sends none while it scores: `velo.api.score_lineage` makes those of its scores from the score log.

The namespace is the store's, `velo://` and its identity. Datasets: `log`; `starts`, the measured starts; `features/VIEW`;
`models/VERSION`; `online`, the rows in Redis; `scores/RACE_ID`. The column lineage of a view says which measures of a start each
feature is made of, that of a score which features its model reads.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from velo.settings import DISTRIBUTION, lineage_configured, program_version
from velo.storage.store import Home, Store, store_id

if TYPE_CHECKING:
    from openlineage.client.event_v2 import InputDataset, OutputDataset

_log = logging.getLogger(__name__)
STARTS: Final = "starts"
SENDING_FAILED: Final = (OSError, RuntimeError, ValueError)
"""What OpenLineage's transports raise for an event that was not sent."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset of a store; `made_of` has the (dataset, column) pairs that each of its columns is computed from."""

    name: str
    made_of: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)


LOG: Final = Dataset("log")
ONLINE: Final = Dataset("online")


@dataclass(slots=True)
class LineageRun:
    """What a run reads and writes, added to while it goes on; nothing is kept where no events are `sent`."""

    sent: bool
    inputs: list[Dataset] = field(default_factory=list)
    outputs: list[Dataset] = field(default_factory=list)

    def wrote_views(self, names: Iterable[str]) -> None:
        """The run wrote the tables of some views, each feature made of its measures of the starts."""
        from velo.feature_repo.catalogue.families import BY_VIEW

        if self.sent:
            self.outputs += [
                Dataset(_table(view), {
                    feature: tuple((STARTS, measure) for measure in measures)
                    for feature, measures in BY_VIEW[view].feature_measures.items()
                })
                for view in names
                if view in BY_VIEW
            ]  # fmt: skip

    def used_model(self, home: Home, version: str, output: str) -> None:
        """The run wrote `output` by, or as, a stored model: probabilities made of the stored features that the model reads."""
        from velo.feature_repo.catalogue import columns
        from velo.training.bundle import described

        if self.sent:
            features = described(home, version)["features"]
            read = tuple((_table(view), feature) for view, feature in columns.stored_of(features))
            self.inputs += [Dataset(_table(view)) for view in columns.views_of(features)]
            self.inputs += [Dataset(f"models/{version}")] if output != f"models/{version}" else []
            self.outputs.append(Dataset(output, {"probability": read}))


@contextmanager
def lineage(
    store: Store, job: str, clock: Callable[[], datetime], inputs: Sequence[Dataset] = ()
) -> Iterator[LineageRun]:
    """Send the events of a run of `job`: START now, and COMPLETE, FAIL or ABORT at its end. `clock` returns now (UTC)."""
    run = LineageRun(lineage_configured(), list(inputs))
    if not run.sent:
        yield run
        return
    sender = _sender(store, job, clock)
    sender(run, "START", None)
    try:
        yield run
    except Exception as failed:
        sender(run, "FAIL", failed)
        raise
    except BaseException as stopped:
        sender(run, "ABORT", stopped)
        raise
    sender(run, "COMPLETE", None)


def _sender(
    store: Store, job: str, clock: Callable[[], datetime]
) -> "Callable[[LineageRun, str, BaseException | None], None]":
    """A function that sends one event of a new run; it does nothing where `openlineage-python` is not installed."""
    events = events_of(store)
    if events is None:
        return lambda run, state, error: None
    run_id = events.run_id(clock(), None)

    def send(run: LineageRun, state: str, error: BaseException | None) -> None:
        facets: dict[str, Any] = {}
        if error is not None:
            from openlineage.client.facet_v2 import error_message_run

            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(str(error), "python")
        try:
            events.send(job, run_id, state, clock(), run, facets)
        except SENDING_FAILED as failed:
            _log.warning("lineage.not_sent job=%s state=%s reason=%s", job, state, failed)

    return send


def events_of(store: Store) -> "Events | None":
    """What sends the events of a store's runs; None, with a warning, without `openlineage-python` or a usable configuration."""
    try:
        return Events(store)
    except ImportError:
        reason = "openlineage-python is not installed: pip install 'velo-features[lineage]'"
    except SENDING_FAILED as unusable:
        reason = str(unusable)
    _log.warning("lineage.not_sent reason=%s", reason)
    return None


class Events:
    """Sends the events of a store's runs; raises `ImportError` where `openlineage-python` is not installed."""

    def __init__(self, store: Store) -> None:
        from openlineage.client import OpenLineageClient

        self._home, self._client = store.home, OpenLineageClient()

    @cached_property
    def namespace(self) -> str:
        """The namespace of the store's jobs and datasets, from the first event on."""
        return f"velo://{store_id(self._home) or 'new'}"

    def run_id(self, at: datetime, content: bytes | None) -> str:
        """The id of a run that began at an instant: a new one, or without chance the one of some content."""
        from openlineage.client.uuid import generate_new_uuid, generate_static_uuid

        return str(generate_new_uuid(at) if content is None else generate_static_uuid(at, content))

    def send(self, job: str, run_id: str, state: str, at: datetime, run: LineageRun, facets: dict[str, Any]) -> None:
        """Send one event and wait until it is taken; raises what the configured transport does."""
        from openlineage.client.event_v2 import Job, Run, RunEvent, RunState

        event = RunEvent(
            eventType=RunState[state],
            eventTime=at.isoformat(),
            run=Run(run_id, facets=facets),
            job=Job(self.namespace, job),
            inputs=[_input(each, self.namespace) for each in run.inputs],
            outputs=[_output(each, self.namespace) for each in run.outputs],
            producer=f"{DISTRIBUTION}/{program_version()}",
        )
        self._client.emit(event)


def _table(view: str) -> str:
    return f"features/{view}"


def _input(dataset: Dataset, namespace: str) -> "InputDataset":
    from openlineage.client.event_v2 import InputDataset

    return InputDataset(namespace, dataset.name)


def _output(dataset: Dataset, namespace: str) -> "OutputDataset":
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import column_lineage_dataset, schema_dataset

    if not dataset.made_of:
        return OutputDataset(namespace, dataset.name)
    fields = {
        column: column_lineage_dataset.Fields(
            [column_lineage_dataset.InputField(namespace, source, name) for source, name in read]
        )
        for column, read in dataset.made_of.items()
    }
    schema = [schema_dataset.SchemaDatasetFacetFields(column) for column in dataset.made_of]
    facets: dict[str, Any] = {
        "schema": schema_dataset.SchemaDatasetFacet(schema),
        "columnLineage": column_lineage_dataset.ColumnLineageDatasetFacet(fields),
    }
    return OutputDataset(namespace, dataset.name, facets=facets)
