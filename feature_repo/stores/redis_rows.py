"""Read feature rows from Redis as arrays. Does not import Feast; `redis_writer` writes the rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hiredis import pack_command
from numpy.typing import NDArray

from velo.feature_repo.stores.redis_client import is_cluster, redis_errors
from velo.feature_repo.stores.redis_layout import VALID_UNTIL, Layout

Key = str | None | Sequence[str | None]


@dataclass(frozen=True, slots=True)
class RedisRowValues:
    """The rows of one view, one per requested key, in request order.

    `values` is float64 (keys, features) without `valid_until`; NaN is null. The two instants are UTC; NaT is null.
    `present` is False if the store has no row of the key, or one packed with another list of features, which counts
    as absent until it is written again.
    """

    values: NDArray[np.float64]
    event_timestamp: NDArray[np.datetime64]
    valid_until: NDArray[np.datetime64]
    present: NDArray[np.bool_]

    def stale(self, as_of: np.datetime64) -> NDArray[np.bool_]:
        """Whether each row is stale at `as_of` (UTC): at or after its `valid_until`, when a window has lost a start."""
        return np.asarray(self.valid_until <= as_of, dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class Read:
    """A prepared read, to be sent many times: encoding the command takes half of a read's time.

    `fields` holds the requested fields of each Redis key and `command` the encoded HMGETs. `spots` holds, per view, the
    position of each key's answer among all answers; -1 for a key with a null.
    """

    fields: dict[bytes, tuple[bytes, ...]]
    command: bytes
    spots: tuple[tuple[Layout, NDArray[np.intp]], ...]

    @classmethod
    def of(cls, wanted: Sequence[tuple[Layout, Sequence[Key]]]) -> "Read":
        """Prepare a read of the keys that `RedisRows.read_packed` takes. Views of one entity share its hash."""
        hashes: dict[bytes, dict[bytes, int]] = {}
        places: list[list[tuple[bytes, int] | None]] = []
        for layout, keys in wanted:
            packed, of_view = layout.packed_field.encode(), list[tuple[bytes, int] | None]()
            for key in keys:
                parts = (key,) if key is None or isinstance(key, str) else tuple(key)
                if None in parts:
                    of_view.append(None)
                    continue
                redis_key = layout.redis_key(parts)  # type: ignore[arg-type]  # no None among them
                of_hash = hashes.setdefault(redis_key, {})
                of_view.append((redis_key, of_hash.setdefault(packed, len(of_hash))))
            places.append(of_view)
        begins, at = dict[bytes, int](), 0
        for redis_key, of_hash in hashes.items():
            begins[redis_key] = at
            at += len(of_hash)
        spots = [[-1 if place is None else begins[place[0]] + place[1] for place in of_view] for of_view in places]
        fields = {redis_key: tuple(of_hash) for redis_key, of_hash in hashes.items()}
        return cls(
            fields,
            b"".join(
                pack_command((b"HMGET", redis_key, *names))  # type: ignore[arg-type]  # its stub takes one part only
                for redis_key, names in fields.items()
            ),
            tuple((layout, np.array(spot, dtype=np.intp)) for (layout, _), spot in zip(wanted, spots, strict=True)),
        )


@dataclass(frozen=True, slots=True)
class RedisRows:
    """Reads rows through one client; `url` names the server in errors."""

    client: Any
    url: str = "redis"

    def read_packed(self, wanted: Sequence[tuple[Layout, Sequence[Key]]]) -> list[RedisRowValues]:
        """Read the rows of many keys of many views in one round trip.

        A key is the text of a single join key, or a sequence in the order of `layout.keys`. A key with a null in it has
        no row. Raises `UserError` if Redis fails.
        """
        return self.read(Read.of(wanted))

    def read(self, read: Read) -> list[RedisRowValues]:
        """Send a prepared read in one round trip; returns the rows of each view in key order."""
        with redis_errors(self.url):
            answers = self._pipelined(read) if is_cluster(self.client) else self._sent(read)
        return [
            unpacked(layout, [answers[at] if at >= 0 else None for at in spot.tolist()]) for layout, spot in read.spots
        ]

    def _sent(self, read: Read) -> list[bytes | None]:
        if not read.fields:
            return []
        pool = self.client.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_packed_command([read.command])
            return [answer for _ in read.fields for answer in connection.read_response()]
        except BaseException:
            # an unread reply would answer the next command
            connection.disconnect()
            raise
        finally:
            pool.release(connection)

    def _pipelined(self, read: Read) -> list[bytes | None]:
        with self.client.pipeline(transaction=False) as pipe:
            for redis_key, names in read.fields.items():
                pipe.hmget(redis_key, list(names))
            return [answer for answers in pipe.execute() for answer in answers]


def unpacked(layout: Layout, cells: Sequence[bytes | None]) -> RedisRowValues:
    """Unpack the rows of a view, each from its packed field; None where Redis has no such field."""
    row_type = layout.packed_type
    absent = np.zeros(1, dtype=row_type)
    absent["values"] = np.nan
    missing = absent.tobytes()
    rows = np.frombuffer(
        b"".join(cell if cell is not None and len(cell) == row_type.itemsize else missing for cell in cells),
        dtype=row_type,
    )
    complete = np.fromiter(
        (cell is not None and len(cell) == row_type.itemsize for cell in cells), np.bool_, len(cells)
    )
    present = complete & (rows["fingerprint"] == layout.fingerprint)
    values = np.where(present[:, None], rows["values"], np.nan)
    names = [name for name, _ in layout.columns]
    until = np.full(len(cells), np.nan)
    if VALID_UNTIL in names:
        until = values[:, names.index(VALID_UNTIL)]
        values = np.delete(values, names.index(VALID_UNTIL), axis=1)
    event = np.where(present, rows["event_us"], np.iinfo(np.int64).min)
    return RedisRowValues(values, event.astype("datetime64[us]"), _instants(until), present)


def _instants(micros: NDArray[np.float64]) -> NDArray[np.datetime64]:
    known = ~np.isnan(micros)
    whole = np.full(micros.shape, np.iinfo(np.int64).min, dtype=np.int64)
    whole[known] = micros[known].astype(np.int64)
    return whole.astype("datetime64[us]")
