"""The commands of `velo bench`: time, memory and faults on this machine. They print figures and assert nothing about speed.

`whole` runs the parts in `parts_batch`, `parts_live` and `parts_redis`; `interleaved` runs contenders in turn, each in its own
process, and `page` shows the results. `drawn` loads the pages of the desk for `serve`. `faults` injects the faults of `fault_scenarios` into copies of one store, with
`fault_harness`, and kills a stream with `crash_test`. The other modules are named after their command.
"""

from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parents[1]
"""The root of the checkout, which child processes need on their path."""
