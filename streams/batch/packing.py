"""Several running totals in one 128-bit integer, so that one window sum carries them all.

Adding is linear, so packed totals add and cancel like their parts. Every prefix of a key's history has totals of zero
or more (a start is taken out only after it was put in), so the parts can always be told apart again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

COUNT_BITS: Final = 24
"""A total of ones: up to 16.7 million starts of one key."""
BILLIONTHS_BITS: Final = 63
"""A total of `_e9` measures: up to 9.2 billion starts of one key."""
PACK_BITS: Final = 126


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a measure's total lies: which pack, and from which bit, how many bits."""

    pack: int
    shift: int
    bits: int

    def unpacked(self, pack: str) -> str:
        """The SQL of the total, given that of the pack."""
        shifted = f"({pack} >> {self.shift})" if self.shift else pack
        return f"CAST({shifted} & {2**self.bits - 1}::HUGEINT AS BIGINT)"


@dataclass(frozen=True, slots=True)
class Packing:
    """The slots of a set of measures."""

    slots: dict[str, Slot]

    @classmethod
    def of(cls, measures: Sequence[str]) -> "Packing":
        """First fit, in the order given."""
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
        """How many packs it takes."""
        return 1 + max(slot.pack for slot in self.slots.values())

    def packed(self, pack: int) -> str:
        """The SQL of one pack of a start's measures (nulls count nothing)."""
        return " + ".join(
            f"(coalesce({measure}, 0)::HUGEINT << {slot.shift})" if slot.shift else f"coalesce({measure}, 0)::HUGEINT"
            for measure, slot in self.slots.items()
            if slot.pack == pack
        )
