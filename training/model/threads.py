"""The number of threads of a fit: as many as there are free cores. The bits of a model do not depend on it.

Each part of a model (the trees of a seed, the logit) is fitted on one thread. LightGBM adds in another order with each number of
threads, and the threads of one part wait for each other at every step.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any, Final, NamedTuple

_STAT: Final = Path("/proc/stat")
_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
_LEAST_TICKS: Final = 50.0
"""The shortest interval to judge the load by, in 1/100 s summed over all cores."""
_MARGIN: Final = 0.25
"""The part of a core that others may use and that counts as free."""


class CpuReading(NamedTuple):
    """Cumulative CPU time in 1/100 s: of all cores, the busy part of it, and that of this process."""

    total: float
    busy: float
    own: float


def allowed_cores() -> int:
    """Cores that this process may use: its affinity, or its control group's quota if that is less; at least 1."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        cores = os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def reading() -> CpuReading | None:
    """CPU time used so far; None where the system does not say."""
    try:
        ticks = [float(value) for value in _STAT.read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    if len(ticks) < 5:
        return None
    own = os.times()
    idle = ticks[3] + ticks[4]
    return CpuReading(sum(ticks), sum(ticks) - idle, 100.0 * (own.user + own.system))


def free_threads(before: CpuReading, after: CpuReading, cores: int, allowed: int) -> int:
    """Threads that find a core free, from the load of other processes between two readings; 1 to `allowed`."""
    elapsed = after.total - before.total
    if elapsed <= 0.0:
        return 1
    others = max(0.0, (after.busy - before.busy) - (after.own - before.own)) / elapsed * cores
    return max(1, min(allowed, int(cores - others + _MARGIN)))


_first = reading()
_last = [_first, _first]
"""The last two readings far enough apart."""


def fitting_threads() -> int:
    """Threads for the next fit, from the load since an earlier call; the allowed cores where the load is not known."""
    allowed, now = allowed_cores(), reading()
    if now is None or _last[1] is None or _last[0] is None:
        return allowed
    if now.total - _last[1].total >= _LEAST_TICKS:
        _last[0], _last[1] = _last[1], now
    if _last[1].total - _last[0].total < _LEAST_TICKS:
        return 1
    return free_threads(_last[0], _last[1], os.cpu_count() or 1, allowed)


@contextmanager
def numeric_threads(openmp: int | None = None) -> Iterator[None]:
    """Run linear algebra on one thread, and OpenMP on `openmp` threads if given, within the block.

    Our matrices are narrow: a second thread wins little on an idle machine and loses much on a busy one.
    """
    from threadpoolctl import threadpool_limits

    limits = {"blas": 1} if openmp is None else {"blas": 1, "openmp": openmp}
    with threadpool_limits(limits=limits):
        yield


Fit = Callable[[Event], Any]
"""A part of a model: fits on one thread, and raises `CancelledError` soon after the event is set."""


def fitted_together(fits: Sequence[Fit], threads: int) -> list[Any]:
    """Fit independent parts of a model, up to `threads` at the same time; returns their results in order.

    Parts share no work, so two cores halve the time. If a part fails, or the user interrupts, the others stop.
    """
    stopped = Event()
    if threads < 2:
        return [fit(stopped) for fit in fits]
    with ThreadPoolExecutor(min(threads, len(fits)), "velo-fit") as pool:
        futures = [pool.submit(fit, stopped) for fit in fits]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
            return [future.result() for future in futures]
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
