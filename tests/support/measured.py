"""Run `velo` and leave in a file by how much its memory grew (KB): `python -m tests.support.measured FILE ARGUMENT…`.

What a forked process shares with the one it came from is not counted.
"""

import re
import sys
from pathlib import Path


def held_kb(what: str) -> int:
    """A line of this process's memory: VmRSS now, VmHWM at its most."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


if __name__ == "__main__":
    from velo.cli import main

    begun, grown = held_kb("VmRSS"), Path(sys.argv.pop(1))
    try:
        main()
    finally:
        grown.write_text(str(held_kb("VmHWM") - begun))
