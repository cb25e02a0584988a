"""The outcome of a fault: what the user saw, and the recovery commands, run and timed."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.fault_harness import Sandbox

NOTHING: Final = "nothing"


@dataclass(frozen=True, slots=True)
class Recovery:
    """The outcome of one fault: the line seen, the acknowledged data lost, the recovery and its seconds."""

    seen: str
    lost: str
    back: str
    back_seconds: float


def recovered_by(
    sandbox: Sandbox, seen: str, *commands: tuple[object, ...], first: str = "", lost: str = NOTHING
) -> Recovery:
    """Run and time the recovery commands; `first` names a manual step before them."""
    begun = time.perf_counter()
    for command in commands:
        sandbox.succeed(*command)
    seconds = round(time.perf_counter() - begun, 1)
    words = [
        "`velo " + " ".join("FILE" if isinstance(word, Path) else str(word) for word in command) + "`"
        for command in commands
    ]
    return Recovery(seen, lost, ", ".join([*([first] if first else []), *words]), seconds)


def refused(sandbox: Sandbox, *command: object) -> str:
    """The error line of a command that must fail; raises RuntimeError if it does not exit 2 with one line."""
    result = sandbox.velo(*command)
    line = result.last()
    if result.code != 2 or not line.startswith("velo: ") or "Traceback" in result.err:
        raise RuntimeError(f"velo {command} ended with {result.code} and printed {result.err[-1000:]!r}")
    # Markdown: a line that contains backticks needs double ones
    return f"`` {line} ``" if "`" in line else f"`{line}`"
