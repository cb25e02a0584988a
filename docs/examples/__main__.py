"""`python docs/examples [NAME…]`: every example, or those named, in one go."""

import sys

import amended_result
import dropped_rows
import present_online
import stale_window
import tiled_window

EXAMPLES = {
    one.__name__: one.main for one in (stale_window, amended_result, tiled_window, dropped_rows, present_online)
}

for name in sys.argv[1:] or EXAMPLES:
    EXAMPLES[name]()
