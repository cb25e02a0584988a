"""Many short records by key, in few objects: for what grows with all that a process was ever told.

A dictionary spends some 200 bytes on a key and a whole number before it says anything. Here some eight keys share one
string of bytes, in which a key is found by its name: a record costs its bytes, its name, and seven more.
"""

from collections.abc import Iterator
from typing import Final

Key = tuple[str, ...]
_MARK: Final = b"\xff"
"""Begins a name. Like what divides and ends one it is no byte of UTF-8, and a record never holds it."""
_DIVIDE: Final = b"\xfd"
_END: Final = b"\xfe"
RECORDS_A_BUCKET: Final = 8
_FIRST_BUCKETS: Final = 4
_SEVEN_ZEROS: Final = bytes(7)
_THREE_ZEROS: Final = bytes(3)
LEAST_WHOLE: Final = 512
MOST_WHOLE: Final = 4096
"""So many records, or a quarter of all in between, are left as they are for as long as they are touched again and again."""


class CompactMap:
    """A map from keys to records, both kept as bytes; a record may be empty.

    What was touched lately is in a dictionary, for packing takes ten times as long as a look at that; once that is
    full, all of it is packed. Buckets are split one at a time (linear hashing), so that no record waits for all to be
    moved.
    """

    __slots__ = ("_buckets", "_mask", "_packed", "_whole")

    def __init__(self) -> None:
        self._buckets = [b""] * _FIRST_BUCKETS
        self._mask = 2 * _FIRST_BUCKETS - 1
        self._packed = 0
        self._whole: dict[Key, bytes] = {}

    def __len__(self) -> int:
        """How many records."""
        return self._packed + len(self._whole)

    def get(self, key: Key) -> bytes | None:
        """The record of a key; None where there is none."""
        record = self._whole.get(key)
        if record is None and (record := self._unpacked(key)) is not None:
            self._hold(key, record)
        return record

    def put(self, key: Key, record: bytes) -> None:
        """Have a key's record be this."""
        if key in self._whole:
            self._whole[key] = record
        else:
            self._unpacked(key)
            self._hold(key, record)

    def pop(self, key: Key) -> bytes | None:
        """Forget a key's record, and give it; None where there is none."""
        record = self._whole.pop(key, None)
        return self._unpacked(key) if record is None else record

    def add(self, key: Key, difference: int, size: int) -> int:
        """Add to the whole number, never negative, that a key's record is in so many bytes; 0, as none is, is kept by none."""
        total = int.from_bytes(self.get(key) or b"", "little") + difference
        if total:
            self.put(key, total.to_bytes(size, "little"))
        else:
            self.pop(key)
        return total

    def items(self) -> Iterator[tuple[Key, bytes]]:
        """Every key with its record, in no order."""
        yield from self._whole.items()
        for bucket in self._buckets:
            for each in bucket.split(_MARK)[1:]:
                name, _, record = each.partition(_END)
                yield tuple(part.decode() for part in name.split(_DIVIDE)), expanded(record)

    def _hold(self, key: Key, record: bytes) -> None:
        whole = self._whole
        whole[key] = record
        if len(whole) > LEAST_WHOLE and len(whole) > min(MOST_WHOLE, self._packed // 4):
            self._pack_all()

    def _unpacked(self, key: Key) -> bytes | None:
        """Take a key's record out of its bucket; None where it is not in one."""
        name = _name(key)
        place = self._place(name)
        bucket = self._buckets[place]
        at = bucket.find(name)
        if at < 0:
            return None
        begin = at + len(name)
        end = bucket.find(_MARK, begin)
        if end < 0:
            end = len(bucket)
        self._buckets[place] = bucket[:at] + bucket[end:]
        self._packed -= 1
        return expanded(bucket[begin:end])

    def _pack_all(self) -> None:
        for key, record in self._whole.items():
            name = _name(key)
            place = self._place(name)
            self._buckets[place] = b"".join((self._buckets[place], name, squeezed(record)))
            self._packed += 1
            if self._packed > RECORDS_A_BUCKET * len(self._buckets):
                self._split()
        self._whole.clear()

    def _place(self, name: bytes) -> int:
        place = hash(name) & self._mask
        return place if place < len(self._buckets) else place & (self._mask >> 1)

    def _split(self) -> None:
        """One bucket more, with those of its twin's records that belong there now."""
        place = len(self._buckets) & (self._mask >> 1)
        stay, move = [b""], [b""]
        for each in self._buckets[place].split(_MARK)[1:]:
            name = _MARK + each[: each.index(_END) + 1]
            (stay if hash(name) & self._mask == place else move).append(each)
        self._buckets[place] = _MARK.join(stay)
        self._buckets.append(_MARK.join(move))
        if len(self._buckets) > self._mask:
            self._mask = 2 * self._mask + 1


def _name(key: Key) -> bytes:
    return b"\xff%b\xfe" % _DIVIDE.join([part.encode() for part in key])


def squeezed(record: bytes) -> bytes:
    """A record without its runs of zeros, most of what sums in 64 bits are, and without the byte that begins a name."""
    escaped = record.replace(b"\xfb", b"\xfb\0").replace(b"\xfc", b"\xfb\1")
    escaped = escaped.replace(b"\xfe", b"\xfb\2").replace(b"\xff", b"\xfb\3")
    return escaped.replace(_SEVEN_ZEROS, b"\xfe").replace(_THREE_ZEROS, b"\xfc")


def expanded(record: bytes) -> bytes:
    """What `squeezed` was given."""
    escaped = record.replace(b"\xfc", _THREE_ZEROS).replace(b"\xfe", _SEVEN_ZEROS)
    if b"\xfb" not in escaped:
        return escaped
    escaped = escaped.replace(b"\xfb\3", b"\xff").replace(b"\xfb\2", b"\xfe")
    return escaped.replace(b"\xfb\1", b"\xfc").replace(b"\xfb\0", b"\xfb")
