"""Kill a command with SIGKILL at each of its writes. Part of `velo bench faults`.

The command first runs undisturbed, and its writes are recorded, each with the line of code that makes it: a file opened for
writing, moved, linked, truncated or removed, a folder made or removed, bytes written or synced. Then it runs again for each
write, on a fresh copy of the store, and is killed just before it, or halfway through writing bytes. After each kill readers
must see the store as before the command or as after it, and the recovery commands must lead to the same state as without a
kill.
"""

import inspect
import os
import shutil
import signal
import stat
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow.parquet as pq

from benchmarks import CHECKOUT
from benchmarks.stores import OURS, forkserver
from velo.storage import atomic_files, part_sums, table_versions
from velo.storage.store import Home
from velo.streams.batch import build, staging

CODE: Final = str(CHECKOUT) + os.sep
BEYOND: Final = 1_000_000_000
"""A write number that no command reaches."""
FEW: Final = 12
SAMPLE: Final = 4
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PATHS: Final = {
    "os.rename": 2, "os.link": 2, "os.symlink": 2, "os.mkdir": 1, "os.rmdir": 1, "os.remove": 1, "os.truncate": 1,
}  # fmt: skip
"""Python audit events that change files, and the number of their arguments that are paths."""

_NO_SITE: Final = (__file__, atomic_files.__file__)
"""Modules whose lines do not identify a write: their caller's line does."""

Work = Callable[[], None]
Seen = Callable[[Home], Any]
Choice = Callable[[Sequence[str]], list[int]]
"""Given the writes of a command, the numbers of those at which it is killed."""


@dataclass(frozen=True, slots=True)
class KillPlan:
    """A command to kill, the commands that recover, and a function of what readers see in a store (compared with ==).

    `partly(found, before, after)` says whether a state between the two is valid too, such as a load cut after a record.
    """

    command: Work
    recovery: Sequence[Work]
    seen: Seen
    partly: Callable[[Any, Any, Any], bool] = lambda found, before, after: False


@dataclass(frozen=True, slots=True)
class Killed:
    """The number of writes of a command, and of those at which it was killed."""

    writes: int
    kills: int


def every(writes: Sequence[str]) -> list[int]:
    """All writes, but for one that follows a sync: the process that is killed there leaves what it left at the sync."""
    return [at for at in range(len(writes)) if at == 0 or not writes[at - 1].startswith("fsync")]


def visible_writes(writes: Sequence[str]) -> list[int]:
    """The first write of each line of code that hides something from readers or leaves it half written.

    All writes if the command makes few.
    """
    if len(writes) <= FEW:
        return every(writes)
    visible = ("rename", "remove", "symlink", "exchange", "half")
    return [at for at, write in enumerate(writes) if write.startswith(visible) and write not in writes[:at]]


def few(writes: Sequence[str]) -> list[int]:
    """At most `SAMPLE` of the visible writes, spread evenly, with the first and the last."""
    numbers = visible_writes(writes)
    steps = min(SAMPLE, len(numbers))
    return [numbers[round(step * (len(numbers) - 1) / max(steps - 1, 1))] for step in range(steps)]


def killed(plan: KillPlan, prepared: Home, folder: Path, chosen: Choice = every) -> Killed:
    """Kill a plan's command at each of the `chosen` writes, each time on a copy of a prepared store.

    Raises RuntimeError, naming the write, if readers see an invalid state or the recovery commands do not recover it.
    """
    folder.mkdir()
    undisturbed = _copied(prepared, folder / "undisturbed")
    before = plan.seen(undisturbed)
    writes = _noted(plan.command, undisturbed, folder)
    after = plan.seen(undisturbed)
    for work in plan.recovery:
        _done(work, undisturbed)
    end = plan.seen(undisturbed)
    kills = 0
    for number in chosen(writes):
        home = _copied(prepared, folder / f"killed-{number}")
        code = _ran(plan.command, home, number)
        # the number of writes varies between runs: threads share some of them
        if code not in (0, -signal.SIGKILL):
            raise RuntimeError(f"{writes[number]} (write {number}): the command ended with {code}")
        kills += code != 0
        try:
            _verify(plan, home, before, after, end)
        except Exception as broken:
            raise RuntimeError(f"killed at write {number} of {len(writes)}, {writes[number]}: {broken}") from broken
        shutil.rmtree(home.root)
    shutil.rmtree(folder)
    return Killed(len(writes), kills)


def _verify(plan: KillPlan, home: Home, before: Any, after: Any, end: Any) -> None:
    found = plan.seen(home)
    if found not in (before, after) and not plan.partly(found, before, after):
        raise RuntimeError(f"readers see {found}, which is neither {before} nor {after}")
    for work in plan.recovery:
        _done(work, home)
    found = plan.seen(home)
    if found != end:
        raise RuntimeError(f"the recovery leads to {found}, not to {end}")
    if left := strays(home):
        raise RuntimeError(f"{', '.join(left)} is left behind")


