"""What is told of a fault: the line that was seen, and the way back, run and timed."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.fault_harness import Scene

NOTHING: Final = "nothing"


@dataclass(frozen=True, slots=True)
class Account:
    """One fault: the line that was seen, what was lost of what had been acknowledged, the way back and its seconds."""

    seen: str
    lost: str
    back: str
    back_seconds: float


def brought_back(
    scene: Scene, seen: str, *commands: tuple[object, ...], first: str = "", lost: str = NOTHING
) -> Account:
    """Run the commands that bring it back, timed; `first` says what was done by hand before them."""
    begun = time.perf_counter()
    for command in commands:
        scene.well(*command)
    seconds = round(time.perf_counter() - begun, 1)
    words = [
        "`velo " + " ".join("FILE" if isinstance(word, Path) else str(word) for word in one) + "`" for one in commands
    ]
    return Account(seen, lost, ", ".join([*([first] if first else []), *words]), seconds)


def refused(scene: Scene, *command: object) -> str:
    """The one line of a command that must refuse; raises RuntimeError where it does anything else."""
    said = scene.velo(*command)
    line = said.last()
    if said.code != 2 or not line.startswith("velo: ") or "Traceback" in said.err:
        raise RuntimeError(f"velo {command} ended with {said.code} and said {said.err[-1000:]!r}")
    # what is quoted may quote commands itself
    return f"`` {line} ``" if "`" in line else f"`{line}`"
