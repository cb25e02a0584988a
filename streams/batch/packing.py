"""Several running totals in one 128-bit integer, so that one window sum computes them all.

Addition is linear, so packed totals add and cancel like their parts. Every prefix of a key's history has totals of zero or
more (a start is retracted only after it was added), so no part borrows from its neighbour and all can be unpacked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

COUNT_BITS: Final = 24
"""Bits of a count: up to 16.7 million starts of one key."""
BILLIONTHS_BITS: Final = 63
"""Bits of a sum of `_e9` measures: up to 9.2 billion starts of one key."""
PACK_BITS: Final = 126


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of a measure's total: its pack, its first bit, and its number of bits."""

    pack: int
    shift: int
    bits: int

    def unpacked(self, pack: str) -> str:
        """Return the SQL of the total, given that of the pack."""
        shifted = f"({pack} >> {self.shift})" if self.shift else pack
        return f"CAST({shifted} & {2**self.bits - 1}::HUGEINT AS BIGINT)"


@dataclass(frozen=True, slots=True)
class Packing:
    """The slots of a set of measures."""

    slots: dict[str, Slot]

    @classmethod
    def of(cls, measures: Sequence[str]) -> "Packing":
        """Assign slots to measures by first fit, in the given order."""
        slots: dict[str, Slot] = {}
        used: list[int] = []
        for measure in dict.fromkeys(measures):
            bits = BILLIONTHS_BITS if measure.endswith("_e9") else COUNT_BITS
            pack = next((at for at, taken in enumerate(used) if taken + bits <= PACK_BITS), len(used))
            if pack == len(used):
                used.append(0)
            slots[measure] = Slot(pack, used[pack], bits)
            used[pack] += bits
        return cls(slots)

    @property
    def packs(self) -> int:
        """The number of packs."""
        return 1 + max(slot.pack for slot in self.slots.values())

    def packed(self, pack: int) -> str:
        """Return the SQL of one pack of a start's measures; null counts as 0."""
        return " + ".join(
            f"(coalesce({measure}, 0)::HUGEINT << {slot.shift})" if slot.shift else f"coalesce({measure}, 0)::HUGEINT"
            for measure, slot in self.slots.items()
            if slot.pack == pack
        )
