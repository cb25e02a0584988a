"""The messages of files, as a producer sends them (`velo feed send`)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import orjson

from velo.errors import UserError
from velo.racing.messages import to_record
from velo.storage.store import Store
from velo.streams.feeds.validation import MAX_BYTES
from velo.streams.importers.file_kinds import refuse_other_kind
from velo.streams.importers.sources.runners import read_runner_tables

LINES: Final = (".jsonl", ".ndjson", ".json")
TABLES: Final = (".csv", ".parquet")
_SAMPLE_BYTES: Final = 4096


def bodies(paths: Sequence[Path], store: Store) -> Iterator[bytes]:
    """Yield the messages of files: each JSON line unchanged, valid or not; the races of runner tables as results.

    A line beyond the longest message is cut to a length that is still refused, which limits memory. The runner tables
    come first, as one load in the order of their races. Raises `UserError` for another kind of file, and for a runner
    table with a race that would be refused.
    """
    for path in paths:
        if path.suffix not in LINES + TABLES:
            raise UserError(
                f"{path} is not a kind of file that can be sent: name JSON lines ({LINES[0]}), or a CSV or Parquet table"
            )
    tables = [path for path in paths if path.suffix in TABLES]
    if tables:
        parsed = read_runner_tables(tables, store)
        for refused in parsed.refused:
            raise UserError(
                f"race {refused.race_id} would be refused ({refused.reason}: {refused.detail}): correct it, then send it"
            )
        for message in sorted(
            parsed.messages, key=lambda result: (result.known_at or result.race.off_time, result.race_id)
        ):
            yield orjson.dumps(to_record(message))
    for path in paths:
        if path.suffix in LINES:
            yield from _lines(path)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            refuse_other_kind(path, file.read(_SAMPLE_BYTES), "messages are JSON lines")
            file.seek(0)
            while line := file.readline(MAX_BYTES + 2):
                rest = line
                while rest and not rest.endswith(b"\n"):
                    rest = file.readline(MAX_BYTES)
                if line.strip():
                    yield line.rstrip(b"\r\n")
    except OSError as refused:
        raise UserError(f"cannot read {path} ({refused.strerror}): name a file of JSON lines") from None
