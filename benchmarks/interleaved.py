"""Run contenders in alternating rounds, each in its own process, so that background load affects all of them equally."""

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

from benchmarks import CHECKOUT
from benchmarks.stores import peak_mb


@dataclass(frozen=True, slots=True)
class Timing:
    """Median and range over the rounds of a contender, and their number."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, taken: "list[float]") -> "Timing":
        """The timing of one figure per round."""
        return cls(statistics.median(taken), min(taken), max(taken), len(taken))

    def shown(self, form: str = ",.2f") -> str:
        """Median and range as text for a table."""
        return f"{self.median:{form}} ({self.low:{form}}–{self.high:{form}})"


@dataclass(frozen=True, slots=True)
class Contender:
    """A contender: `module:function` with JSON arguments, called once in its own process, in `folder`, for set-up.

    It returns a function that is called once per round and returns JSON, with the measured figure as `taken`.
    """

    call: str
    arguments: Mapping[str, Any]
    folder: Path | None = None


@dataclass(slots=True)
class Found:
    """The rounds of one contender: `taken` of each, the last full answer, and its peak memory in MB."""

    taken: list[float] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)
    peak_mb: float = 0.0
    failed: str | None = None

    @property
    def spread(self) -> Timing:
        """Median and range."""
        return Timing.of(self.taken)


def interleaved(contenders: Mapping[str, Contender], rounds: int) -> dict[str, Found]:
    """Set all contenders up, then call each in turn for `rounds` rounds.

    A contender that raises gets its error as `failed`; the others go on.
    """
    found = {name: Found() for name in contenders}
    with ExitStack() as stack:
        running = {name: stack.enter_context(_Running(contender)) for name, contender in contenders.items()}
        for _ in range(rounds):
            for name, process in running.items():
                result = found[name]
                if result.failed is not None:
                    continue
                answer = process.ask()
                result.failed = answer.get("failed")
                if result.failed is None:
                    result.taken.append(answer["taken"])
                    result.last, result.peak_mb = answer, answer["peak_mb"]
    return found


class _Running:
    """The process of a contender: it answers each input line with one output line."""

    def __init__(self, contender: Contender) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.interleaved", contender.call, json.dumps(dict(contender.arguments))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=contender.folder,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        )

    def __enter__(self) -> "_Running":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self) -> dict[str, Any]:
        """Run one round; an error is returned as `failed`."""
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


@contextmanager
def _errors_reported() -> Iterator[None]:
    try:
        yield
    except Exception as failed:  # noqa: BLE001 any exception of a contender is its result
        _answer({"failed": f"{type(failed).__name__}: {str(failed).splitlines()[0][:160] if str(failed) else ''}"})


def _answer(answer: dict[str, Any]) -> None:
    sys.stdout.write(MARK + json.dumps(answer) + "\n")
    sys.stdout.flush()


def _main() -> None:
    module, function = sys.argv[1].split(":")
    run_round: Callable[[], dict[str, Any]] | None = None
    with _errors_reported():
        run_round = getattr(__import__(module, fromlist=[function]), function)(**json.loads(sys.argv[2]))
    if run_round is None:
        return
    for _ in sys.stdin:
        with _errors_reported():
            answer = run_round()
            _answer({"peak_mb": peak_mb()} | answer)


if __name__ == "__main__":
    _main()
