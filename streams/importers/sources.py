"""The importers by the name their dead letters bear."""

from collections.abc import Mapping
from typing import Final

from streams.importers import raceform, runners
from streams.importers.replay import RowImporter
from streams.importers.results import RUNNER_TABLE

IMPORTERS: Final[Mapping[str, RowImporter]] = {RUNNER_TABLE: runners.parse_rows, raceform.SOURCE: raceform.parse_rows}
