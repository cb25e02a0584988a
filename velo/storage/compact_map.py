"""A map of many short byte records in few objects, for state that grows with the whole log.

A dictionary spends some 200 bytes on a key and an integer besides their content. Here about eight records share one byte
string, the bucket, in which a record is found by searching for its key: a record costs its own bytes, its key, and seven more.
"""

from collections.abc import Iterator
from typing import Final

Key = tuple[str, ...]
_MARK: Final = b"\xff"
"""Begins an encoded key. No byte of `_MARK`, `_DIVIDE` and `_END` occurs in UTF-8, so none is part of a key. `squeezed`
removes `_MARK` from records, so a search for an encoded key finds only keys."""
_DIVIDE: Final = b"\xfd"
_END: Final = b"\xfe"
RECORDS_A_BUCKET: Final = 8
_FIRST_BUCKETS: Final = 4
_SEVEN_ZEROS: Final = bytes(7)
_THREE_ZEROS: Final = bytes(3)
LEAST_WHOLE: Final = 512
MOST_WHOLE: Final = 4096
"""The recent records are packed once they are more than a quarter of all, but at least 512 and at most 4096."""


class CompactMap:
    """A map from keys (tuples of text) to records (bytes, possibly empty).

    Recently used records are in a dictionary, as packing takes ten times as long as a dictionary look-up; when it is full,
    all of them are packed. Buckets are split one at a time (linear hashing), so no call has to move all records.
    """

    __slots__ = ("_buckets", "_mask", "_packed", "_whole")

    def __init__(self) -> None:
        self._buckets = [b""] * _FIRST_BUCKETS
        self._mask = 2 * _FIRST_BUCKETS - 1
        self._packed = 0
        self._whole: dict[Key, bytes] = {}

    def __len__(self) -> int:
        """The number of records."""
        return self._packed + len(self._whole)

    def get(self, key: Key) -> bytes | None:
        """The record of a key; None where it has none."""
        record = self._whole.get(key)
        if record is None and (record := self._unpacked(key)) is not None:
            self._hold(key, record)
        return record

    def put(self, key: Key, record: bytes) -> None:
        """Set the record of a key."""
        if key in self._whole:
            self._whole[key] = record
        else:
            # a key is in a bucket or in the dictionary, never in both
            self._unpacked(key)
            self._hold(key, record)

    def pop(self, key: Key) -> bytes | None:
        """Remove and return the record of a key; None where it has none."""
        record = self._whole.pop(key, None)
        return self._unpacked(key) if record is None else record

    def add(self, key: Key, difference: int, size: int) -> int:
        """Add to a key's record, a little-endian integer of `size` bytes that is never negative; returns the sum. 0 has no record."""
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
        """Remove and return a key's record from its bucket; None where it is in none."""
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
        # a bucket that was not split off yet is still part of the one with half the mask
        place = hash(name) & self._mask
        return place if place < len(self._buckets) else place & (self._mask >> 1)

    def _split(self) -> None:
        """Add a bucket, and move to it those records of its lower twin whose hash now selects it."""
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
    """A record with its runs of zeros shortened (most bytes of 64-bit sums are 0) and without `_MARK`.

    The bytes fb, fc, fe and ff are escaped by fb first; then fe stands for seven zeros and fc for three.
    """
    escaped = record.replace(b"\xfb", b"\xfb\0").replace(b"\xfc", b"\xfb\1")
    escaped = escaped.replace(b"\xfe", b"\xfb\2").replace(b"\xff", b"\xfb\3")
    return escaped.replace(_SEVEN_ZEROS, b"\xfe").replace(_THREE_ZEROS, b"\xfc")


def expanded(record: bytes) -> bytes:
    """The record that `squeezed` was called with."""
    escaped = record.replace(b"\xfc", _THREE_ZEROS).replace(b"\xfe", _SEVEN_ZEROS)
    if b"\xfb" not in escaped:
        return escaped
    escaped = escaped.replace(b"\xfb\3", b"\xff").replace(b"\xfb\2", b"\xfe")
    return escaped.replace(b"\xfb\1", b"\xfc").replace(b"\xfb\0", b"\xfb")
