"""The layout of a view's rows in Redis: keys, fields, packed row. Does not import Feast; matches its layout byte for byte.

One hash per entity key, in Feast's own layout: a field per feature (murmur3 of `view:feature`) with the serialised
value, and `_ts:<view>` with the event time. VÉLØ adds `_ver:<view>`, the row's version (epoch, event time), and
`_pk:<view>`, the whole row packed, so that a reader fetches one small field per view.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha1
from typing import Final, Literal

import numpy as np

from velo.feature_repo.catalogue.families import Family
from velo.feature_repo.stores.redis_script import replace_if_newer

PROJECT: Final = "velo"
VALID_UNTIL: Final = "valid_until"
PACKED: Final = "_pk:"
"""Prefix of the field of a view's packed row."""

ColumnKind = Literal["int32", "int64", "float64", "instant"]

_HEADER: Final = struct.Struct("<Iq")
_TAGS: Final = {"int32": 0x18, "int64": 0x20, "float64": 0x29, "instant": 0x40}
"""First byte of a serialised feast.types.Value: its field number and wire type."""
_DOUBLE: Final = struct.Struct("<Bd")
_STRING: Final = 2


def index_key_of(view: str, project: str = PROJECT) -> bytes:
    """Return the Redis key of a view's index; the braces keep a project on one server of a cluster."""
    return f"{{{project}}}:rows:{view}".encode()


def serialised_value(kind: ColumnKind, number: float) -> bytes | None:
    """Return a packed number as the feast.types.Value that Feast's own field of it holds; None for NaN, which has no field."""
    if number != number:
        return None
    tag = _TAGS[kind]
    if kind == "float64":
        return _DOUBLE.pack(tag, number)
    # Feast counts seconds
    return bytes([tag]) + varint(int(number // 1e6 if kind == "instant" else number))


def varint(number: int) -> bytes:
    """Return a whole number of 64 bits as Protocol Buffers write it."""
    number &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


@dataclass(frozen=True)
class Layout:
    """The layout of one view's rows in Redis. `columns` are (name, kind) in packed order."""

    view: str
    keys: tuple[str, ...]
    columns: tuple[tuple[str, ColumnKind], ...]
    project: str = PROJECT

    @classmethod
    @lru_cache(256)
    def of(cls, family: Family, project: str = PROJECT) -> "Layout":
        """Return the layout of a catalogue family: its features, then `valid_until`; made once a process, with its script."""
        columns: list[tuple[str, ColumnKind]] = [
            (feature.name, "int32" if feature.kind == "int" else "float64") for feature in family.features
        ]
        return cls(family.view, family.keys, (*columns, (VALID_UNTIL, "instant")), project)

    @property
    def version_field(self) -> str:
        """The field of the row's version (epoch, event time)."""
        return f"_ver:{self.view}"

    @property
    def time_field(self) -> str:
        """The field of the row's event time, which Feast reads."""
        return f"_ts:{self.view}"

    @property
    def packed_field(self) -> str:
        """The field of the packed row."""
        return f"{PACKED}{self.view}"

    @cached_property
    def value_fields(self) -> tuple[bytes, ...]:
        """Feast's field of each column."""
        import mmh3

        return tuple(struct.pack("<I", mmh3.hash(f"{self.view}:{name}", signed=False)) for name, _ in self.columns)

    @property
    def fields(self) -> tuple[str | bytes, ...]:
        """Every field that a row of this view can have."""
        return (*self.value_fields, self.time_field, self.version_field, self.packed_field)

    @cached_property
    def fingerprint(self) -> int:
        """CRC-32 of the columns: a row packed with other columns has another fingerprint."""
        return zlib.crc32(repr(self.columns).encode())

    @cached_property
    def packed_type(self) -> "np.dtype[np.void]":
        """A packed row: fingerprint, event time (µs), one double per column (NaN is null, instants in µs)."""
        return np.dtype([("fingerprint", "<u4"), ("event_us", "<i8"), ("values", "<f8", (len(self.columns),))])

    @cached_property
    def key_prefix(self) -> bytes:
        """Prefix of the Redis key of every entity with these join keys."""
        names = [name.encode() for name in sorted(self.keys)]
        return struct.pack("<I", len(names)) + b"".join(struct.pack("<II", _STRING, len(n)) + n for n in names)

    @cached_property
    def _order(self) -> tuple[int, ...]:
        return tuple(sorted(range(len(self.keys)), key=lambda at: self.keys[at]))

    def redis_key(self, key: Sequence[str]) -> bytes:
        """Return the Redis key of an entity; `key` has its key values in the order of `keys`."""
        encoded = (key[at].encode() for at in self._order)
        values = b"".join(struct.pack("<II", _STRING, len(value)) + value for value in encoded)
        return self.key_prefix + values + self.project.encode()

    def owns(self, redis_key: bytes) -> bool:
        """Whether a Redis key belongs to an entity with these join keys in this project."""
        at = len(self.key_prefix)
        if redis_key[:at] != self.key_prefix:
            return False
        for _ in self.keys:
            if len(redis_key) < at + 8:
                return False
            _kind, length = struct.unpack_from("<II", redis_key, at)
            at += 8 + length
        return redis_key[at:] == self.project.encode()

    @cached_property
    def index_key(self) -> bytes:
        """The Redis key of the view's index, the hash of fingerprints of its rows (see `whole`)."""
        return index_key_of(self.view, self.project)

    @cached_property
    def script(self) -> str:
        """Lua that replaces rows by newer ones. Takes the keys, then version, event time and packed row of each."""
        return replace_if_newer(
            fields=(self.version_field, self.time_field, self.packed_field),
            columns=tuple(zip(self.value_fields, (_TAGS[kind] for _, kind in self.columns), strict=True)),
            header=_HEADER.size,
        )

    @cached_property
    def script_sha(self) -> str:
        """SHA-1 of the script, by which EVALSHA calls it."""
        return sha1(self.script.encode(), usedforsecurity=False).hexdigest()
