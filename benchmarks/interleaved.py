"""Contenders side by side: each in a process of its own, called in turn, round after round, so that what else the machine
does falls on all alike.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.stores import peak_mb
from feature_repo.feast_store import REPO


@dataclass(frozen=True, slots=True)
class Timing:
    """What a contender took: the median of the rounds, their range, and how many there were."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, taken: "list[float]") -> "Timing":
        """The spread of one figure a round."""
        return cls(statistics.median(taken), min(taken), max(taken), len(taken))

    def shown(self, form: str = ",.2f") -> str:
        """Median and range, as a table shows them."""
        return f"{self.median:{form}} ({self.low:{form}}–{self.high:{form}})"


@dataclass(frozen=True, slots=True)
class Contender:
    """`module:function` with JSON arguments, called once in a process of its own to get ready; what it returns is called
    once a round and returns JSON, with the figure that was measured as `taken`. `folder` is where the process runs."""

    call: str
    arguments: Mapping[str, Any]
    folder: Path | None = None


@dataclass(slots=True)
class Found:
    """What the rounds of one contender gave: `taken` of each, the last answer whole, and its process's peak MB."""

    taken: list[float] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)
    peak_mb: float = 0.0
    failed: str | None = None

    @property
    def spread(self) -> Timing:
        """Median and range."""
        return Timing.of(self.taken)


def interleaved(contenders: Mapping[str, Contender], rounds: int, *, warm: int = 0) -> dict[str, Found]:
    """Get all ready, then call each in turn, so many rounds after `warm` that are not counted.

    One that fails is told with what it said, and the others go on.
    """
    found = {name: Found() for name in contenders}
    with ExitStack() as stack:
        running = {name: stack.enter_context(_Running(one)) for name, one in contenders.items()}
        for number in range(-warm, rounds):
            for name, process in running.items():
                of = found[name]
                if of.failed is not None:
                    continue
                answer = process.ask()
                of.failed = answer.get("failed")
                if of.failed is None and number >= 0:
                    of.taken.append(answer["taken"])
                    of.last, of.peak_mb = answer, answer["peak_mb"]
    return found


class _Running:
    """A contender's process, which answers one line for one line."""

    def __init__(self, one: Contender) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.interleaved", one.call, json.dumps(dict(one.arguments))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=one.folder,
            env=_environ(),
        )

    def __enter__(self) -> "_Running":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self) -> dict[str, Any]:
        """One call; what failed is told as such."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return {"failed": f"its process ended with {self._process.wait()}"}
        for line in self._process.stdout:
            if line.startswith(MARK):
                answer: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return answer
        return {"failed": f"its process ended with {self._process.wait()}"}


MARK = "answer "


def _environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPO.parent)}


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except Exception as failed:  # noqa: BLE001 whatever a contender raises is its result
        _say({"failed": f"{type(failed).__name__}: {str(failed).splitlines()[0][:160] if str(failed) else ''}"})


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(MARK + json.dumps(answer) + "\n")
    sys.stdout.flush()


def _main() -> None:
    module, function = sys.argv[1].split(":")
    ready: Callable[[], dict[str, Any]] | None = None
    with _told():
        ready = getattr(__import__(module, fromlist=[function]), function)(**json.loads(sys.argv[2]))
    if ready is None:
        return
    for _ in sys.stdin:
        with _told():
            answer = ready()
            _say({"peak_mb": peak_mb()} | answer)


if __name__ == "__main__":
    _main()
