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
Slot = tuple[int, bytes, int, int]
"""Where a record is: its bucket, its name, and from where to where in the bucket; −1 where it is not."""


class Packed:
    """A map from keys to records, both kept as bytes; a record may be empty.

    Buckets are split one at a time as records come (linear hashing), so that no record waits for all to be moved.
    """

    __slots__ = ("_buckets", "_count", "_mask")

    def __init__(self) -> None:
        self._buckets = [b""] * _FIRST_BUCKETS
        self._mask = 2 * _FIRST_BUCKETS - 1
        self._count = 0

    def __len__(self) -> int:
        """How many records."""
        return self._count

    def find(self, key: Key) -> Slot:
        """Where a key's record is, or would be: for one `read` and one `write`, nothing being changed between."""
        name = b"\xff%b\xfe" % _DIVIDE.join([part.encode() for part in key])
        place = hash(name) & self._mask
        if place >= len(self._buckets):
            place &= self._mask >> 1
        bucket = self._buckets[place]
        at = bucket.find(name)
        if at < 0:
            return place, name, -1, -1
        end = bucket.find(_MARK, at + 1)
        return place, name, at, len(bucket) if end < 0 else end

    def read(self, slot: Slot) -> bytes | None:
        """The record at a place; None where there is none."""
        place, name, at, end = slot
        return None if at < 0 else expanded(self._buckets[place][at + len(name) : end])

    def write(self, slot: Slot, record: bytes | None) -> None:
        """Have the record at a place be this; none where it is None."""
        place, name, at, end = slot
        bucket = self._buckets[place]
        if at < 0:
            if record is not None:
                self._buckets[place] = b"".join((bucket, name, squeezed(record)))
                self._count += 1
                if self._count > RECORDS_A_BUCKET * len(self._buckets):
                    self._split()
        elif record is None:
            self._buckets[place] = bucket[:at] + bucket[end:]
            self._count -= 1
        else:
            self._buckets[place] = b"".join((bucket[: at + len(name)], squeezed(record), bucket[end:]))

    def add(self, key: Key, difference: int, size: int) -> int:
        """Add to the whole number, never negative, that a key's record is in so many bytes; 0, as none is, is kept by none.

        What `read` and `write` would do; it is done for every start several times.
        """
        buckets = self._buckets
        name = b"\xff%b\xfe" % b"\xfd".join([part.encode() for part in key])
        place = hash(name) & self._mask
        if place >= len(buckets):
            place &= self._mask >> 1
        bucket = buckets[place]
        at = bucket.find(name)
        if at < 0:
            if difference:
                self.write((place, name, -1, -1), difference.to_bytes(size, "little"))
            return difference
        begin = at + len(name)
        end = bucket.find(_MARK, begin)
        if end < 0:
            end = len(bucket)
        total = int.from_bytes(expanded(bucket[begin:end]), "little") + difference
        if total:
            buckets[place] = b"".join((bucket[:begin], squeezed(total.to_bytes(size, "little")), bucket[end:]))
        else:
            self.write((place, name, at, end), None)
        return total

    def get(self, key: Key) -> bytes | None:
        """The record of a key; None where there is none."""
        return self.read(self.find(key))

    def put(self, key: Key, record: bytes) -> None:
        """Have a key's record be this."""
        self.write(self.find(key), record)

    def pop(self, key: Key) -> bytes | None:
        """Forget a key's record, and give it; None where there is none."""
        slot = self.find(key)
        record = self.read(slot)
        self.write(slot, None)
        return record

    def items(self) -> Iterator[tuple[Key, bytes]]:
        """Every key with its record, in no order."""
        for bucket in self._buckets:
            for each in bucket.split(_MARK)[1:]:
                name, _, record = each.partition(_END)
                yield tuple(part.decode() for part in name.split(_DIVIDE)), expanded(record)

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
