"""Feature rows read from Redis, as arrays. Knows nothing of Feast; `redis_writer` says how rows come there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.stores.redis_client import errors_told, is_cluster
from feature_repo.stores.redis_layout import VALID_UNTIL, Layout

Key = str | None | Sequence[str | None]


@dataclass(frozen=True, slots=True)
class RedisRowValues:
    """RedisRowValues read, one a key asked for, in its order.

    `values` is float64 (keys, features), NaN for null, without `valid_until`; the two instants are UTC, NaT for null;
    `present` is False where the store has no row of the key, or only one packed under another list of features,
    which is as absent until it is written again.
    """

    values: NDArray[np.float64]
    event_timestamp: NDArray[np.datetime64]
    valid_until: NDArray[np.datetime64]
    present: NDArray[np.bool_]

    def stale(self, as_of: np.datetime64) -> NDArray[np.bool_]:
        """Which rows a window has moved on from by `as_of` (UTC): read at or after their `valid_until`."""
        return np.asarray(self.valid_until <= as_of, dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class Read:
    """A read written once, to be sent as often as its rows are wanted: half of a read's time goes into writing it.

    `fields` has what is asked of each Redis key, `command` the same as bytes; `spots` has of each view the place among
    the answers of each key asked for, −1 where it has none.
    """

    fields: dict[bytes, tuple[bytes, ...]]
    command: bytes
    spots: tuple[tuple[Layout, NDArray[np.intp]], ...]

    @classmethod
    def of(cls, wanted: Sequence[tuple[Layout, Sequence[Key]]]) -> "Read":
        """What reads the rows of keys as `RedisRows.read_packed` takes them. Views of one entity share its hash."""
        asked: dict[bytes, dict[bytes, int]] = {}
        places: list[list[tuple[bytes, int] | None]] = []
        for layout, keys in wanted:
            packed, of_view = layout.packed_field.encode(), list[tuple[bytes, int] | None]()
            for key in keys:
                parts = (key,) if key is None or isinstance(key, str) else tuple(key)
                if None in parts:
                    of_view.append(None)
                    continue
                redis_key = layout.redis_key(parts)  # type: ignore[arg-type]  # no None among them
                of_hash = asked.setdefault(redis_key, {})
                of_view.append((redis_key, of_hash.setdefault(packed, len(of_hash))))
            places.append(of_view)
        begins, at = dict[bytes, int](), 0
        for redis_key, of_hash in asked.items():
            begins[redis_key] = at
            at += len(of_hash)
        spots = [[-1 if one is None else begins[one[0]] + one[1] for one in of_view] for of_view in places]
        fields = {redis_key: tuple(of_hash) for redis_key, of_hash in asked.items()}
        return cls(
            fields,
            b"".join(_written(redis_key, names) for redis_key, names in fields.items()),
            tuple((layout, np.array(spot, dtype=np.intp)) for (layout, _), spot in zip(wanted, spots, strict=True)),
        )


@dataclass(frozen=True, slots=True)
class RedisRows:
    """Reads rows through one client; `url` only names the server in what is said when it fails."""

    client: Any
    url: str = "redis"

    def read_packed(self, wanted: Sequence[tuple[Layout, Sequence[Key]]]) -> list[RedisRowValues]:
        """The rows of many keys of many views, in one round trip.

        A key is the text of a single join key, or as many as the view has, in the order of `layout.keys`. A key with
        a null in it has no row.
        """
        return self.read(Read.of(wanted))

    def read(self, read: Read) -> list[RedisRowValues]:
        """The rows of a read written before, of each view those of its keys in their order; one round trip."""
        with errors_told(self.url):
            answers = self._pipelined(read) if is_cluster(self.client) else self._sent(read)
        return [_unpacked(layout, spot, answers) for layout, spot in read.spots]

    def _sent(self, read: Read) -> list[bytes | None]:
        if not read.fields:
            return []
        pool = self.client.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_packed_command([read.command])
            return [answer for _ in read.fields for answer in connection.read_response()]
        except BaseException:
            # what is still to come would answer the next question
            connection.disconnect()
            raise
        finally:
            pool.release(connection)

    def _pipelined(self, read: Read) -> list[bytes | None]:
        with self.client.pipeline(transaction=False) as pipe:
            for redis_key, names in read.fields.items():
                pipe.hmget(redis_key, list(names))
            return [answer for answers in pipe.execute() for answer in answers]


def _written(redis_key: bytes, names: Sequence[bytes]) -> bytes:
    """HMGET as it goes over the wire."""
    parts = (b"HMGET", redis_key, *names)
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(one), one) for one in parts)


def _unpacked(layout: Layout, spot: NDArray[np.intp], answers: Sequence[bytes | None]) -> RedisRowValues:
    row_type = layout.packed_type
    absent = np.zeros(1, dtype=row_type)
    absent["values"] = np.nan
    missing = absent.tobytes()
    cells = [answers[at] if at >= 0 else None for at in spot.tolist()]
    rows = np.frombuffer(
        b"".join(cell if cell is not None and len(cell) == row_type.itemsize else missing for cell in cells),
        dtype=row_type,
    )
    held = np.fromiter((cell is not None and len(cell) == row_type.itemsize for cell in cells), np.bool_, len(cells))
    present = held & (rows["fingerprint"] == layout.fingerprint)
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