def tables(home: Home) -> dict[str, tuple[int, int]]:
    """The state of the tables as readers see it: rows and the sum of their hashes, by folder of the current generation."""
    generation = table_versions.current(home)
    if generation is None:
        return {}
    table_versions.manifest_of(generation)
    part_sums.refuse_damaged(generation)
    seen = {}
    with duckdb.connect() as connection:
        for folder in sorted(path for path in generation.iterdir() if path.is_dir()):
            scan = staging.parquet(sorted(folder.glob("[!.]*.parquet")))
            columns = [str(name) for name, *_ in connection.execute(f"DESCRIBE FROM {scan}").fetchall()]
            row = ", ".join(f'"{name}"' for name in sorted(set(columns) - {"created_timestamp"}))
            query = f"SELECT count(*), sum(hash({row})::HUGEINT) FROM {scan}"  # noqa: S608 our own names
            [(rows, hashed)] = connection.execute(query).fetchall()
            seen[folder.name] = (rows, int(hashed or 0))
    return seen


def strays(home: Home) -> list[str]:
    """Files and folders that a killed command left and that nothing removes."""
    left = [path for path in home.root.rglob(".*") if path.suffix in (".tmp", ".parquet", ".duckdb")]
    left += home.batch.glob("scratch-*")
    named = {path.name for kind in staging.KINDS for path in staging.parts_of(home, kind)}
    left += [path for path in home.batch.glob("*.parquet") if path.name not in named]
    left += set(home.generations.glob("[0-9]*")) - table_versions.kept(home)
    return sorted(str(path.relative_to(home.root)) for path in left)


# In the process of the command


class WriteHook:
    """Counts this process's writes below a folder and kills the process at one of them. It cannot be removed."""

    def __init__(self, root: str, dies_at: int) -> None:
        self._root, self._dies_at = root, dies_at
        self._changing = threading.RLock()
        self.writes: list[str] = []

    def install(self) -> None:
        """Start to count."""
        fsync, write, write_table, write_view = os.fsync, os.write, pq.write_table, build.write_rows

        def syncing(descriptor: Any) -> None:
            self._met("fsync")
            fsync(descriptor)

        def writing(descriptor: int, content: Any) -> int:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                self._met("write")
                self._met("half a write", lambda: write(descriptor, bytes(content)[: len(content) // 2]))
            return write(descriptor, content)

        def writing_table(table: Any, where: Any, **options: Any) -> None:
            write_table(table, where, **options)
            self._met("half a table", lambda: _halve(Path(where)))

        def writing_view(tables: Any, part: Path, **options: Any) -> int:
            rows = write_view(tables, part, **options)
            self._met("half a view", lambda: _halve(part))
            return rows

        os.fsync, os.write = syncing, writing  # type: ignore[assignment]
        pq.write_table, build.write_rows = writing_table, writing_view
        sys.addaudithook(self._audited)

    def _audited(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes) and flags & _WRITING and self._below(path):
                self._met("open")
        elif event in _PATHS:
            paths = arguments[: _PATHS[event]]
            # a relative path belongs to an open folder: a tree that is being removed
            if any(
                isinstance(path, int) or self._below(path) or not Path(os.fsdecode(path)).is_absolute()
                for path in paths
            ):
                self._met(event.removeprefix("os."))
        elif event == "ctypes.dlsym" and arguments[1] in ("renameat2", "renamex_np"):
            self._met("exchange")

    def _below(self, path: Any) -> bool:
        return os.fsdecode(path).startswith(self._root)

    def _met(self, what: str, half: Callable[[], Any] = lambda: None) -> None:
        # `half` itself writes; other threads must not write after it
        with self._changing:
            if len(self.writes) > self._dies_at:
                return
            self.writes.append(f"{what} at {_site()}")
            if len(self.writes) > self._dies_at:
                half()
                os.kill(os.getpid(), signal.SIGKILL)


def _halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _site() -> str:
    """The innermost line of our code that identifies the write."""
    frame = inspect.currentframe()
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(CODE) and path not in _NO_SITE and os.sep + ".venv" + os.sep not in path:
            return f"{path.removeprefix(CODE)}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


def _in_process(work: Work, root: str, dies_at: int | None, notes: str | None) -> None:
    with (Path(root).parent / "output").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    for name in OURS:
        os.environ.pop(name, None)
    os.environ["VELO_HOME"] = root
    hook = None if dies_at is None else WriteHook(root + os.sep, dies_at)
    if hook is not None:
        hook.install()
    try:
        work()
    finally:
        if hook is not None and notes is not None:
            Path(notes).write_text("\n".join(hook.writes))


def _ran(work: Work, home: Home, dies_at: int | None, notes: Path | None = None) -> int:
    arguments = (work, str(home.root), dies_at, None if notes is None else str(notes))
    process = forkserver().Process(target=_in_process, args=arguments)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _noted(work: Work, home: Home, folder: Path) -> list[str]:
    notes = folder / "writes"
    code = _ran(work, home, BEYOND, notes)
    if code:
        raise RuntimeError(f"undisturbed, the command ended with {code}: {_output(home)}")
    return notes.read_text().splitlines()


def _done(work: Work, home: Home) -> None:
    code = _ran(work, home, None)
    if code:
        raise RuntimeError(f"a recovery command ended with {code}: {_output(home)}")


def _output(home: Home) -> str:
    return (home.root.parent / "output").read_text()[-1000:]


def _copied(prepared: Home, root: Path) -> Home:
    shutil.copytree(prepared.root, root, symlinks=True)
    return Home(root)
